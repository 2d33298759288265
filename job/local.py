"""The same worker N times on this machine, each with its own supervisor, as a Job would run them in pods."""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO, TypeAlias, cast

from job import config as configs
from job import cpus, process, progress, telemetry
from job.cluster import LOCAL_UID, Cluster
from job.errors import MEANINGS, Exit, JobError

if TYPE_CHECKING:
    from types import FrameType

    from job.config import Config
    from job.progress import Lines
    from job.telemetry import Record

# What a worker said: a record, a line on standard error, or its exit code; an error is what this process was asked.
# A SimpleQueue, for a signal's handler may put into it whatever it interrupts.
Events: TypeAlias = "queue.SimpleQueue[tuple[int, Record | str | int | JobError]]"

PUBLISHED = {Exit.OK, Exit.REJECTED}
SYMPTOMS = {"peer-lost", "stopped-by-peer"}  # reasons of a worker that only followed another
STOP_S = 1.5  # from SIGTERM to SIGKILL: Ctrl-C is to be over in 2 s
CAUSE_S = 3.0  # how long to wait for the worker that failed when another says that it lost a peer
END_S = 1.0  # how long a worker may live on when another's end has told how it went; rank 0 may be about to publish


def run(config: Config) -> int:
    """Train with config.workers workers on this machine and show how it goes.

    Returns:
        The exit code: rank 0's verdict, or that of the worker that failed first.

    Raises:
        JobError: 130 after Ctrl-C, 75 after SIGTERM.
    """
    name = config.name or f"{config.dataset.replace('_', '-')}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    configs.check_name(name, config.workers)
    display = progress.display(config, name)
    workers: list[subprocess.Popen[str]] = []
    events: Events = queue.SimpleQueue()
    asked = False

    def stop(number: int, _: FrameType | None) -> None:
        # Raised here, the error could come between the start of a worker and the note that there is one.
        nonlocal asked
        if asked:
            kill(workers)
        asked = True
        code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.TRY_AGAIN
        events.put((0, JobError(code, "stopped", MEANINGS[code])))

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        for cluster, share in zip(clusters(name, config.workers), cpus.shares(config.workers), strict=True):
            workers.append(start(config, cluster, share))
        with display:
            for rank, worker in enumerate(workers):
                threading.Thread(target=listen, args=(rank, worker, events), daemon=True).start()
            code = follow(len(workers), events, display)
    finally:
        end(workers)
    if code in PUBLISHED:
        display.summary(code)
    return code


def clusters(name: str, count: int) -> list[Cluster]:
    """The identities of the workers, on ports that are free."""
    with ExitStack() as stack:
        # All are held until all are found, or the same one would be found twice.
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2 * count)]
        addresses = [f"127.0.0.1:{held.getsockname()[1]}" for held in sockets]
    tensorflow, supervisors = tuple(addresses[:count]), tuple(addresses[count:])
    return [Cluster(name, LOCAL_UID, rank, tensorflow, supervisors) for rank in range(count)]


def start(config: Config, cluster: Cluster, share: list[int]) -> subprocess.Popen[str]:
    """Start one worker's supervisor, in a session of its own: a terminal's Ctrl-C is for this process alone."""
    arguments = configs.argv(dataclasses.replace(config, name="", workers=1))
    return process.start(
        [sys.executable, "-m", "job", "train", *arguments],
        cpus=share,
        env={**os.environ, **cluster.environment()},
        stdout=process.PIPE,
        stderr=process.PIPE,
        start_new_session=True,
    )


def follow(workers: int, events: Events, display: Lines) -> int:
    """Show the workers' records until all have ended, or one failed and the others had time to tell the first cause.

    Returns:
        Rank 0's exit code if it published, else that of the worker that failed first.

    Raises:
        JobError: what this process was asked to end with.
    """
    failures: dict[int, Record] = {}
    codes: dict[int, int] = {}
    deadline = float("inf")
    while len(codes) < workers:
        try:
            rank, event = events.get(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
        except queue.Empty:
            break
        if isinstance(event, JobError):
            raise event
        if isinstance(event, int):
            codes[rank] = event
            if codes.get(0) in PUBLISHED:
                deadline = time.monotonic() + END_S
            elif event != 0:
                known = rank in failures and failures[rank].reason not in SYMPTOMS
                deadline = min(deadline, time.monotonic() + (END_S if known else CAUSE_S))
        elif isinstance(event, str):
            display.note(rank, event)
        elif event.phase == "failed":
            failures[rank] = event
        else:
            display.show(event)
    if codes.get(0) in PUBLISHED:
        return codes[0]
    rank = cause(codes, failures)
    display.failed(rank, codes[rank], failures.get(rank))
    return codes[rank]


def cause(codes: dict[int, int], failures: dict[int, Record]) -> int:
    """The worker that failed first. A lost peer is a symptom: one that says something else was before."""
    return min((r for r in codes if codes[r]), key=lambda r: r not in failures or failures[r].reason in SYMPTOMS)


def listen(rank: int, worker: subprocess.Popen[str], events: Events) -> None:
    """Put what a worker says, and then its exit code, into the queue."""

    def notes() -> None:
        for line in cast("TextIO", worker.stderr):
            events.put((rank, line.rstrip("\n")))

    beside = threading.Thread(target=notes, daemon=True)
    beside.start()
    for record in telemetry.read(cast("TextIO", worker.stdout)):
        events.put((rank, record))
    beside.join()
    code = worker.wait()
    events.put((rank, code if code >= 0 else 128 - code))


def end(workers: list[subprocess.Popen[str]]) -> None:
    """Have every worker leave, killing those that take too long."""
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + STOP_S
    for worker in workers:
        with suppress(subprocess.TimeoutExpired):
            worker.wait(max(0.0, deadline - time.monotonic()))
    kill(workers)
    for worker in workers:
        worker.wait()


def kill(workers: list[subprocess.Popen[str]]) -> None:
    """Kill every worker that is still there, supervisor and trainer: they are a process group."""
    for worker in workers:
        if worker.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
