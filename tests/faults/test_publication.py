"""Faults around the publication: killed before, inside and after it, refused by the gate, and two at one time."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job.config import Config
from job.dataset.prepare import prepare_dataset
from tests.faults.team import BEFORE, RUN, Team, assert_published, assert_same
from tests.fixtures import CLASSES, synthetic, write_idx
from tests.job.processes import DEADLINE_S, contents

if TYPE_CHECKING:
    from collections.abc import Callable

    Quiet = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.faults

SHORT = ("--epochs=5",)
FILES = 8  # of a published model, nearly: moments inside a publication are told by how many are there


def until(condition: Callable[[], object]) -> None:
    """Wait for what no record tells, looking a thousand times a second."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def written(team: Team) -> int:
    """How many files of the model are there, under its temporary name or its own."""
    if team.model.exists():
        return FILES
    return sum(len(files) for folder in team.model.parent.glob(f".{RUN}.*") for _, _, files in os.walk(folder))


def assert_rank_0_succeeds(team: Team, reference: dict[str, Any]) -> None:
    """Rank 0 ends with 0 and the run is published once; the others succeed, or wait in vain for who has finished.

    The Job is over with rank 0: it ends the others as is done here.
    """
    assert team[0].code() == 0, (team[0].records[-3:], team[0].errors[-5:])
    worker = team[1]
    until(lambda: worker.process.poll() is not None or worker.phases()[-1] in {"waiting", "restarting"})
    worker.terminate()
    assert worker.code() in {0, 75}, (worker.records[-3:], worker.errors[-5:])
    assert_published(team, reference)


