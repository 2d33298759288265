"""Tests of a run's folder: one owner, one process at a time, one manifest, nothing unfinished left."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from job.errors import Exit, JobError
from job.output import run_lock
from job.output.run_folder import RunFolder
from tests.job.output.runs import fill, manifest, published, tree

if TYPE_CHECKING:
    from tests.conftest import Mount


def test_begin_removes_unfinished_files(tmp_path: Path) -> None:
    """The temporaries of this run go, of any Job; those of other runs and all other files stay."""
    names = (
        "models/.{}.local/half",
        "models/.{}.0f6e/half",
        "runs/{}/.config.json.tmp",
        "runs/{}/.verdict.json.tmp",
        "runs/{}/checkpoints/.7.safetensors.tmp",
        ".probe.{}.x1y2/written",
    )
    kept = ["models/ab/half", "runs/a/checkpoints/7.safetensors", "runs/a/events.jsonl"]
    kept += [name.format("ab") for name in names]
    for path in [*kept, *(name.format("a") for name in names)]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with RunFolder(tmp_path, "a", "local").begin(manifest()):
        files = {name for name, content in tree(tmp_path).items() if content is not None}
        assert files == {*kept, "runs/a/config.json", "runs/a/lock"}
        assert not list(tmp_path.glob("models/.a.*")) + list(tmp_path.glob(".probe.a.*"))


def test_manifest_is_written_once(tmp_path: Path) -> None:
    """A later start keeps the first start's time, and may differ in settings that do not affect the training."""
    first = manifest() | {"started": "first"}
    second = manifest(workers=3, log_every=7, threads=2, min_accuracy=0.5) | {"started": "second"}
    for config in (first, second):
        output = RunFolder(tmp_path, "a", "local")
        with output.begin(config) as verdict:
            assert verdict is None
            assert output.manifest == config | {"started": "first"}
            assert json.loads((output.folder / "config.json").read_text()) == first


def test_run_published_in_the_meantime_is_not_trained_again(tmp_path: Path) -> None:
    """begin() yields its verdict."""
    verdict = published(tmp_path).promote()
    before = tree(tmp_path)
    with RunFolder(tmp_path, "a", "local").begin(manifest()) as found:
        assert found == verdict
    assert tree(tmp_path) == before


def test_run_of_other_settings_is_78_and_names_them(tmp_path: Path) -> None:
    """Each difference is named with both values; nothing changes."""
    with RunFolder(tmp_path, "a", "local").begin(manifest(batch_size=100, seed=0, learning_rate=1.0)):
        pass
    before = tree(tmp_path)
    changed = manifest(batch_size=64, seed=3, learning_rate=0.5)
    with pytest.raises(JobError) as caught, RunFolder(tmp_path, "a", "local").begin(changed):
        pytest.fail("begun")
    assert (caught.value.code, caught.value.reason) == (Exit.SETTINGS, "other-settings")
    assert caught.value.message == (
        "run 'a' has other settings: --batch-size was 100 and is now 64, --seed was 0 and is now 3, "
        "--learning-rate was 1.0 and is now 0.5"
    )
    assert tree(tmp_path) == before


def test_run_of_another_model_is_78(tmp_path: Path) -> None:
    """Also with --continue; nothing changes on the volume."""
    with RunFolder(tmp_path, "a", "local").begin(manifest()):
        pass
    before = tree(tmp_path)
    changed = manifest()
    changed["must_match"]["model"] = "d" * 64
    for output in (RunFolder(tmp_path, "a", "local"), RunFolder(tmp_path, "a", "0f6e", take_over=True)):
        with pytest.raises(JobError, match="the model changed since the run began") as caught, output.begin(changed):
            pytest.fail("begun")
        assert (caught.value.code, caught.value.reason) == (Exit.SETTINGS, "other-model")
    assert tree(tmp_path) == before


