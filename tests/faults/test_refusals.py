"""What cannot go on, and stops at once: a wrong environment, wrong data, other settings than the run was begun with."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from job.config import Config
from job.dataset.prepare import prepare_dataset
from tests.faults.team import RUN, STEPS, Team, assert_published, assert_same
from tests.fixtures import synthetic, write_idx
from tests.job.processes import contents, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Quiet = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.faults

TASK = {"type": "worker", "index": 0}


def tf_config(cluster: Any, task: Any = TASK) -> str:
    """A TF_CONFIG."""
    return json.dumps({"cluster": cluster, "task": task})


TWO = {"worker": ["127.0.0.1:2001", "127.0.0.2:2001"]}
BAD = {
    "empty": "",
    "blank": " ",
    "not JSON": "{",
    "no object": "[]",
    "a number": "1",
    "null": "null",
    "no cluster": json.dumps({"task": TASK}),
    "no task": json.dumps({"cluster": TWO}),
    "cluster is a list": tf_config(["127.0.0.1:2001"]),
    "task without index": tf_config(TWO, {"type": "worker"}),
    "no workers": tf_config({}),
    "parameter server": tf_config({**TWO, "ps": ["127.0.0.3:2001"]}),
    "evaluator": tf_config(TWO, {"type": "evaluator", "index": 0}),
    "unknown role": tf_config(TWO, {"type": "boss", "index": 0}),
    "index out of range": tf_config(TWO, {"type": "worker", "index": 2}),
    "index below 0": tf_config(TWO, {"type": "worker", "index": -1}),
    "index is text": tf_config(TWO, {"type": "worker", "index": "0"}),
    "index is true": tf_config(TWO, {"type": "worker", "index": True}),
    "two chiefs": tf_config({"chief": ["a:1", "b:1"], **TWO}),
    "a host twice": tf_config({"worker": ["127.0.0.1:2001", "127.0.0.1:2001"]}),
    "chief among workers": tf_config({"chief": ["127.0.0.1:2001"], **TWO}),
    "no port": tf_config({"worker": ["127.0.0.1"]}),
    "port out of range": tf_config({"worker": ["127.0.0.1:65536"]}),
    "address is a number": tf_config({"worker": [2001]}),
}


def refused(tmp_path: Path, variables: dict[str, str]) -> str:
    """The one sentence with which a worker leaves with 64, before it has looked at data or written anything."""
    found = run(f"--data={tmp_path / 'none'}", f"--output={tmp_path / 'output'}", env=variables)
    assert (found.code, found.stdout) == (64, ""), found
    assert list(tmp_path.iterdir()) == []
    assert found.stderr.count("\n") == 1, found.stderr
    return found.stderr


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_bad_tf_config(tmp_path: Path, value: str) -> None:
    """The one worker of a TF_CONFIG that is wrong: 64, and a sentence that names it; no run of one worker begins."""
    assert "TF_CONFIG" in refused(tmp_path, {"TF_CONFIG": value, "RUN": RUN})


def test_tf_config_without_a_run(tmp_path: Path) -> None:
    """A right TF_CONFIG, but nothing names the run: 64, and a sentence that names RUN."""
    assert "RUN is not set" in refused(tmp_path, {"TF_CONFIG": tf_config(TWO)})


@pytest.mark.parametrize(
    "name", ["../outside", "a/b", "/etc", "..", ".", ".hidden", "A", "a b", "a\nb", "-a", "a-", "a.b", "ä", "a" * 64]
)
@pytest.mark.parametrize("by", ["PEERS", "TF_CONFIG", "--name"])
def test_hostile_name(tmp_path: Path, name: str, by: str) -> None:
    """One worker whose run's name would leave the output folder, or names no Job: 64 naming it, nothing is written."""
    peers = json.dumps([["127.0.0.1:2001", "127.0.0.1:2002"]])
    identities = {
        "PEERS": {"PEERS": peers, "WORKERS": "1", "JOB_COMPLETION_INDEX": "0", "JOB_UID": "uid"},
        "TF_CONFIG": {"TF_CONFIG": tf_config({"worker": ["127.0.0.1:2001"]})},
    }
    if by == "--name":
        found = run(f"--data={tmp_path / 'none'}", f"--output={tmp_path / 'output'}", f"--name={name}")
        assert (found.code, found.stdout, list(tmp_path.iterdir())) == (64, "", [])
        assert "--name" in found.stderr
    else:
        assert "RUN" in refused(tmp_path, {**identities[by], "RUN": name})


def sound(team: Team) -> dict[str, bytes]:
    """The checkpoints by name, without what a killed process left of one."""
    return {path.name: path.read_bytes() for path in team.checkpoints.glob("*.safetensors")}


