"""Tests of publication: a model appears whole, once, or not at all."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from job.errors import Exit, JobError
from job.output import run_folder
from job.output.run_folder import RunFolder
from job.system import files
from tests.job.output.runs import fill, manifest, published, tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Mount


def test_model_appears_whole(tmp_path: Path) -> None:
    """It has the files that were filled in, checksums that sha256sum accepts, and nothing else."""
    output = published(tmp_path)
    assert sorted(tree(tmp_path / "models")) == [
        "a",
        "a/SHA256SUMS",
        "a/report.json",
        "a/saved_model",
        "a/saved_model/1",
        "a/saved_model/1/weights",
    ]
    checked = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=output.model, capture_output=True, text=True, check=True
    )
    assert checked.stdout.splitlines() == ["report.json: OK", "saved_model/1/weights: OK"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), JobError(Exit.BUG, "bug", "no")])
def test_model_that_cannot_be_filled_does_not_appear(tmp_path: Path, error: BaseException) -> None:
    """An exception passes unchanged and leaves the folder as it was."""
    output = published(tmp_path, "other")
    before = tree(tmp_path / "models")

    def broken(folder: Path) -> None:
        fill()(folder)
        raise error

    with pytest.raises(type(error)) as caught:
        RunFolder(tmp_path, "a", "local").publish(broken)
    assert caught.value is error
    assert tree(tmp_path / "models") == before
    assert output.model.is_dir()


def test_everything_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file and folder is flushed under its temporary name, and the parent folder after the rename."""
    flushed: list[tuple[str, bool]] = []
    output = RunFolder(tmp_path, "a", "local")
    for module in (files, run_folder):
        monkeypatch.setattr(module, "sync", lambda path: flushed.append((str(path), output.model.exists())))
    output.publish(fill())
    folder = tmp_path / "models" / ".a.local"
    below = ["", "/SHA256SUMS", "/report.json", "/saved_model", "/saved_model/1", "/saved_model/1/weights"]
    assert flushed[0] == (str(tmp_path), False)
    assert sorted(flushed[1:-1]) == [(f"{folder}{path}", False) for path in below]
    assert flushed[-1] == (str(tmp_path / "models"), True)


def test_model_is_published_once(tmp_path: Path) -> None:
    """A second model of the same name is refused and leaves the first as it was."""
    output = published(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(JobError) as caught:
        output.publish(fill(0.1))
    assert caught.value.code == Exit.OUTPUT
    assert tree(tmp_path) == before


def test_full_volume_is_73_and_has_nothing_half_published(volume: Mount) -> None:
    """A model that does not fit leaves nothing behind."""

    def too_large(folder: Path) -> None:
        fill()(folder)
        (folder / "large").write_bytes(bytes(2**20))

    root = volume("size=64k")
    published(root, "first").promote()
    output = RunFolder(root, "a", "local")
    with output.begin(manifest()):
        before = tree(root)
        with pytest.raises(JobError) as caught:
            output.publish(too_large)
    assert caught.value.code == Exit.OUTPUT
    assert caught.value.message.endswith("No space left on device")
    assert tree(root) == before
