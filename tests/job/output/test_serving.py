"""Tests of serving/N: each promotion adds a version, and a version is a model as it was published."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from job.errors import Exit, JobError
from job.output import serving
from job.output.latest import move_latest
from job.output.serving import served_runs
from tests.job.output.runs import latest, published, tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

NO_HARD_LINKS = ["EPERM", "EMLINK", "ENOSYS", "EOPNOTSUPP", "EXDEV"]


def refuse(monkeypatch: pytest.MonkeyPatch, method: str, error: int, applies: Callable[[Path], bool]) -> None:
    """Let a method of Path fail for those paths that the test chooses."""
    original = getattr(Path, method)

    def fail(path: Path, *arguments: object) -> object:
        if applies(path):
            raise OSError(error, os.strerror(error), str(path))
        return original(path, *arguments)

    monkeypatch.setattr(Path, method, fail)


def test_every_promotion_adds_a_version(tmp_path: Path) -> None:
    """By the run, by hand, and back to an earlier run; a promotion that moves nothing adds none."""
    first = published(tmp_path, "first")
    first.promote()
    assert served_runs(tmp_path) == {1: "first"}
    published(tmp_path, "worse", 0.1, 2).promote()
    assert served_runs(tmp_path) == {1: "first"}
    move_latest(tmp_path, "worse")
    move_latest(tmp_path, "first")
    assert served_runs(tmp_path) == {1: "first", 2: "worse", 3: "first"}
    before = tree(tmp_path)
    move_latest(tmp_path, "first")
    first.promote()
    assert tree(tmp_path) == before


def test_the_newest_three_versions_stay(tmp_path: Path) -> None:
    """The next number follows the greatest, also after 9; other entries of the folder stay."""
    (tmp_path / "serving" / "9").mkdir(parents=True)
    (tmp_path / "serving" / ".notes").mkdir()
    (tmp_path / "serving" / "models.config").touch()
    published(tmp_path, "a").promote()
    assert served_runs(tmp_path) == {9: "", 10: "a"}
    published(tmp_path, "b").promote()
    for name in ("a", "b", "a"):
        move_latest(tmp_path, name)
    assert served_runs(tmp_path) == {12: "a", 13: "b", 14: "a"}
    names = {path.name for path in (tmp_path / "serving").iterdir()}
    assert names == {"12", "13", "14", ".notes", "models.config"}


def test_a_version_is_the_model_without_links_out_of_it(tmp_path: Path) -> None:
    """It takes no space of its own, and is readable where only serving/ is mounted, or after its model is gone."""
    output = published(tmp_path)
    output.promote()
    model = tree(output.model / "saved_model" / "1")
    assert tree(tmp_path / "serving" / "1") == {**model, "run": b"a\n"}
    assert (tmp_path / "serving/1/weights").samefile(output.model / "saved_model/1/weights")
    shutil.rmtree(tmp_path / "models")
    assert tree((tmp_path / "serving").rename(tmp_path / "mounted") / "1") == {**model, "run": b"a\n"}


@pytest.mark.parametrize("error", NO_HARD_LINKS)
def test_a_volume_without_hard_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    """The version has the same content."""
    output = published(tmp_path)
    refuse(monkeypatch, "hardlink_to", getattr(errno, error), lambda _: True)
    output.promote()
    assert not (tmp_path / "serving/1/weights").samefile(output.model / "saved_model/1/weights")
    assert tree(tmp_path / "serving" / "1") == {**tree(output.model / "saved_model" / "1"), "run": b"a\n"}


@pytest.mark.parametrize(("error", "code"), [(errno.ENOSPC, Exit.OUTPUT), (errno.EIO, Exit.TRY_AGAIN)])
@pytest.mark.parametrize("at", ["link", "rename"])
@pytest.mark.parametrize("to", ["first", "nothing", "elsewhere"])
def test_latest_stays_if_the_version_cannot_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, code: Exit, at: str, to: str
) -> None:
    """An error while a version is prepared or renamed leaves `latest` and serving/ as they were; a repetition succeeds.

    `latest` may have named a run, nothing, or something else than a run.
    """
    published(tmp_path, "first").promote()
    if to != "first":
        (tmp_path / "latest").unlink()
    if to == "elsewhere":
        (tmp_path / "latest").symlink_to("nowhere")
    output = published(tmp_path, "second", 0.95, 2)
    before = latest(tmp_path), tree(tmp_path / "serving"), sorted(path.name for path in tmp_path.iterdir())
    with monkeypatch.context() as patch:
        method = "hardlink_to" if at == "link" else "rename"
        refuse(patch, method, error, lambda path: path.is_relative_to(tmp_path / "serving"))
        with pytest.raises(JobError) as caught:
            output.promote()
    assert caught.value.code == code
    assert (latest(tmp_path), tree(tmp_path / "serving"), sorted(path.name for path in tmp_path.iterdir())) == before
    assert output.promote().verdict == "promoted"
    assert (latest(tmp_path), served_runs(tmp_path)) == ("models/second", {1: "first", 2: "second"})


@pytest.mark.parametrize("by", ["the run", "hand", "a run that is rejected"])
def test_the_next_promotion_serves_latest(tmp_path: Path, by: str) -> None:
    """A promotion that moves nothing also adds a missing version, after a killed promotion or on a volume with none."""
    output = published(tmp_path, "first")
    output.promote()
    (output.folder / "promoted").unlink()
    shutil.rmtree(tmp_path / "serving")
    if by == "the run":
        output.promote()
    elif by == "hand":
        move_latest(tmp_path, "first")
    else:
        published(tmp_path, "second", 0.1, 2).promote()
    assert (latest(tmp_path), served_runs(tmp_path)) == ("models/first", {1: "first"})


def test_a_model_with_a_link_is_not_served(tmp_path: Path) -> None:
    """What the link leads to could be a file that its author may not read. Other runs are promoted nevertheless."""
    output = published(tmp_path, "first")
    output.promote()
    (output.folder / "promoted").unlink()
    shutil.rmtree(tmp_path / "serving")
    link = tmp_path / "models/first/saved_model/1/planted"
    link.symlink_to("/etc/passwd")
    with pytest.raises(JobError, match=f"{link} is a symbolic link, and is not served") as caught:
        move_latest(tmp_path, "first")
    assert caught.value.code == Exit.OUTPUT
    assert published(tmp_path, "second", 0.99, 2).promote().verdict == "promoted"
    assert (latest(tmp_path), served_runs(tmp_path)) == ("models/second", {1: "second"})


def test_a_killed_promotion_counts_before_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that became latest without a version gets one before `latest` moves on, and leftovers are removed."""
    published(tmp_path, "first").promote()

    class Killed(BaseException):
        pass

    def dies(path: Path, target: Path) -> Path:
        if path.parent.name == "serving":
            raise Killed
        return rename(path, target)

    rename = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        patch.setattr("contextlib.ExitStack.callback", lambda *_, **__: None)  # a killed process undoes nothing
        with pytest.raises(Killed):
            published(tmp_path, "second", 0.95, 2).promote()
    assert (latest(tmp_path), served_runs(tmp_path)) == ("models/second", {1: "first"})
    assert (tmp_path / "serving" / ".2").is_dir()
    move_latest(tmp_path, "first")
    assert (latest(tmp_path), served_runs(tmp_path)) == ("models/first", {1: "first", 2: "second", 3: "first"})
    assert sorted(path.name for path in (tmp_path / "serving").iterdir()) == ["1", "2", "3"]


