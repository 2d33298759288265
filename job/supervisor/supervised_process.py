"""A process that the supervisor starts, the precheck or the trainer: its records and its exit arrive as events."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, cast

from job import config as configs
from job import telemetry
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
    """

    def __init__(
        self, module: str, config: Config, cluster: Cluster, restarts: int, events: queue.SimpleQueue[object]
    ) -> None:
        reading, writing = os.pipe()
        # gRPC would send what the workers say to each other to a proxy. It has more variables for one than the usual.
        direct = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **direct, **cluster.environment()}
        environment |= {telemetry.PIPE: str(writing), telemetry.RESTARTS: str(restarts)}
        if config.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = "-1"  # otherwise TensorFlow looks for drivers
        self._events = events
        self._oom_kills_before = cgroup.oom_kills()
        command = [sys.executable, "-m", module, *configs.argv(config)]
        self._process = process.start(
            command, environment, pass_fds=[writing], stdout=process.NULL, stderr=process.PIPE
        )
        os.close(writing)
        self.pid, self.kill, self.terminate = self._process.pid, self._process.kill, self._process.terminate
        self.pulse_at = float("inf")
        threading.Thread(target=self._read_events, args=(reading,), daemon=True).start()

    def _read_events(self, pipe: int) -> None:
        stderr: deque[str] = deque(maxlen=STDERR_LINES)
        stream = cast("TextIO", self._process.stderr)
        stderr_reader = threading.Thread(target=stderr.extend, args=(stream,), daemon=True)
        stderr_reader.start()
        with os.fdopen(pipe, encoding="utf-8", errors="replace") as lines:
            for record in telemetry.read_records(self._watch_pulse(lines)):
                self._events.put(record)
        stderr_reader.join()
        stream.close()
        returncode = self._process.wait()
        self._events.put(Exited(returncode, cgroup.oom_kills() - self._oom_kills_before, list(stderr)))

    def _watch_pulse(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if line == "\n" or self.pulse_at < float("inf"):
                self.pulse_at = time.monotonic()
            yield line
