"""What a supervisor makes of its trainer's end, with a shell script as the trainer."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from job import supervise, telemetry
from job.cluster import Cluster
from job.config import Config
from job.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEMBER = Cluster("r", "u", 0, ("a:1",), ("a:2",))


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The script that is started instead of Python; it chatters on standard error first."""
    script = tmp_path / "python"
    script.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    before = signal.getsignal(signal.SIGTERM)
    yield script
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("end", "code", "shown"),
    [
        ("exit 0", Exit.OK, False),
        ("exit 64", Exit.USAGE, False),
        ("exit 69", Exit.REJECTED, False),
        ("exit 75", Exit.TRY_AGAIN, False),
        ("exit 70", Exit.BUG, True),
        ("exit 1", 1, True),
        ("kill -ABRT $$", 128 + signal.SIGABRT, True),
        ("kill -INT $$", 128 + signal.SIGINT, True),
        ("kill -TERM $PPID; while :; do :; done", Exit.TRY_AGAIN, False),
    ],
)
def test_the_trainers_end_is_the_workers(
    end: str, code: int, shown: bool, trainer: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its code is passed on, and its chatter is shown where no sentence of its own can have told why it ended."""
    trainer.write_text(f"#!/bin/bash\necho chatter >&2\n{end}\n")
    assert supervise.supervise(Config(), MEMBER) == code
    out, err = capfd.readouterr()
    assert err == ("chatter\n" if shown else "")
    records = [telemetry.parse(line) for line in out.splitlines()]
    killed = [(r.phase, r.code, r.reason, r.message) for r in records if r]
    name = end.split()[1].strip("-;")
    assert killed == ([("failed", code, "killed", f"the trainer was killed by SIG{name}")] if code > 128 else [])


def test_records_pass_and_other_lines_do_not(trainer: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """JSON from the pipe becomes logfmt, a torn line is left out, and the trainer's standard output goes nowhere."""
    record = telemetry.Record(1.0, "r", 0, "data")
    lines = f"{telemetry.to_json(record)}\nnot a record\n{telemetry.to_json(record)[:-9]}"
    trainer.write_text(f"#!/bin/bash\necho noise\nprintf %s '{lines}' >&$TELEMETRY_FD\n")
    assert supervise.supervise(Config(), MEMBER) == 0
    assert capfd.readouterr() == (telemetry.to_logfmt(record) + "\n", "")
