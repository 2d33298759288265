"""A process that the supervisor starts, the precheck or the trainer: its records and its exit arrive as events."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from job import config as configs
from job import telemetry
from job.error_table import errors_from
from job.supervisor.forking import Forked, trainer_environment
from job.system import cgroup, process
from job.time_spent import SPENT

if TYPE_CHECKING:
    import queue
    import socket
    import subprocess
    from collections.abc import Iterable, Iterator, Mapping

    from job.cluster import Cluster
    from job.config import Config
    from job.time_spent import TimeSpent

STDERR_LINES = 200


@dataclass(frozen=True)
class Exited:
    """A process has exited; all of its records came before.

    returncode is Popen's: negative if a signal killed the process. oom_kills counts the processes that the kernel
    killed for lack of memory while it ran. stderr holds the last lines that it wrote on standard error. started is
    false if the fork server ended before it could fork the process.
    """

    returncode: int
    oom_kills: int
    stderr: list[str]
    started: bool = True

    @property
    def exit_code(self) -> int:
        """The code in a shell's notation: 128 plus the number of the signal."""
        return process.exit_code(self.returncode)


class SupervisedProcess:
    """A running `python -m MODULE`, with the run's flags. Puts its records, and then Exited, into the queue.

    The fork server forks it if there is one; without a channel to it, it is started as a new process.

    Attributes:
        pulse_at: when it last wrote to its pipe, in seconds of time.monotonic(). Infinite before the first empty line,
            from which on it writes at least one line a second.
        pid: the process id of a new process, 0 for one that the fork server forks.

    Raises:
        JobError: 75 if the system has no room for another process or thread now; nothing is left behind.
    """

    def __init__(
        self,
        module: str,
        config: Config,
        cluster: Cluster,
        restarts: int,
        spent: TimeSpent,
        events: queue.SimpleQueue[object],
        channel: socket.socket | None = None,
    ) -> None:
        environment = trainer_environment(config) | cluster.environment()
        environment |= {telemetry.RESTARTS: str(restarts), SPENT: spent.dump()}
        self._events = events
        self._oom_kills_before = cgroup.oom_kills()
        self.pulse_at = float("inf")
        self.pid = 0
        with ExitStack() as on_failure, errors_from("process", "a process"):
            reading, writing = os.pipe()
            lines = on_failure.enter_context(os.fdopen(reading, encoding="utf-8", errors="replace"))
            with os.fdopen(writing):  # the process has its own copy
                self._process = self._start(channel, module, configs.argv(config), environment, writing)
            on_failure.push(self._process)  # closes its standard error, and reaps it
            on_failure.callback(self._process.kill)
            stderr: deque[str] = deque(maxlen=STDERR_LINES)
            stderr_reader = threading.Thread(target=stderr.extend, args=(self._process.stderr,), daemon=True)
            stderr_reader.start()
            reader = threading.Thread(target=self._read_events, args=(lines, stderr, stderr_reader), daemon=True)
            reader.start()
            on_failure.pop_all()
        self.kill, self.terminate = self._process.kill, self._process.terminate

    def _start(
        self,
        channel: socket.socket | None,
        module: str,
        arguments: list[str],
        environment: Mapping[str, str],
        records: int,
    ) -> Forked | subprocess.Popen[str]:
        if channel:
            with suppress(OSError):  # there is no fork server: a new process needs none
                return Forked(channel, module, arguments, environment, records)
        started = process.start(
            [sys.executable, "-m", module, *arguments],
            {**environment, telemetry.PIPE: str(records)},
            pass_fds=[records],
            stdout=process.NULL,
            stderr=process.PIPE,
        )
        self.pid = started.pid
        return started

    def _read_events(self, lines: TextIO, stderr: deque[str], stderr_reader: threading.Thread) -> None:
        with self._process as running, lines:
            started = bool(running.pid)
            for record in telemetry.read_records(self._watch_pulse(lines)):
                self._events.put(record)
            stderr_reader.join()
        oom_kills = cgroup.oom_kills() - self._oom_kills_before
        self._events.put(Exited(running.returncode or 0, oom_kills, list(stderr), started))

    def _watch_pulse(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if line == "\n" or self.pulse_at < float("inf"):
                self.pulse_at = time.monotonic()
            yield line
