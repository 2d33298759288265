"""A worker's log on the volume: whole lines, in order, each once, and not too many."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Self

import pytest

from job.errors import JobError
from job.output.log_file import LIMIT, LogFile

if TYPE_CHECKING:
    from pathlib import Path


def test_lines_follow_each_other(tmp_path: Path) -> None:
    """Also those of a process that continues the file."""
    assert not LogFile(tmp_path, "r", 3).run_exists()
    (tmp_path / "runs/r").mkdir(parents=True)
    assert LogFile(tmp_path, "r", 3).run_exists()
    LogFile(tmp_path, "r", 3).append(b"one\ntwo\n")
    LogFile(tmp_path, "r", 3).append(b"three\n")
    assert (tmp_path / "runs/r/logs/rank-3.log").read_bytes() == b"one\ntwo\nthree\n"
    assert LIMIT == 10_000_000


def test_a_torn_line_is_removed(tmp_path: Path) -> None:
    """A process that was killed while it wrote leaves a part of a line behind."""
    log = LogFile(tmp_path, "r", 0)
    for left, expected in ((b"a\nb", b"a\nnew\n"), (b"torn", b"new\n")):
        log.path.parent.mkdir(parents=True, exist_ok=True)
        log.path.write_bytes(left)
        log.append(b"new\n")
        assert log.path.read_bytes() == expected


def test_the_older_half_is_dropped(tmp_path: Path) -> None:
    """The file never exceeds its limit, and holds the newest lines, whole and each once."""
    (tmp_path / "runs/r").mkdir(parents=True)
    log = LogFile(tmp_path, "r", 0, limit=1000)
    lines = [f"line {number}\n".encode() for number in range(500)]
    fewest = 1000
    for number, line in enumerate(lines):
        log.append(line)
        content = log.path.read_bytes()
        assert len(content) <= 1000
        kept = content.splitlines(keepends=True)
        assert kept == lines[number + 1 - len(kept) : number + 1]
        fewest = min(fewest, len(content)) if number > 200 else fewest
    assert 450 < fewest < 550
    assert [path.name for path in log.path.parent.iterdir()] == ["rank-0.log"]


def test_a_full_volume_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write that fills a volume is a short one; what it wrote is removed again."""
    (tmp_path / "runs/r").mkdir(parents=True)
    log = LogFile(tmp_path, "r", 0)
    log.append(b"before\n")
    real = os.fdopen

    def fdopen(descriptor: int, *arguments: object, **options: object) -> object:
        file = real(descriptor, *arguments, **options)  # type: ignore[call-overload]

        class Full:
            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

            def write(self, data: bytes) -> int:
                if len(data) < 5:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return int(file.write(data[:3]))

        return Full()

    monkeypatch.setattr(os, "fdopen", fdopen)
    with pytest.raises(OSError, match="No space left"):
        log.append(b"after\n")
    assert log.path.read_bytes() == b"before\n"


@pytest.mark.parametrize("link", ["runs", "runs/r", "runs/r/logs", "runs/r/logs/rank-0.log"])
def test_no_write_goes_through_a_link(tmp_path: Path, link: str) -> None:
    """It could lead out of the output folder."""
    other = tmp_path / "elsewhere"
    (other if "." not in link else tmp_path / "x").mkdir()
    if "." in link:
        other.write_bytes(b"")
    root = tmp_path / "output"
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(other)
    with pytest.raises((OSError, JobError)):
        LogFile(root, "r", 0).append(b"line\n")
    assert other.read_bytes() == b"" if other.is_file() else not list(other.iterdir())
