"""The message that a container leaves when it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from job.errors import Exit
from job.system import termination

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("message", ["a sentence", "x" * 10_000, "\x00🙂" * 3000])
def test_the_message_is_json_of_at_most_4_kib(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long sentence is cut, however many bytes its characters take; the other fields are whole."""
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setattr(termination, "PATH", path)
    termination.write(Exit.BUG, "bug", message, rank=3, step=None, hint="a remedy")
    assert path.stat().st_size <= termination.LIMIT
    content = json.loads(path.read_bytes())
    cut = content.pop("message")
    assert content == {"code": 70, "reason": "bug", "rank": 3, "step": None, "hint": "a remedy"}
    assert message.startswith(cut)
    assert len(cut) == len(message) or len(cut) > 200


def test_nothing_is_written_outside_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file does not exist, it is not created."""
    monkeypatch.setattr(termination, "PATH", tmp_path / "log")
    termination.write(Exit.BUG, "bug", "a sentence")
    assert not (tmp_path / "log").exists()
