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
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO, TypeAlias, cast

from job import config as configs
from job import telemetry
from job.cluster import LOCAL_UID, Cluster
from job.errors import MEANINGS, PUBLISHED, Exit, JobError
from job.local import display as progress
from job.supervisor.restart_policy import RestartPolicy
from job.system import cpus, process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from job.config import Config
    from job.local.display import Lines
    from job.telemetry import Record

# What a worker said: a record, a line on standard error, or its exit code; an error is what this process was asked.
# A SimpleQueue, for a signal's handler may put into it whatever it interrupts.
Events: TypeAlias = "queue.SimpleQueue[tuple[int, Record | str | int | JobError]]"

ANY_PORT = "127.0.0.1:0"  # the supervisor chooses a free one, each time anew
STOP_S = 1.5  # from SIGTERM to SIGKILL: Ctrl-C is to be over in 2 s
TOLD_S = 9.0  # and where this process was told by SIGTERM: `docker stop` kills after 10 s
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
    workers: dict[int, subprocess.Popen[str]] = {}
    events: Events = queue.SimpleQueue()
    asked: int | None = None

    def stop(number: int, _: FrameType | None) -> None:
        # Raised here, the error could come between the start of a worker and the note that there is one.
        nonlocal asked
        if asked:
            kill(workers)
        asked = number
        code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.TRY_AGAIN
        events.put((0, JobError(code, "stopped", MEANINGS[code])))

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    shares = cpus.shares(config.workers)
    with addresses(config.workers) as supervisors:
        members = [
            Cluster(name, LOCAL_UID, rank, (ANY_PORT,) * config.workers, supervisors) for rank in range(config.workers)
        ]

        def begin(rank: int) -> None:
            workers[rank] = start(config, members[rank], shares[rank])
            threading.Thread(target=listen, args=(rank, workers[rank], events), daemon=True).start()

        try:
            for rank in range(config.workers):
                begin(rank)
            with display:
                code = follow(config.workers, events, display, begin)
        finally:
            end(workers, TOLD_S if asked == signal.SIGTERM else STOP_S)
    if code in PUBLISHED:
        display.summary(code)
    return code


@contextmanager
def addresses(count: int) -> Iterator[tuple[str, ...]]:
    """The supervisors' addresses, on free ports, which nobody else is given while a supervisor is replaced.

    Bound sockets that do not listen hold them; a supervisor may bind and listen beside, since both set SO_REUSEPORT.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("127.0.0.1", 0))
        yield tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in held)


def start(config: Config, cluster: Cluster, share: list[int]) -> subprocess.Popen[str]:
    """Start one worker's supervisor, in a session of its own: a terminal's Ctrl-C is for this process alone."""
    arguments = configs.argv(dataclasses.replace(config, name="", workers=1))
    environment = {**os.environ, **cluster.environment()}
    if config.device == "gpu":
        environment["CUDA_VISIBLE_DEVICES"] = own_gpu(cluster.rank, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return process.start(
        [sys.executable, "-m", "job", "train", *arguments],
        environment,
        share,
        stdout=process.PIPE,
        stderr=process.PIPE,
        start_new_session=True,
    )


def own_gpu(rank: int, visible: str | None) -> str:
    """The one GPU that a worker is to see, as in a pod: NCCL refuses two workers on one.

    Args:
        rank: the worker's.
        visible: CUDA_VISIBLE_DEVICES, where it bounds what may be taken.

    Returns:
        The worker's CUDA_VISIBLE_DEVICES; -1, which is none, where there are too few.
    """
    if visible is None:
        return str(rank)  # CUDA passes over a number that it does not have
    gpus = visible.split(",")
    return gpus[rank] if rank < len(gpus) else "-1"


def follow(workers: int, events: Events, display: Lines, begin: Callable[[int], None]) -> int:
    """Show the workers' records until all have ended, starting those again that may succeed then.

    Args:
        workers: how many there are.
        events: what they say.
        display: shows it.
        begin: starts a worker again.

    Returns:
        Rank 0's exit code if it published, else that of the worker that failed first.

    Raises:
        JobError: what this process was asked to end with.
    """
    failures: dict[int, Record] = {}
    codes: dict[int, int] = {}
    restarts = [RestartPolicy() for _ in range(workers)]
    deadline = float("inf")
    while len(codes) < workers:
        try:
            rank, event = events.get(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
        except queue.Empty:
            break
        if isinstance(event, JobError):
            raise event
        if isinstance(event, int):
            may_succeed = event == Exit.TRY_AGAIN or event > 128
            if may_succeed and deadline == float("inf") and restarts[rank].next_delay() is not None:
                display.restarted(rank, event, failures.pop(rank, None))
                begin(rank)
                continue
            codes[rank] = event
            if event != 0 or rank == 0:
                deadline = min(deadline, time.monotonic() + END_S)
        elif isinstance(event, str):
            display.note(rank, event)
        elif event.phase == "failed":
            failures[rank] = event
        else:
            restarts[rank].record_step(event.step or 0)
            display.show(event)
    if codes.get(0) in PUBLISHED:
        return codes[0]
    rank = next(r for r in codes if codes[r])  # the others may only have followed it
    display.failed(rank, codes[rank], failures.get(rank))
    return codes[rank]


def listen(rank: int, worker: subprocess.Popen[str], events: Events) -> None:
    """Put what a worker says, and then its exit code, into the queue."""

    def notes() -> None:
        for line in cast("TextIO", worker.stderr):
            events.put((rank, line.rstrip("\n")))

    beside = threading.Thread(target=notes, daemon=True)
    beside.start()
    for record in telemetry.read_records(cast("TextIO", worker.stdout)):
        events.put((rank, record))
    beside.join()
    code = worker.wait()
    events.put((rank, code if code >= 0 else 128 - code))


def end(workers: dict[int, subprocess.Popen[str]], seconds: float) -> None:
    """Have every worker leave within so many seconds, killing those that take longer."""
    for worker in workers.values():
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + seconds
    for worker in workers.values():
        with suppress(subprocess.TimeoutExpired):
            worker.wait(max(0.0, deadline - time.monotonic()))
    kill(workers)
    for worker in workers.values():
        worker.wait()


def kill(workers: dict[int, subprocess.Popen[str]]) -> None:
    """Kill every worker that is still there, supervisor and trainer: they are a process group."""
    for worker in workers.values():
        if worker.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
