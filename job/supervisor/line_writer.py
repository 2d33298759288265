"""Says lines in a thread of its own: who does not read them holds up nobody."""

from __future__ import annotations

import threading
from collections import deque

from job import telemetry

LINES = 1000  # that wait at most; the newest, for the last ones say how it ended


class LineWriter:
    """Writes lines to standard output, in their order."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES)
        self._changed = threading.Condition()
        self._idle = True
        threading.Thread(target=self._speak, name="writer", daemon=True).start()

    def say(self, line: str) -> None:
        """Have a line written; returns at once."""
        with self._changed:
            self._lines.append(line)
            self._idle = False
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait until all is written, for so long at most; whether it is.

        Where it is not, the process can only end by os._exit(): Python would wait for what the thread holds.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._idle, seconds)

    def _speak(self) -> None:
        while True:
            with self._changed:
                self._idle = not self._lines
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                line = self._lines.popleft()
            telemetry.write_line(line)
