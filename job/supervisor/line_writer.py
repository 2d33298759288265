"""Writes lines to standard output in a thread of its own, so that a slow reader delays nobody."""

from __future__ import annotations

import threading
from collections import deque

from job import telemetry

MAX_LINES = 1000  # waiting to be written; the oldest are dropped, because the last ones say how the worker ended


class LineWriter:
    """Writes lines to standard output, in their order."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._changed = threading.Condition()
        self._idle = True
        threading.Thread(target=self._write_lines, name="line-writer", daemon=True).start()

    def write(self, line: str) -> None:
        """Queue a line; returns at once."""
        with self._changed:
            self._lines.append(line)
            self._idle = False
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait at most so many seconds until every line is written; returns whether every line is.

        If not, the process can end only by os._exit(): Python would wait for the lock that the thread holds.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._idle, seconds)

    def _write_lines(self) -> None:
        while True:
            with self._changed:
                self._idle = not self._lines
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                line = self._lines.popleft()
            telemetry.write_line(line)
