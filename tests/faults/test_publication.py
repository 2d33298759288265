"""Faults of the publication: a kill before, in and after it, a rejected model, and two runs at the same time."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job.config import Config
from job.dataset.prepare import prepare_dataset
from tests.faults.team import (
    ALONE,
    ALONE_EARLY,
    BEFORE,
    RUN,
    SHORT,
    Team,
    assert_published,
    assert_same,
    publishes_through_a_gate,
)
from tests.fixtures import CLASSES, synthetic, write_idx
from tests.job.processes import contents, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    Undisturbed = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.faults

FILES = 8  # a published model has a few more; their number shows how far a publication is


def written_files(team: Team) -> int:
    """How many files of the model exist, in its temporary folder or in its own."""
    if team.model.exists():
        return FILES
    return sum(len(files) for folder in team.model.parent.glob(f".{RUN}.*") for _, _, files in os.walk(folder))


def assert_rank_0_succeeds(team: Team, reference: dict[str, Any]) -> None:
    """Rank 0 exits with 0 and the run is published; rank 1 succeeds too, or waits for rank 0, which has finished.

    In a cluster the Job succeeds with rank 0, and its controller then terminates rank 1.
    """
    assert team[0].exit_code() == 0, (team[0].records[-3:], team[0].errors[-5:])
    worker = team[1]
    wait_until(
        lambda: worker.process.poll() is not None or worker.phases()[-1] in {"waiting", "restarting"},
        "the end of rank 1's training",
    )
    worker.terminate()
    assert worker.exit_code() in {0, 75}, (worker.records[-3:], worker.errors[-5:])
    assert_published(team, reference)


def test_rank_0_is_killed_when_it_has_published(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Rank 0, killed when it reports that the run is published, exits with 0 at its next start and changes nothing."""
    with Team(digits, tmp_path, 2, SHORT).start() as team:
        team[0].wait_for_phase("published")
        team[0].kill()
        assert [team[rank].exit_code() for rank in (0, 1)] in ([-signal.SIGKILL, 0], [0, 0])
        before = contents(tmp_path, logs=False)
        team.start(0)
        assert_same(team, undisturbed(2, SHORT))
        assert team[0].phases() == ["published"]
        assert contents(tmp_path, logs=False) == before


