"""What a container leaves of its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from job.errors import Exit
from job.system import termination

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("message", ["a sentence", "x" * 10_000, "\x00🙂" * 3000])
def test_the_message_is_json_of_4_kb_at_most(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long sentence is cut, whatever its characters take, and the other fields are whole."""
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setattr(termination, "PATH", path)
    termination.write(Exit.BUG, "bug", message, rank=3, step=None, hint="a remedy")
    assert path.stat().st_size <= termination.LIMIT
    found = json.loads(path.read_bytes())
    cut = found.pop("message")
    assert found == {"code": 70, "reason": "bug", "rank": 3, "step": None, "hint": "a remedy"}
    assert message.startswith(cut)
    assert len(cut) == len(message) or len(cut) > 200


def test_where_there_is_no_place_for_it_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside of a container."""
    monkeypatch.setattr(termination, "PATH", tmp_path / "log")
    termination.write(Exit.BUG, "bug", "a sentence")
    assert not (tmp_path / "log").exists()
