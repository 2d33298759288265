"""The first process of every worker: starts the trainer, passes signals on, and ends with the trainer's exit code."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, TextIO

from job import config as configs
from job import process, telemetry
from job.errors import Exit
from job.telemetry import Record

if TYPE_CHECKING:
    import subprocess

    from job.cluster import Cluster
    from job.config import Config

CHATTER_LINES = 200
EXPLAINED = set(Exit) - {Exit.BUG, Exit.INTERRUPTED}  # what a trainer ends with after a sentence that says it all


def supervise(config: Config, cluster: Cluster) -> int:
    """Run this worker's trainer to its end, its records going to standard output as logfmt.

    What TensorFlow writes on standard error is kept, and shown when the trainer ends by a bug, an unknown code
    or an unasked signal.

    Returns:
        The exit code: the trainer's, 75 where it was told to stop, 128 and the signal's number where one killed it.
    """
    reading, writing = os.pipe()
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **cluster.environment(), telemetry.PIPE: str(writing)}
    if config.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = "-1"  # or TensorFlow looks for drivers
    command = [sys.executable, "-m", "job.trainer", *configs.argv(config)]
    trainer: subprocess.Popen[str] | None = None
    told_to_stop = False

    def pass_on(number: int, _: object) -> None:
        nonlocal told_to_stop
        told_to_stop = True
        if trainer:
            trainer.send_signal(number)

    # Before the start: a container's first process is not even ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, pass_on)
    trainer = process.start(command, env=environment, pass_fds=[writing], stdout=process.NULL, stderr=process.PIPE)
    if told_to_stop:
        trainer.terminate()
    os.close(writing)
    chatter: deque[str] = deque(maxlen=CHATTER_LINES)
    listener = threading.Thread(target=keep, args=(trainer.stderr, chatter), daemon=True)
    listener.start()
    with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
        for record in telemetry.read(pipe):
            show(record)
    code = trainer.wait()
    if code < 0 and told_to_stop:
        return Exit.TRY_AGAIN
    if code < 0:
        code = 128 - code
        message = f"the trainer was killed by {process.killed_by(code)}"
        last = Record(time.time(), cluster.run, cluster.rank, "failed", cluster.workers)
        show(dataclasses.replace(last, code=code, reason="killed", message=message))
    if code not in EXPLAINED:
        listener.join()
        sys.stderr.writelines(chatter)
    return code


def show(record: Record) -> None:
    """Write a record to standard output."""
    telemetry.say(telemetry.to_logfmt(record))


def keep(stream: TextIO, lines: deque[str]) -> None:
    """Read a stream to its end, keeping the last lines."""
    with stream:
        lines.extend(stream)