def test_a_model_without_a_saved_model_does_not_become_latest(tmp_path: Path) -> None:
    """The message names what is missing. If `latest` is such a model, it can be replaced."""
    published(tmp_path, "whole").promote()
    broken = published(tmp_path, "broken", 0.95, 2)
    shutil.rmtree(broken.model / "saved_model")
    with pytest.raises(JobError, match="models/broken/saved_model/1: No such file or directory"):
        broken.promote()
    assert (latest(tmp_path), served_runs(tmp_path)) == ("models/whole", {1: "whole"})
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("models/broken")
    move_latest(tmp_path, "whole")
    assert (latest(tmp_path), served_runs(tmp_path)) == ("models/whole", {1: "whole", 2: "whole"})


def test_roll_back_on_a_full_volume(volume: Mount) -> None:
    """A version of links needs space for its folders, not for the model."""
    root = volume("size=400k") / "output"
    for name, day in (("first", 1), ("second", 2)):
        published(root, name, 0.9, day).promote()
    free = os.statvfs(root)
    with (root / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (free.f_bavail - 1) * free.f_frsize)
    assert serving.served_runs(root) == {1: "first", 2: "second"}
    move_latest(root, "first")
    assert (latest(root), served_runs(root)) == ("models/first", {1: "first", 2: "second", 3: "first"})
