"""A process that the supervisor starts: what it tells, and how it ends, as events."""

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
from job.system import memory, process

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Iterable, Iterator

    from job.cluster import Cluster
    from job.config import Config

CHATTER_LINES = 200


@dataclass(frozen=True)
class Ended:
    """A child has ended, and all that it told has come before.

    code is its exit code, below 0 the signal that killed it; oom_kills how often the kernel killed for memory while it
    lived; chatter the last lines that it wrote on standard error.
    """

    code: int
    oom_kills: int
    chatter: list[str]

    @property
    def exit_code(self) -> int:
        """The code as shells give it: 128 and the number of the signal."""
        return self.code if self.code >= 0 else 128 - self.code


class SupervisedProcess:
    """A running `python -m MODULE`, with the run's flags; its records and then its Ended are put into the queue.

    Attributes:
        sign_at: when it last wrote anything, in seconds of time.monotonic(), from its first empty line on, with which
            it begins to write one a second; infinite before.
    """

    def __init__(
        self, module: str, config: Config, cluster: Cluster, restarts: int, events: queue.SimpleQueue[object]
    ) -> None:
        reading, writing = os.pipe()
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **cluster.environment()}
        environment |= {telemetry.PIPE: str(writing), telemetry.RESTARTS: str(restarts)}
        if config.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = "-1"  # or TensorFlow looks for drivers
        kills = memory.oom_kills()
        command = [sys.executable, "-m", module, *configs.argv(config)]
        self._process = process.start(
            command, environment, pass_fds=[writing], stdout=process.NULL, stderr=process.PIPE
        )
        os.close(writing)
        self.pid = self._process.pid
        self.sign_at = float("inf")
        self.kill: Callable[[], None] = self._process.kill
        self.terminate: Callable[[], None] = self._process.terminate

        def listen() -> None:
            chatter: deque[str] = deque(maxlen=CHATTER_LINES)
            beside = threading.Thread(target=keep, args=(cast("TextIO", self._process.stderr), chatter), daemon=True)
            beside.start()
            with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
                for record in telemetry.read_records(self._signs(pipe)):
                    events.put(record)
            beside.join()
            code = self._process.wait()
            events.put(Ended(code, memory.oom_kills() - kills, list(chatter)))

        threading.Thread(target=listen, daemon=True).start()

    def _signs(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if line == "\n" or self.sign_at < float("inf"):
                self.sign_at = time.monotonic()
            yield line


def keep(stream: TextIO, lines: deque[str]) -> None:
    """Read a stream to its end, keeping the last lines."""
    with stream:
        lines.extend(stream)
