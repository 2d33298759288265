"""A process that the supervisor starts, the precheck or the trainer: its records and its exit arrive as events."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from job import config as configs
from job import telemetry
from job.error_table import errors_from
from job.system import cgroup, process

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterable, Iterator

    from job.cluster import Cluster
    from job.config import Config

STDERR_LINES = 200


@dataclass(frozen=True)
class Exited:
    """A process has exited; all of its records came before.

    returncode is Popen's: negative if a signal killed the process. oom_kills counts the processes that the kernel
    killed for lack of memory while it ran. stderr holds the last lines that it wrote on standard error.
    """

    returncode: int
    oom_kills: int
    stderr: list[str]

    @property
    def exit_code(self) -> int:
        """The code in a shell's notation: 128 plus the number of the signal."""
        return process.exit_code(self.returncode)


class SupervisedProcess:
    """A running `python -m MODULE`, with the run's flags. Puts its records, and then Exited, into the queue.

    Attributes:
        pulse_at: when it last wrote to its pipe, in seconds of time.monotonic(). Infinite before the first empty line,
            from which on it writes at least one line a second.

    Raises:
        JobError: 75 if the system has no room for another process or thread now; nothing is left behind.
    """

    def __init__(
        self, module: str, config: Config, cluster: Cluster, restarts: int, events: queue.SimpleQueue[object]
    ) -> None:
        # gRPC would send the workers' traffic through a proxy. It reads more proxy variables than other programs do.
        direct = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **direct, **cluster.environment()}
        environment[telemetry.RESTARTS] = str(restarts)
        if config.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = "-1"  # otherwise TensorFlow looks for drivers
        self._events = events
        self._oom_kills_before = cgroup.oom_kills()
        command = [sys.executable, "-m", module, *configs.argv(config)]
        self.pulse_at = float("inf")
        with ExitStack() as on_failure, errors_from("process", "a process"):
            reading, writing = os.pipe()
            lines = on_failure.enter_context(os.fdopen(reading, encoding="utf-8", errors="replace"))
            with os.fdopen(writing):  # the process has its own copy
                environment[telemetry.PIPE] = str(writing)
                self._process = process.start(
                    command, environment, pass_fds=[writing], stdout=process.NULL, stderr=process.PIPE
                )
            on_failure.enter_context(self._process)  # closes its standard error, and reaps it
            on_failure.callback(self._process.kill)
            stderr: deque[str] = deque(maxlen=STDERR_LINES)
            stderr_reader = threading.Thread(target=stderr.extend, args=(self._process.stderr,), daemon=True)
            stderr_reader.start()
            reader = threading.Thread(target=self._read_events, args=(lines, stderr, stderr_reader), daemon=True)
            reader.start()
            on_failure.pop_all()
        self.pid, self.kill, self.terminate = self._process.pid, self._process.kill, self._process.terminate

    def _read_events(self, lines: TextIO, stderr: deque[str], stderr_reader: threading.Thread) -> None:
        with self._process, lines:
            for record in telemetry.read_records(self._watch_pulse(lines)):
                self._events.put(record)
            stderr_reader.join()
        returncode = self._process.returncode
        self._events.put(Exited(returncode, cgroup.oom_kills() - self._oom_kills_before, list(stderr)))

    def _watch_pulse(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if line == "\n" or self.pulse_at < float("inf"):
                self.pulse_at = time.monotonic()
            yield line
