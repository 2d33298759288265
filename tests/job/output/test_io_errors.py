"""Tests of the exit code and sentence for damaged files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from job.errors import Exit, JobError
from tests.job.output.runs import published, tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["runs/a/config.json", "runs/a/verdict.json", "models/a/report.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b'"text"', b"{}", b"\xff\xfe", b'{"verdict": "kept"}'])
def test_damaged_file_of_the_run_is_73(tmp_path: Path, name: str, content: bytes) -> None:
    """The sentence names the file and the remedy; nothing changes."""
    output = published(tmp_path)
    if name.endswith("verdict.json"):
        output.promote()
    (tmp_path / name).write_bytes(content)
    (tmp_path / ".promotion-lock").touch()
    before = tree(tmp_path)
    with pytest.raises(JobError) as caught:
        output.promote_if_published()
    assert (caught.value.code, caught.value.reason) == (Exit.OUTPUT, "output-damaged")
    assert caught.value.message.startswith(f"{tmp_path / name} is damaged: ")
    assert caught.value.hint == "restore it from a backup, or use another --name"
    assert tree(tmp_path) == before
