"""Lines that nobody reads for a while."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from job import telemetry
from job.supervisor.line_writer import LINES, LineWriter

if TYPE_CHECKING:
    import pytest


def test_a_reader_that_hangs_holds_up_nobody_and_misses_only_old_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is being written, and the newest of the rest, in their order."""
    written: list[str] = []
    begun, goes_on = threading.Event(), threading.Event()

    def say(line: str) -> None:
        begun.set()
        assert goes_on.wait(60)
        written.append(line)

    monkeypatch.setattr(telemetry, "say", say)
    writer = LineWriter()
    assert writer.drain(60)
    writer.say("first")
    assert begun.wait(60)
    for number in range(3 * LINES):
        writer.say(str(number))
    assert not writer.drain(0.01)
    goes_on.set()
    assert writer.drain(60)
    assert written == ["first", *map(str, range(2 * LINES, 3 * LINES))]
