"""Several workers on this machine, each with its own supervisor, as a Job runs them in pods."""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
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
from job.local.controller import Controller
from job.local.display import choose_display
from job.supervisor.forking import CHANNEL, ForkServer
from job.system import cgroup, ports, process
from job.telemetry import Record

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

    from job.config import Config
    from job.local.display import Lines

# What comes from a worker: a record, a line of its standard error, or its exit code. None starts it again, and a
# JobError makes this process exit. A SimpleQueue, because a signal handler can safely put into it at any point.
Events: TypeAlias = "queue.SimpleQueue[tuple[int, Record | str | int | JobError | None]]"

CTRL_C_S = 1.5  # from Ctrl-C to SIGKILL: the command has to end within 2 s
SIGTERM_S = 9.0  # the same after SIGTERM, and after the terminal was closed: `docker stop` kills after 10 s
END_S = 1.0  # how long workers may run after another's exit decided the run; rank 0 may be about to publish


def run(config: Config) -> int:
    """Train with config.workers workers on this machine, and show their progress.

    Returns:
        The exit code: rank 0's if it published, else that of the worker whose failure ended the run.

    Raises:
        JobError: 130 after Ctrl-C; after SIGTERM 75, or the code with which rank 0 could not save its last step.
    """
    name = config.name or new_name(config.dataset)
    configs.check_name(name, config.workers)
    display = choose_display(config, name)
    with reserve_addresses(config.workers) as addresses, ForkServer(config, new_session=True) as fork_server:
        workers = Workers(config, name, *addresses, fork_server.channel.fileno())
        try:
            for rank in range(config.workers):
                workers.start(rank)
            with display:
                code = follow(config.workers, workers.events, display, workers.start, config.min_workers)
        except JobError as error:
            workers.stop()
            raise with_lost_steps(error, workers.events) from None
        finally:
            workers.stop()
    if code in PUBLISHED:
        display.summary(code)
    return code


def new_name(dataset: str) -> str:
    """A name for a run: the time to the millisecond, because a loop in a shell may start several runs in a second."""
    now = datetime.now(UTC)
    return f"{dataset.replace('_', '-')}-{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}"


def with_lost_steps(error: JobError, events: Events) -> JobError:
    """The error of a command that received a signal; if rank 0 could not save its last step, the error says why.

    Args:
        error: the error.
        events: what the workers sent until they had exited.
    """
    while not events.empty():
        _, event = events.get()
        if isinstance(event, Record) and event.phase == "failed" and (event.reason or "").startswith("output-"):
            code = error.code if error.code == Exit.INTERRUPTED else Exit(event.code or error.code)
            message = f"{error.message}; worker {event.rank}: {event.message}"
            return JobError(code, event.reason or "", message, event.hint or "")
    return error


@contextmanager
def reserve_addresses(count: int) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The addresses of the workers' TensorFlow servers and of their supervisors; no other program gets their ports."""
    with ExitStack() as stack:

        def addresses(hold: Callable[[], socket.socket]) -> tuple[str, ...]:
            held = [stack.enter_context(hold()) for _ in range(count)]
            return tuple(f"{ports.LOOPBACK}:{one.getsockname()[1]}" for one in held)

        yield addresses(ports.hold_guarded_port), addresses(ports.hold_port)


