"""What the tests of faults share: the data, and how the run goes without a fault."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from job.config import Config
from job.dataset.prepare import prepare_dataset
from tests.faults.team import BEFORE, STEPS, Team
from tests.fixtures import synthetic, write_idx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POINTS = int(os.environ.get("POINTS", "3"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes a `point` runs at POINTS seeded ones, each a share of the run's steps."""
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", [round(random.Random(seed).uniform(0.05, 0.9), 3) for seed in range(POINTS)])  # noqa: S311 - no secret


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 6,000 training and 1,000 test images; tests that change it copy it first."""
    raw, folder = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    write_idx(raw, *synthetic(train=6000, test=1000))
    prepare_dataset(Config(data=folder), raw, lambda _: None)
    return folder


@pytest.fixture(scope="session")
def quiet_run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Team]:
    """The run without a fault, ended, by number of workers and flags; each is made once, and is not to be changed."""
    teams: dict[Any, Team] = {}

    def run(count: int = 2, flags: tuple[str, ...] = ()) -> Team:
        if (count, flags) not in teams:
            with Team(digits, tmp_path_factory.mktemp("quiet"), count, flags).start() as team:
                assert team.codes() == [0] * count, [worker.errors for worker in team.workers.values()]
            teams[count, flags] = team
        return teams[count, flags]

    return run


@pytest.fixture(scope="session")
def quiet(quiet_run: Callable[..., Team]) -> Callable[..., dict[str, Any]]:
    """The result of the run without a fault, by number of workers and flags."""
    return lambda count=2, flags=(): quiet_run(count, flags).result()


@pytest.fixture(scope="session")
def interrupted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run whose two workers were killed half-way; tests copy it first."""
    with Team(digits, tmp_path_factory.mktemp("interrupted")).start() as team:
        team[0].until_step(STEPS // 2)
        for worker in team.workers.values():
            worker.kill()
        team.codes()
    return team.output


@pytest.fixture(scope="session")
def published(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with a run that is published, BEFORE, and `latest`; tests copy it first."""
    flags, variables = ("--epochs=5",), {"RUN": BEFORE}
    with Team(digits, tmp_path_factory.mktemp("published"), 1, flags, variables).start() as team:
        assert team.codes() == [0], team[0].errors
    return team.output


@pytest.fixture
def step(point: float) -> int:
    """The step at which something is to happen."""
    return round(point * STEPS)
