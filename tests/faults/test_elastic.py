"""With --min-workers, a run goes on while workers are missing, and takes in those that come later.

The parameters are those of an undisturbed run to float tolerance: the sums are the same, but in another order.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors import numpy as safetensors

from job.system.files import read_json
from tests.faults.team import RUN, Team

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

pytestmark = pytest.mark.faults

WORKERS = 4
LONG = ("--epochs=150",)  # 9,000 steps, so that a worker that comes back is taken in well before the end
TOLERANCE = 1e-5


def parameters(team: Team) -> dict[str, Any]:
    """The parameters of the run's last checkpoint, from which the model was published."""
    newest = max(team.checkpoints.glob("*.safetensors"), key=lambda path: int(path.stem))
    return safetensors.load_file(newest)


def assert_same_to_tolerance(team: Team, undisturbed: Team) -> list[int]:
    """The run is published once, with the undisturbed run's parameters; returns how many workers trained in turn."""
    assert team[0].exit_code() == 0, (team[0].records[-3:], team[0].errors)
    assert team.publications() == [RUN]
    expected, found = parameters(undisturbed), parameters(team)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=TOLERANCE)
    report = read_json(team.model / "report.json")
    assert report
    assert report["sizes"][0]["step"] == 0
    steps = [size["step"] for size in report["sizes"]]
    assert steps == sorted(set(steps))
    return [size["workers"] for size in report["sizes"]]


def messages(team: Team, rank: int) -> list[str]:
    """What a worker has said while it waited."""
    return [record.message or "" for record in team[rank].records if record.phase == "waiting"]


def test_a_worker_that_does_not_come_back(digits: Path, tmp_path: Path, undisturbed_run: Callable[..., Team]) -> None:
    """The others go on without it from the same step, and publish. The last rank and one between others are alike."""
    undisturbed = undisturbed_run(WORKERS)  # before, because so many trainers at a time would take minutes
    with Team(digits, tmp_path, WORKERS, ("--min-workers=2",)).start() as team:
        team[0].wait_for_step(100)
        team[2].kill()
        assert assert_same_to_tolerance(team, undisturbed) == [4, 3]
        assert [team[rank].exit_code() for rank in (1, 3)] == [0, 0]
        assert messages(team, 3)[-1] == "training with 3 of 4 workers"


def test_a_worker_that_comes_back_is_taken_in(
    digits: Path, tmp_path: Path, undisturbed_run: Callable[..., Team]
) -> None:
    """Not at once, but after the next checkpoint. All stop at one step, so that none is lost."""
    undisturbed = undisturbed_run(WORKERS, LONG)
    with Team(digits, tmp_path, WORKERS, (*LONG, "--min-workers=2")).start() as team:
        place = team[0].wait_for_step(100)
        team[3].kill()
        team[3].exit_code()
        team[0].wait_for_phase("restoring", place)
        team.start(3)
        assert assert_same_to_tolerance(team, undisturbed) == [4, 3, 4]
        assert [worker.exit_code() for worker in team.workers.values()] == [0] * WORKERS
        resumed = [record for record in team[0].records if record.reason == "resumed"][-1]
        assert f"asked to stop at step {resumed.step}" in [record.message for record in team[0].records]


@pytest.mark.parametrize("least", [1, 2])
def test_workers_that_come_and_go(
    digits: Path, tmp_path: Path, undisturbed_run: Callable[..., Team], least: int
) -> None:
    """Workers other than rank 0 are killed and replaced at random, also more of them than the run can miss."""
    undisturbed = undisturbed_run(WORKERS, LONG)
    rng = random.Random(least)  # noqa: S311 - no secret
    with Team(digits, tmp_path, WORKERS, (*LONG, f"--min-workers={least}")).start() as team:
        place = 0
        for step in sorted(rng.sample(range(200, 7000), 6)):
            place = team[0].wait_for_step(step, place)
            rank = rng.randrange(1, WORKERS)
            if team[rank].process.poll() is None:
                team[rank].kill()
                team[rank].exit_code()
            if rng.random() < 0.5 or sum(each.process.poll() is None for each in team.workers.values()) < least:
                team.start(rank)
        sizes = assert_same_to_tolerance(team, undisturbed)
        assert sizes[0] == WORKERS
        assert min(sizes) >= least