def test_rank_0_is_killed_when_the_model_appears(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Rank 0, killed when models/run exists, promotes this model unchanged at its next start, and exits with 0."""
    with Team(digits, tmp_path, 2, SHORT).start() as team:
        wait_until(team.model.exists, "the model")
        team[0].kill()
        team[0].exit_code()
        before = contents(team.model)
        team.start(0)
        assert_rank_0_succeeds(team, undisturbed(2, SHORT))
        assert team[0].phases() == ["published"]
        assert contents(team.model) == before


def test_rank_0_is_killed_when_it_evaluates(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Rank 0 is killed when it reports that it evaluates, and replaced: the run succeeds."""
    with Team(digits, tmp_path, 2, SHORT).start() as team:
        team[0].wait_for_phase("evaluating")
        team[0].kill()
        team[0].exit_code()
        team.start(0)
        assert_rank_0_succeeds(team, undisturbed(2, SHORT))


def test_the_trainer_of_rank_0_is_killed_when_it_publishes(
    digits: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """The trainer is started again, and the run succeeds."""
    variables, gate = publishes_through_a_gate(tmp_path)
    with Team(digits, tmp_path / "output", 2, SHORT, variables).start() as team:
        team[0].wait_for_phase("publishing")
        team[0].kill_trainer()
        gate.unlink()
        assert_rank_0_succeeds(team, undisturbed(2, SHORT))


def test_a_trainer_is_killed_while_it_publishes(
    digits: Path, tmp_path: Path, undisturbed: Undisturbed, point: float
) -> None:
    """The trainer of a run's only worker is killed after a seeded number of the model's files: the run succeeds."""
    files = 1 + int(point * (FILES - 1))
    with Team(digits, tmp_path, 1, SHORT).start() as team:
        team[0].wait_for_phase("data")
        trainer = team[0].trainer()
        wait_until(lambda: written_files(team) >= files, f"{files} files")
        with suppress(ProcessLookupError):  # on a fast machine it may have exited meanwhile
            os.kill(trainer, signal.SIGKILL)
        assert_same(team, undisturbed(1, SHORT))


def test_loss_that_is_not_finite(digits: Path, tmp_path: Path, published: Path) -> None:
    """With a learning rate of 1e38 both ranks leave with 76 at each start, and nothing is published."""
    output = tmp_path / "output"
    shutil.copytree(published, output, symlinks=True)
    with Team(digits, output, 2, (*SHORT, "--learning-rate=1e38")) as team:
        for _ in range(2):
            team.start()
            assert team.exit_codes() == [76, 76]
            assert [team[rank].records[-1].reason for rank in (0, 1)] == ["loss-not-finite"] * 2
            assert team.publications() == [BEFORE]
            assert (output / "latest").readlink() == Path("models") / BEFORE


def test_accuracy_below_the_minimum(tmp_path: Path, published: Path) -> None:
    """A model below --min-accuracy is published and rejected: rank 0 exits with 69, rank 1 with 0, `latest` stays.

    Rank 0 reports the same at its next start, and changes nothing. One test image has a wrong label, so that no model
    classifies all of them correctly.
    """
    mislabelled = synthetic()
    mislabelled.test_labels[0] = (mislabelled.test_labels[0] + 1) % CLASSES
    write_idx(tmp_path / "raw", *mislabelled)
    prepare_dataset(Config(data=tmp_path / "data"), tmp_path / "raw", lambda _: None)
    output = tmp_path / "output"
    shutil.copytree(published, output, symlinks=True)
    with Team(tmp_path / "data", output, 2, (*SHORT, "--min-accuracy=1")).start() as team:
        assert team.exit_codes() == [69, 0]
        first = team[0].records[-1]
        assert (first.phase, first.code, first.reason) == ("published", 69, "rejected")
        before = contents(output, logs=False)
        team.start(0)
        assert team[0].exit_code() == 69
        again = team[0].records[-1]
        assert (again.phase, again.code, again.reason) == ("published", 69, "rejected")
        assert again.message == f"published before: {first.message}"
        assert contents(output, logs=False) == before
    assert (output / "latest").readlink() == Path("models") / BEFORE


def test_two_runs_with_one_output_folder(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Two runs that train and publish at the same time are both published, and `latest` is one of them."""
    variables = {"RUN": BEFORE}
    with Team(digits, tmp_path, 1, SHORT) as team, Team(digits, tmp_path, 1, SHORT, variables, "uid-2") as other:
        team.start()
        other.start()
        assert team.exit_codes() + other.exit_codes() == [0, 0]
        assert contents(tmp_path / "models" / BEFORE / "saved_model" / "1" / "variables") == contents(
            team.model / "saved_model" / "1" / "variables"
        )
        latest = (tmp_path / "latest").readlink()
        assert latest in {Path("models") / BEFORE, Path("models") / RUN}
        (tmp_path / "latest").unlink()
        (tmp_path / "latest").symlink_to(f"models/{RUN}")
        assert_published(team, undisturbed(1, SHORT), BEFORE)


def test_two_processes_with_one_run(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """While a worker trains a run, a second process of its Job and one of another Job leave with 64.

    The worker is stopped meanwhile, so that the others certainly find it in training.
    """
    first = Team(digits, tmp_path, 1, ALONE, uid="local")
    second = Team(digits, tmp_path, 1, ALONE, uid="local")
    third = Team(digits, tmp_path, 1, ALONE, uid="uid-3")
    with first, second, third:
        first.start()
        first[0].wait_for_step(ALONE_EARLY)
        os.killpg(first[0].process.pid, signal.SIGSTOP)
        second.start()
        third.start()
        assert second.exit_codes() + third.exit_codes() == [64, 64]
        assert second[0].records[-1].reason == "run-in-use"
        assert third[0].records[-1].reason == "run-taken"
        os.killpg(first[0].process.pid, signal.SIGCONT)
        assert_same(first, undisturbed(1, ALONE))
        assert first[0].reasons() == []
