"""Runs that cannot continue and end at once: wrong data, or other settings than those that the run began with."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from job.config import Config
from job.dataset.prepare import prepare_dataset
from tests.faults.team import ENDLESS, STEPS, Team, assert_published, assert_same, copy_with
from tests.fixtures import synthetic, write_idx
from tests.job.processes import ROOT, contents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Undisturbed = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.faults

MODEL = ROOT / "job" / "model.py"


@pytest.mark.parametrize("name", ["train-images.npy", "test-labels.npy", "fingerprint.json"])
def test_a_damaged_dataset(digits: Path, tmp_path: Path, name: str) -> None:
    """Both workers leave with 65 if one bit of the dataset differs, and nothing is published."""
    shutil.copytree(digits, tmp_path / "data")
    path = next((tmp_path / "data").rglob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << 7
    path.write_bytes(content)
    with Team(tmp_path / "data", tmp_path / "output").start() as team:
        assert team.exit_codes() == [65, 65]
        assert team[0].failure()[:2] == (65, "dataset-damaged")
        assert not team.model.exists()


@pytest.mark.parametrize(
    ("missing", "code", "reason"),
    [("mnist", 66, "dataset-missing"), ("mnist/fingerprint.json", 65, "dataset-unprepared")],
)
def test_a_missing_dataset(digits: Path, tmp_path: Path, missing: str, code: int, reason: str) -> None:
    """Both workers leave with 66 without a dataset, and with 65 without its fingerprint; nothing is written."""
    shutil.copytree(digits, tmp_path / "data")
    path = tmp_path / "data" / missing
    path.rename(tmp_path / "away")
    with Team(tmp_path / "data", tmp_path / "output").start() as team:
        assert team.exit_codes() == [code, code]
        assert team[0].failure()[:2] == (code, reason)
        assert not team.output.exists()


def test_a_resumed_run_with_another_dataset(tmp_path: Path, interrupted: Path) -> None:
    """An interrupted run that continues with another dataset ends with 65, and its checkpoints are unchanged."""
    write_idx(tmp_path / "raw", *synthetic(train=6000, test=1000, seed=1))
    prepare_dataset(Config(data=tmp_path / "data"), tmp_path / "raw", lambda _: None)
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(tmp_path / "data", tmp_path / "output", 1) as team:
        before = team.sound_checkpoints()
        team.start()
        assert team[0].failure()[:2] == (65, "dataset-other")
        assert team.sound_checkpoints() == before
        assert not team.model.exists()


def test_a_resumed_run_with_other_settings(digits: Path, tmp_path: Path, interrupted: Path) -> None:
    """An interrupted run that continues with other settings ends with 78, and the message has both values of each."""
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(digits, tmp_path / "output", 1, ("--seed=1", "--batch-size=50")) as team:
        before = team.sound_checkpoints()
        team.start()
        message = "run 'run' has other settings: --batch-size was 100 and is now 50, --seed was 0 and is now 1"
        assert team[0].failure() == (78, "other-settings", message)
        assert team.sound_checkpoints() == before


@pytest.mark.parametrize("edit", [("* (1 / 255)", "* (1 / 256)"), ("[PIXELS, CLASSES]", "[PIXELS + 1, CLASSES]")])
def test_a_resumed_run_with_another_model(
    digits: Path, tmp_path: Path, interrupted: Path, edit: tuple[str, str]
) -> None:
    """An interrupted run whose model.py was edited since ends with 78, whether the parameters' shapes fit or not."""
    source = MODEL.read_text(encoding="utf-8")
    assert source.count(edit[0]) == 1
    edited = source.replace(*edit)
    variables = copy_with(tmp_path, "model.py", edited)
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(digits, tmp_path / "output", 1, variables=variables) as team:
        before = team.sound_checkpoints()
        team.start()
        had, has = (hashlib.sha256(text.encode()).hexdigest()[:12] for text in (source, edited))
        message = f"the model changed since the run began: it had SHA-256 {had}, and {tmp_path}/job/model.py has {has}"
        assert team[0].failure() == (78, "other-model", message)
        assert team.sound_checkpoints() == before


def test_a_resumed_run_with_fewer_workers(
    digits: Path, tmp_path: Path, undisturbed_run: Callable[..., Team], interrupted: Path
) -> None:
    """One worker finishes a run of two workers with the same examples in the same order, and reports the difference.

    The parameters after the last step differ from the two workers' by the order of summation alone.
    """
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(digits, tmp_path / "output", 1).start() as team:
        assert team.exit_codes() == [0], team[0].errors
        [message] = [record.message or "" for record in team[0].records if record.reason == "resumed"]
        assert message.endswith(", with 1 workers instead of 2")
        last = f"{STEPS}.safetensors"
        params, expected = (load_file(one.checkpoints / last) for one in (team, undisturbed_run()))
        assert sorted(params) == sorted(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(params[name], array, rtol=0, atol=1e-5)
        assert_published(team, team.result())


def test_a_resumed_run_with_other_workers_and_sync_every(digits: Path, tmp_path: Path) -> None:
    """A run with --sync-every that was killed and continues with fewer workers ends with 78."""
    flags = ("--sync-every=20", *ENDLESS)
    with Team(digits, tmp_path, 2, flags).start() as team:
        team[0].wait_for_record(lambda record: record.checkpoint)
        for worker in team.workers.values():
            worker.kill()
        team.exit_codes()
    with Team(digits, tmp_path, 1, flags) as alone:
        before = alone.sound_checkpoints()
        alone.start()
        message = "the run was trained by 2 workers, not 1, and --sync-every needs the same number"
        assert alone[0].failure() == (78, "other-workers", message)
        assert alone.sound_checkpoints() == before


def test_a_run_of_another_job(digits: Path, tmp_path: Path, undisturbed: Undisturbed, interrupted: Path) -> None:
    """Another Job that starts an interrupted run ends with 64 and changes nothing; with --continue it succeeds."""
    shutil.copytree(interrupted, tmp_path / "output")
    before = contents(tmp_path, logs=False)
    with Team(digits, tmp_path / "output", 1, uid="uid-2").start() as team:
        assert team[0].failure()[:2] == (64, "run-taken")
    assert contents(tmp_path, logs=False) == before
    with Team(digits, tmp_path / "output", 2, ("--continue",), uid="uid-2").start() as team:
        assert_same(team, undisturbed())