def test_rank_0_is_killed_when_it_has_published(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """Rank 0's supervisor and trainer are killed when it tells phase=published; started again it exits 0 at once.

    Nothing on the volume changes, and the model is that of the uninterrupted run. Rank 1 has succeeded by itself.
    """
    with Team(digits, tmp_path, 2, SHORT).start() as team:
        team[0].until_phase("published")
        team[0].kill()
        assert [team[rank].code() for rank in (0, 1)] in ([-signal.SIGKILL, 0], [0, 0])
        before = contents(tmp_path)
        team.start(0)
        assert_same(team, quiet(2, SHORT))
        assert team[0].phases() == ["published"]
        assert contents(tmp_path) == before


def test_rank_0_is_killed_when_the_model_appears(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """Rank 0's supervisor and trainer are killed when models/run is there; started again it promotes it and exits 0.

    The model does not change, and is that of the uninterrupted run.
    """
    with Team(digits, tmp_path, 2, SHORT).start() as team:
        until(team.model.exists)
        team[0].kill()
        team[0].code()
        before = contents(team.model)
        team.start(0)
        assert_rank_0_succeeds(team, quiet(2, SHORT))
        assert team[0].phases() == ["published"]
        assert contents(team.model) == before


@pytest.mark.parametrize(("phase", "whole"), [("evaluating", True), ("publishing", False)])
def test_rank_0_is_killed_after_the_last_step(
    digits: Path, tmp_path: Path, quiet: Quiet, phase: str, *, whole: bool
) -> None:
    """Rank 0 is killed when it tells that it evaluates, or its trainer when it publishes: one publication, Same."""
    with Team(digits, tmp_path, 2, SHORT).start() as team:
        team[0].until_phase(phase)
        if whole:
            team[0].kill()
            team[0].code()
            team.start(0)
        else:
            team[0].kill_trainer()
        assert_rank_0_succeeds(team, quiet(2, SHORT))


def test_rank_0_is_killed_while_it_publishes(digits: Path, tmp_path: Path, quiet: Quiet, point: float) -> None:
    """Rank 0's trainer is killed when so many files of the model are written: one publication, Same."""
    wanted = round(point * FILES)
    with Team(digits, tmp_path, 2, SHORT).start() as team:
        until(lambda: written(team) >= wanted)
        team[0].kill_trainer()
        assert_rank_0_succeeds(team, quiet(2, SHORT))


def test_loss_that_is_not_finite(digits: Path, tmp_path: Path, published: Path) -> None:
    """A learning rate of 1e38: every rank leaves with 76, at each start; nothing is published."""
    output = tmp_path / "output"
    shutil.copytree(published, output, symlinks=True)
    with Team(digits, output, 2, (*SHORT, "--learning-rate=1e38")) as team:
        for _ in range(2):
            team.start()
            assert team.codes() == [76, 76]
            assert [team[rank].records[-1].reason for rank in (0, 1)] == ["loss-not-finite"] * 2
            assert team.publications() == [BEFORE]
            assert (output / "latest").readlink() == Path("models") / BEFORE


def test_accuracy_below_the_minimum(tmp_path: Path, published: Path) -> None:
    """A model below --min-accuracy is published but rejected: rank 0 leaves with 69, rank 1 with 0, `latest` stays.

    One test image has the label of another class, so that no model classifies all rightly. Started again it says the
    same, and changes nothing.
    """
    mislabelled = synthetic()
    mislabelled.test_labels[0] = (mislabelled.test_labels[0] + 1) % CLASSES
    write_idx(tmp_path / "raw", *mislabelled)
    prepare_dataset(Config(data=tmp_path / "data"), tmp_path / "raw", lambda _: None)
    output = tmp_path / "output"
    shutil.copytree(published, output, symlinks=True)
    with Team(tmp_path / "data", output, 2, (*SHORT, "--min-accuracy=1")).start() as team:
        assert team.codes() == [69, 0]
        first = team[0].records[-1]
        assert (first.phase, first.code, first.reason) == ("published", 69, "rejected")
        before = contents(output)
        team.start(0)
        assert team[0].code() == 69
        again = team[0].records[-1]
        assert (again.phase, again.code, again.reason) == ("published", 69, "rejected")
        assert again.message == f"published before: {first.message}"
        assert contents(output) == before
    assert (output / "latest").readlink() == Path("models") / BEFORE


def test_two_runs_with_one_output_folder(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """Two runs of one worker train and publish at the same time: each is whole, Same, and `latest` names one."""
    variables = {"RUN": BEFORE}
    with Team(digits, tmp_path, 1, SHORT) as team, Team(digits, tmp_path, 1, SHORT, variables, "uid-2") as other:
        team.start()
        other.start()
        assert team.codes() + other.codes() == [0, 0]
        assert contents(tmp_path / "models" / BEFORE / "saved_model" / "1" / "variables") == contents(
            team.model / "saved_model" / "1" / "variables"
        )
        latest = (tmp_path / "latest").readlink()
        assert latest in {Path("models") / BEFORE, Path("models") / RUN}
        (tmp_path / "latest").unlink()
        (tmp_path / "latest").symlink_to(f"models/{RUN}")
        assert_published(team, quiet(1, SHORT), BEFORE)


def test_two_processes_with_one_run(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """While one worker trains a run, a second process and another Job's take its name: both leave with 64.

    The first, supervisor and trainer, is held up by SIGSTOP meanwhile, for the others to find it in training, and then
    goes on: Same.
    """
    first = Team(digits, tmp_path, 1, uid="local")
    second = Team(digits, tmp_path, 1, uid="local")
    third = Team(digits, tmp_path, 1, uid="uid-3")
    with first, second, third:
        first.start()
        first[0].until_step(100)
        os.killpg(first[0].process.pid, signal.SIGSTOP)
        second.start()
        third.start()
        assert second.codes() + third.codes() == [64, 64]
        assert second[0].records[-1].reason == "run-in-use"
        assert third[0].records[-1].reason == "run-taken"
        os.killpg(first[0].process.pid, signal.SIGCONT)
        assert_same(first, quiet(1))
        assert first[0].reasons() == []