@pytest.mark.parametrize("name", ["train-images.npy", "test-labels.npy", "fingerprint.json"])
def test_damaged_dataset(digits: Path, tmp_path: Path, name: str) -> None:
    """One bit of the dataset is turned over before two workers start: both leave with 65, nothing is published."""
    shutil.copytree(digits, tmp_path / "data")
    path = next((tmp_path / "data").rglob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << 7
    path.write_bytes(content)
    with Team(tmp_path / "data", tmp_path / "output").start() as team:
        assert team.codes() == [65, 65]
        assert team[0].failure()[:2] == (65, "dataset-damaged")
        assert not team.model.exists()


@pytest.mark.parametrize(
    ("missing", "code", "reason"),
    [("mnist", 66, "dataset-missing"), ("mnist/fingerprint.json", 65, "dataset-unprepared")],
)
def test_missing_dataset(digits: Path, tmp_path: Path, missing: str, code: int, reason: str) -> None:
    """The dataset, or its fingerprint, is not there when two workers start: 66, or 65; nothing is written."""
    shutil.copytree(digits, tmp_path / "data")
    path = tmp_path / "data" / missing
    path.rename(tmp_path / "away")
    with Team(tmp_path / "data", tmp_path / "output").start() as team:
        assert team.codes() == [code, code]
        assert team[0].failure()[:2] == (code, reason)
        assert not team.output.exists()


def test_other_dataset_on_a_resumed_run(tmp_path: Path, interrupted: Path) -> None:
    """An interrupted run is started with another dataset of the same name: 65, and its checkpoints are as before."""
    write_idx(tmp_path / "raw", *synthetic(train=6000, test=1000, seed=1))
    prepare_dataset(Config(data=tmp_path / "data"), tmp_path / "raw", lambda _: None)
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(tmp_path / "data", tmp_path / "output", 1) as team:
        before = sound(team)
        team.start()
        assert team[0].failure()[:2] == (65, "dataset-other")
        assert sound(team) == before
        assert not team.model.exists()


def test_other_settings_on_a_resumed_run(digits: Path, tmp_path: Path, interrupted: Path) -> None:
    """An interrupted run is started with other settings: rank 0 leaves with 78, naming them with both values."""
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(digits, tmp_path / "output", 1, ("--seed=1", "--batch-size=50")) as team:
        before = sound(team)
        team.start()
        message = "run 'run' has other settings: batch_size was 100 and is now 50, seed was 0 and is now 1"
        assert team[0].failure() == (78, "other-settings", message)
        assert sound(team) == before


def test_other_number_of_workers(
    digits: Path, tmp_path: Path, quiet_run: Callable[..., Team], interrupted: Path
) -> None:
    """A run that two workers have begun is finished by one, which says so, and by the same order of the examples.

    The parameters after the last step are compared with those of the two workers' uninterrupted run, within what the
    order of summation makes of them.
    """
    shutil.copytree(interrupted, tmp_path / "output")
    with Team(digits, tmp_path / "output", 1).start() as team:
        assert team.codes() == [0], team[0].errors
        said = [record.message or "" for record in team[0].records if record.reason == "resumed"]
        assert [message.endswith(", with 1 workers instead of 2") for message in said] == [True], said
        last = f"{STEPS}.safetensors"
        found, expected = (load_file(one.checkpoints / last) for one in (team, quiet_run()))
        assert sorted(found) == sorted(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)
        assert_published(team, team.result())


def test_other_number_of_workers_where_parameters_are_averaged(digits: Path, tmp_path: Path) -> None:
    """A run of two workers with --sync-every=20 is killed in training and started with one: 78, with the remedy."""
    flags = ("--sync-every=20",)
    with Team(digits, tmp_path, 2, flags).start() as team:
        team[0].until(lambda record: record.checkpoint)
        for worker in team.workers.values():
            worker.kill()
        team.codes()
    with Team(digits, tmp_path, 1, flags) as alone:
        before = sound(alone)
        alone.start()
        message = "the run was trained by 2 workers, not 1, and --sync-every needs the same number"
        assert alone[0].failure() == (78, "other-workers", message)
        assert sound(alone) == before


def test_run_of_another_job(digits: Path, tmp_path: Path, quiet: Quiet, interrupted: Path) -> None:
    """Another Job starts an interrupted run: 64 without --continue, changing nothing; with it, Same."""
    shutil.copytree(interrupted, tmp_path / "output")
    before = contents(tmp_path)
    with Team(digits, tmp_path / "output", 1, uid="uid-2").start() as team:
        assert team[0].failure()[:2] == (64, "run-taken")
    assert contents(tmp_path) == before
    with Team(digits, tmp_path / "output", 2, ("--continue",), uid="uid-2").start() as team:
        assert_same(team, quiet())