def test_run_of_other_data_is_65(tmp_path: Path) -> None:
    """The data is named and the remedy, even if settings differ too; nothing changes."""
    with RunFolder(tmp_path, "a", "local").begin(manifest()):
        pass
    before = tree(tmp_path)
    for split in ("train", "test"):
        changed = manifest(seed=3)
        changed["must_match"][split] = "c" * 64
        with pytest.raises(JobError) as caught, RunFolder(tmp_path, "a", "local").begin(changed):
            pytest.fail("begun")
        assert (caught.value.code, caught.value.reason) == (Exit.DATA_DAMAGED, "dataset-other")
        assert str(caught.value) == "run 'a' was started on other data; use the original data, or another --name"
    assert tree(tmp_path) == before


def test_name_of_another_job_is_64(tmp_path: Path) -> None:
    """The run is neither begun nor, if published, reported as this Job's; nothing changes."""
    published(tmp_path)
    before = tree(tmp_path)
    other = RunFolder(tmp_path, "a", "0f6e")
    with pytest.raises(JobError) as beginning, other.begin(manifest("0f6e")):
        pytest.fail("begun")
    with pytest.raises(JobError) as asking:
        other.promote_if_published()
    for caught in (beginning, asking):
        assert (caught.value.code, caught.value.reason) == (Exit.USAGE, "run-taken")
        assert caught.value.message == "run 'a' belongs to another Job, local"
        assert caught.value.hint == "use another --name, or continue that run with --continue"
    assert tree(tmp_path) == before


def test_take_over_continues_the_run_of_another_job(tmp_path: Path) -> None:
    """It keeps the start of the run, needs the same settings, and publishes once."""
    first = manifest("0f6e") | {"started": "first"}
    with RunFolder(tmp_path, "a", "0f6e").begin(first):
        pass
    output = RunFolder(tmp_path, "a", "77aa", take_over=True)
    with pytest.raises(JobError) as caught, output.begin(manifest("77aa", seed=1)):
        pytest.fail("begun")
    assert caught.value.code == Exit.SETTINGS
    with output.begin(manifest("77aa") | {"started": "second"}) as verdict:
        assert verdict is None
        assert output.manifest == manifest("77aa") | {"started": "first"}
        output.publish(fill())
    assert json.loads((output.folder / "config.json").read_text()) == first
    assert output.promote_if_published() == RunFolder(tmp_path, "a", "0f6e").promote_if_published()


@pytest.mark.parametrize(
    ("name", "job_uid"),
    [*((name, "local") for name in ("../a", "a/b", "", ".a")), ("a", ""), ("a", "../a"), ("a", "a\n")],
)
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str, job_uid: str) -> None:
    """A run's name and a Job's UID become parts of paths, so they are checked."""
    with pytest.raises(JobError) as caught:
        RunFolder(tmp_path, name, job_uid)
    assert caught.value.code == Exit.USAGE


def test_second_process_of_a_run_is_64(tmp_path: Path) -> None:
    """It is refused soon and touches nothing; other runs are free, and so is this one after the first process."""
    output = RunFolder(tmp_path, "a", "local")
    half = tmp_path / "models" / ".a.local"
    with output.begin(manifest()), RunFolder(tmp_path, "b", "local").begin(manifest()):
        half.mkdir(parents=True)
        with pytest.raises(JobError) as caught, RunFolder(tmp_path, "a", "local").begin(manifest()):
            pytest.fail("begun")
        assert (caught.value.code, caught.value.reason) == (Exit.USAGE, "run-in-use")
        assert half.is_dir()
    with RunFolder(tmp_path, "a", "local").begin(manifest()):
        assert not half.exists()


