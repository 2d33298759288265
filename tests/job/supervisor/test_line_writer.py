"""Standard output whose reader hangs for a while."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from job import telemetry
from job.supervisor.line_writer import MAX_LINES, LineWriter

if TYPE_CHECKING:
    import pytest


def test_a_reader_that_hangs_delays_nobody_and_misses_only_old_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is being written, and the newest of the rest, in their order."""
    written: list[str] = []
    started, resume = threading.Event(), threading.Event()

    def write_line(line: str) -> None:
        started.set()
        assert resume.wait(60)
        written.append(line)

    monkeypatch.setattr(telemetry, "write_line", write_line)
    writer = LineWriter()
    assert writer.drain(60)
    writer.write("first")
    assert started.wait(60)
    for number in range(3 * MAX_LINES):
        writer.write(str(number))
    assert not writer.drain(0.01)
    resume.set()
    assert writer.drain(60)
    assert written == ["first", *map(str, range(2 * MAX_LINES, 3 * MAX_LINES))]
