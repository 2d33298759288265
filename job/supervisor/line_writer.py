"""Writes lines to standard output in a thread of its own, so that a slow reader delays nobody."""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, TextIO

from job import telemetry

if TYPE_CHECKING:
    from job.supervisor.log_process import LogProcess

MAX_LINES = 1000  # waiting to be written; the oldest are dropped, because the last ones say how the worker ended


class LineWriter:
    """Writes lines to standard output, in their order, and to a log.

    Args:
        log: the log; if lines are missing from it, a message on standard error says why.
    """

    def __init__(self, log: LogProcess | None = None) -> None:
        self._log = log
        self._calls: deque[tuple[str, *tuple[TextIO, ...]]] = deque(maxlen=MAX_LINES)  # write_line()'s arguments
        self._changed = threading.Condition()
        self._idle = True
        threading.Thread(target=self._write_lines, name="line-writer", daemon=True).start()
        if log:
            log.listen(self.write_error)

    def write(self, line: str) -> None:
        """Queue a line; returns at once."""
        self._queue(line)

    def write_error(self, line: str) -> None:
        """Queue a line for standard error; returns at once."""
        self._queue(line, sys.stderr)

    def drain(self, seconds: float) -> bool:
        """Close the log, and wait at most so many seconds until every line is written; returns whether every line is.

        If not, the process can end only by os._exit(): Python would wait for the lock that the thread holds.
        """
        if self._log:
            self._log.close()
        with self._changed:
            return self._changed.wait_for(lambda: self._idle, seconds)

    def _queue(self, line: str, *stream: TextIO) -> None:
        with self._changed:
            if self._log:
                self._log.write(line)
            self._calls.append((line, *stream))
            self._idle = False
            self._changed.notify_all()  # last, because the thread that it wakes needs this lock

    def _write_lines(self) -> None:
        while True:
            with self._changed:
                self._idle = not self._calls
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._calls)
                line, *stream = self._calls.popleft()
            telemetry.write_line(line, *stream)