def test_run_waits_while_prune_looks_at_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune holds a shared lock for a moment."""
    with RunFolder(tmp_path, "a", "local").begin(manifest()):
        pass
    lock = os.open(tmp_path / "runs" / "a" / "lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    monkeypatch.setattr("job.output.run_lock.time.sleep", lambda _: os.close(lock))
    with RunFolder(tmp_path, "a", "local").begin(manifest()) as verdict:
        assert verdict is None


@pytest.mark.parametrize("held", [BlockingIOError, PermissionError], ids=["NFS", "SMB"])
def test_job_waits_for_the_lock_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: type[OSError]
) -> None:
    """The lock of a node that died is released late: the next process waits, and gives up with 75."""
    flock = fcntl.flock

    def refuse(lock: int, operation: int) -> None:
        try:
            flock(lock, operation)
        except BlockingIOError:
            raise held from None

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(run_lock, "POLL_S", 0.01)
    first, second = (RunFolder(tmp_path, "a", "0f6e") for _ in range(2))
    with first.begin(manifest("0f6e")):
        monkeypatch.setattr(run_lock, "JOB_WAIT_S", 0.05)
        with pytest.raises(JobError) as caught, second.begin(manifest("0f6e")):
            pytest.fail("begun")
    assert (caught.value.code, caught.value.reason) == (Exit.TRY_AGAIN, "run-in-use")
    assert caught.value.message == "run 'a' is being trained by another process, which has held its lock for 0.05 s"

    monkeypatch.setattr(run_lock, "JOB_WAIT_S", 60)
    with contextlib.ExitStack() as holder:
        holder.enter_context(first.begin(manifest("0f6e")))
        # The second process finds the lock held at first; while it sleeps, the first one ends.
        monkeypatch.setattr(time, "sleep", lambda _: holder.close())
        with second.begin(manifest("0f6e")) as verdict:
            assert verdict is None


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, Exit.TRY_AGAIN) for number in (errno.ENOLCK, errno.ESTALE, errno.ENOTCONN, errno.EIO)),
        *((number, Exit.OUTPUT) for number in (errno.ENOTSUP, errno.ENOSYS, errno.EROFS)),
    ],
)
def test_a_file_system_that_gives_no_lock(
    number: int, code: Exit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS gives no lock while its lock server restarts; other file systems never give one."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(JobError) as caught, RunFolder(tmp_path, "a", "local").begin(manifest()):
        pass
    assert caught.value.code == code
    assert os.strerror(number) in caught.value.message


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.ECONNRESET, errno.EREMOTEIO, errno.EHOSTDOWN])
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_publication_on_a_volume_that_fails_for_now_is_75(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of it."""
    output = RunFolder(tmp_path, "a", "local")
    with output.begin(manifest()):
        pass
    before = tree(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(JobError) as caught:
        output.publish(fill())
    monkeypatch.undo()
    assert (caught.value.code, caught.value.reason) == (Exit.TRY_AGAIN, "output-io")
    assert {path: content for path, content in tree(tmp_path).items() if path != "models"} == before


@pytest.mark.parametrize("root", ["", "absent", "absent/deeper"])
def test_probe_leaves_the_folder_as_it_was(tmp_path: Path, root: str) -> None:
    """A folder that can be written or created passes."""
    RunFolder(tmp_path / root, "a", "local").probe()
    assert tree(tmp_path) == {}


def test_probe_refuses_a_file_system_without_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """73 before anything is trained; nothing is left."""

    def refuse(self: Path, _: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), self)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(JobError) as caught:
        RunFolder(tmp_path, "a", "local").probe()
    assert caught.value.code == Exit.OUTPUT
    assert tree(tmp_path) == {}


def test_output_that_is_a_file_is_73(tmp_path: Path) -> None:
    """The file is named."""
    (tmp_path / "file").touch()
    with pytest.raises(JobError) as caught:
        RunFolder(tmp_path / "file", "a", "local").probe()
    assert (caught.value.code, str(tmp_path / "file") in caught.value.message) == (Exit.OUTPUT, True)


def test_read_only_volume_is_73(volume: Mount) -> None:
    """The probe finds out, whether or not the output folder exists."""
    folder = volume("size=64k")
    (folder / "there").mkdir()
    volume("ro")
    for root in (folder / "there", folder / "absent"):
        with pytest.raises(JobError) as caught:
            RunFolder(root, "a", "local").probe()
        assert caught.value.code == Exit.OUTPUT
        assert caught.value.message.endswith("Read-only file system")