class Workers:
    """The processes of the workers' supervisors. From its construction on, signals to this process are events.

    Attributes:
        events: what comes from the workers, and JobError after a signal.
    """

    def __init__(
        self, config: Config, name: str, tensorflow: tuple[str, ...], supervisors: tuple[str, ...], channel: int
    ) -> None:
        self._config, self._name, self._tensorflow, self._supervisors = config, name, tensorflow, supervisors
        self._channel = channel
        self._cpus = cgroup.cpu_shares(config.workers)
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._signal: int | None = None
        self.events: Events = queue.SimpleQueue()
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores the end of the terminal
            signal.signal(signal.SIGHUP, self._on_signal)

    def start(self, rank: int) -> None:
        """Start a worker's supervisor."""
        cluster = Cluster(self._name, LOCAL_UID, rank, self._tensorflow, self._supervisors)
        environment = {**os.environ, **cluster.environment(), "TF_GRPC_REUSE_PORT": "true", CHANNEL: str(self._channel)}
        if self._config.device == "gpu":
            environment["CUDA_VISIBLE_DEVICES"] = choose_gpu(rank, os.environ.get("CUDA_VISIBLE_DEVICES"))
        arguments = configs.argv(dataclasses.replace(self._config, name="", workers=1))
        self._processes[rank] = process.start(
            [sys.executable, "-m", "job", "train", *arguments],
            environment,
            self._cpus[rank],
            pass_fds=[self._channel],
            stdout=process.PIPE,
            stderr=process.PIPE,
            start_new_session=True,  # so that a terminal sends Ctrl-C to this process alone
        )
        worker = self._processes[rank]
        errors = threading.Thread(target=read_errors, args=(rank, worker, self.events), daemon=True)
        errors.start()
        reader = threading.Thread(target=read_events, args=(rank, worker, self.events, errors), daemon=True)
        reader.start()
        self._readers.append(reader)

    def stop(self) -> None:
        """Stop all workers that still run, kill those that take too long, and wait for what they sent last."""
        for worker in self._running():
            worker.terminate()
        deadline = time.monotonic() + (SIGTERM_S if self._signal in (signal.SIGTERM, signal.SIGHUP) else CTRL_C_S)
        for worker in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, deadline - time.monotonic()))
        self._kill()
        for worker in self._processes.values():
            worker.wait()
        for reader in self._readers:
            reader.join(END_S)
        if self._signal:
            # While Python exits, its handlers are gone: another signal would end this process with a code of its own.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        # An exception from here could come after a worker was started and before its process is stored.
        if self._signal and number != signal.SIGHUP:  # at the end of a terminal, the shell and the kernel send one each
            self._kill()
        self._signal = number
        for worker in self._running():  # now, because this process may wait for the reader of its output
            worker.terminate()
        code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.TRY_AGAIN
        self.events.put((0, JobError(code, "stopped", MEANINGS[code])))

    def _kill(self) -> None:
        """Kill the workers that still run, and what they started. The fork server kills what it forked for them."""
        for worker in self._running():
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)

    def _running(self) -> list[subprocess.Popen[str]]:
        return [worker for worker in self._processes.values() if worker.poll() is None]


def choose_gpu(rank: int, visible: str | None) -> str:
    """The one GPU that a worker sees, as in a pod: NCCL refuses two workers on one GPU.

    Args:
        rank: the worker's.
        visible: CUDA_VISIBLE_DEVICES, if it limits which GPUs may be used.

    Returns:
        The worker's CUDA_VISIBLE_DEVICES; -1, which means none, if there are too few.
    """
    if visible is None:
        return str(rank)  # CUDA ignores a number that it does not have
    gpus = visible.split(",")
    return gpus[rank] if rank < len(gpus) else "-1"


def follow(workers: int, events: Events, display: Lines, start: Callable[[int], None], min_workers: int = 0) -> int:
    """Show the workers' records until all have exited; start those again that may succeed then.

    Returns:
        The exit code, as run() does.

    Raises:
        JobError: why this process has to exit.
    """
    controller = Controller(workers, min_workers)
    deadline = float("inf")
    while not controller.all_exited:
        try:
            rank, event = events.get(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
        except queue.Empty:
            break
        if isinstance(event, JobError):
            raise event
        if isinstance(event, str):
            display.note(rank, event)
        elif isinstance(event, Record):
            controller.take_record(rank, event)
            if event.phase != "failed":
                display.show(event)
        else:
            replace(rank, event, controller, events, display, start)
            if controller.is_ending:
                deadline = min(deadline, time.monotonic() + END_S)
    rank, code = controller.result()
    if code not in PUBLISHED:
        display.failed(rank, code, controller.pop_failure(rank))
    return code


def replace(
    rank: int,
    code: int | None,
    controller: Controller,
    events: Events,
    display: Lines,
    start: Callable[[int], None],
) -> None:
    """Start a worker again that has exited with this code, or whose delay is over, unless the run is decided."""
    if code is None:
        if not controller.is_ending:
            start(rank)
        return
    delay_s = controller.restart_delay(rank, code)
    if delay_s is None:
        if code and not controller.is_ending:
            display.lost(rank, code, controller.pop_failure(rank))
        return
    display.restarted(rank, code, controller.pop_failure(rank), delay_s)
    if not delay_s:
        start(rank)
        return
    timer = threading.Timer(delay_s, events.put, [(rank, None)])
    timer.daemon = True
    timer.start()


def read_errors(rank: int, worker: subprocess.Popen[str], events: Events) -> None:
    """Put a worker's lines on standard error into the queue."""
    for line in cast("TextIO", worker.stderr):
        events.put((rank, line.rstrip("\n")))


def read_events(rank: int, worker: subprocess.Popen[str], events: Events, errors: threading.Thread) -> None:
    """Put a worker's records into the queue and, when `errors` has read the rest, its exit code."""
    for record in telemetry.read_records(cast("TextIO", worker.stdout)):
        events.put((rank, record))
    errors.join()
    events.put((rank, process.exit_code(worker.wait())))
