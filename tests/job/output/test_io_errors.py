"""Tests of the exit codes and sentences for a refusing file system and for damaged files."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from job.errors import Exit, JobError
from job.output.run_folder import RunFolder
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


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        *((number, Exit.TRY_AGAIN, "output-io") for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)),
        *(
            (number, Exit.OUTPUT, "output-not-writable")
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
        ),
    ],
)
def test_transient_errors_are_75_and_others_73(tmp_path: Path, number: int, code: Exit, reason: str) -> None:
    """The sentence names the place, the cause and the remedy."""
    output = RunFolder(tmp_path, "a", "local")
    for where in (tmp_path / "file", None):
        with pytest.raises(JobError) as caught, output.errors():
            raise OSError(number, os.strerror(number), where)
        assert (caught.value.code, caught.value.reason) == (code, reason)
        assert caught.value.message.endswith(f" at {where or tmp_path}: {os.strerror(number)}")
        assert caught.value.hint
