"""Tests of what must match when a run is resumed."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import job
from job.config import Config
from job.errors import Exit, JobError
from job.must_match import check_match, model_sha256, settings_hash, settings_to_match
from tests.job.processes import ROOT

FINGERPRINT = {"train": {"sha256": "a" * 64}, "test": {"sha256": "b" * 64}}
BEFORE = {"train": "a" * 64, "test": "b" * 64, "model": "c" * 64, "seed": 0, "epochs": 10}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which the job's modules are imported, with a model.py that cannot be imported."""
    (tmp_path / "model.py").write_text("this is no Python")
    monkeypatch.delitem(sys.modules, "job.model", raising=False)
    monkeypatch.setattr(job, "__path__", [str(tmp_path)])
    return tmp_path


def test_the_settings_hash_covers_exactly_what_must_match(package: Path) -> None:
    """The data, the model and what determines the parameters change it; workers, paths and intervals do not."""

    def digest(config: Config, fingerprint: Any = FINGERPRINT) -> str:
        return settings_hash(settings_to_match(config, fingerprint))

    base = digest(Config())
    assert base == digest(Config())
    assert len(base) == 64
    other: dict[str, Any] = {
        "epochs": 11,
        "batch_size": 101,
        "learning_rate": 1.5,
        "schedule": "constant",
        "seed": 1,
        "dataset": "kmnist",  # counts by its fingerprint
        "data": Path("elsewhere"),
        "output": Path("elsewhere"),
        "name": "other",
        "model": Path("elsewhere"),  # counts by its content
        "workers": 2,
        "min_workers": 1,
        "sync_every": 2,
        "evaluate_every": 0,
        "log_every": 1,
        "checkpoint_every": 1,
        "continue_": True,
        "join_timeout": 1,
        "stall_timeout": 5,
        "min_accuracy": 0.5,
        "min_class_accuracy": 0.5,
        "promote": "never",
        "device": "gpu",
        "threads": 1,
    }
    hashes = {field: digest(dataclasses.replace(Config(), **{field: value})) for field, value in other.items()}
    changing = {field for field in hashes if hashes[field] != base}
    assert set(other) == {field.name for field in dataclasses.fields(Config)}
    assert changing == {"epochs", "batch_size", "learning_rate", "schedule", "seed", "sync_every"}
    fingerprints = [digest(Config(), FINGERPRINT | {split: {"sha256": "c" * 64}}) for split in ("train", "test")]
    (package / "model.py").write_text("# another\n")
    assert len({base, *fingerprints, digest(Config()), *(hashes[field] for field in changing)}) == 10


def test_the_hash_of_the_model_is_that_of_the_file_which_is_imported(package: Path) -> None:
    """Its bytes count; the file itself is not imported, for that would import TensorFlow."""
    assert model_sha256() == hashlib.sha256(b"this is no Python").hexdigest()
    (package / "model.py").write_bytes(b"\xff")
    assert model_sha256() == hashlib.sha256(b"\xff").hexdigest()
    (package / "model").mkdir()
    (package / "model" / "__init__.py").write_bytes(b"a package takes precedence")
    assert model_sha256() == hashlib.sha256(b"a package takes precedence").hexdigest()


def test_the_projects_own_model_is_found() -> None:
    """Whether it has been imported before or not."""
    assert model_sha256() == hashlib.sha256((ROOT / "job" / "model.py").read_bytes()).hexdigest()


def test_a_model_on_a_disk_that_fails_for_now_is_75(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be read later."""

    def refuse(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(JobError) as caught:
        settings_to_match(Config(), FINGERPRINT)
    assert caught.value.code == Exit.TRY_AGAIN
    assert caught.value.message == f"the system failed at {package / 'model.py'}: Input/output error"


@pytest.mark.parametrize("instead", ["nothing", "a folder"])
def test_a_model_that_is_not_there_is_64(package: Path, instead: str) -> None:
    """A mount of a file that does not exist leaves an empty folder in its place."""
    file = package / "model.py"
    file.unlink()
    if instead == "a folder":
        file.mkdir()
    with pytest.raises(JobError) as caught:
        settings_to_match(Config(), FINGERPRINT)
    assert caught.value.code == Exit.USAGE
    assert caught.value.message.startswith(f"the model {file} cannot be read: ")


def test_another_model_is_78_and_the_file_is_named(package: Path) -> None:
    """The message comes before any other difference, with both hashes and what to do."""
    for others in ({}, {"seed": 3}):
        with pytest.raises(JobError) as caught:
            check_match("run 'a'", BEFORE, BEFORE | {"model": "d" * 64} | others)
        assert (caught.value.code, caught.value.reason) == (Exit.SETTINGS, "other-model")
        assert str(caught.value) == (
            f"the model changed since the run began: it had SHA-256 cccccccccccc, and {package}/model.py has "
            "dddddddddddd; give the original file with --model, restore model.py, or use another --name"
        )


def test_a_run_of_a_version_without_the_hash_resumes() -> None:
    """Its model is not known; its settings must match all the same."""
    old = {name: value for name, value in BEFORE.items() if name != "model"}
    check_match("run 'a'", old, BEFORE)
    with pytest.raises(JobError, match="run 'a' has other settings: --seed was 0 and is now 3"):
        check_match("run 'a'", old, BEFORE | {"seed": 3})
