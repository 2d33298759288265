"""Fixtures of the fault tests: runs that several tests compare with or continue."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.team import BEFORE, SHORT, STEPS, Team

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POINTS = int(os.environ.get("POINTS", "3"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a `point` at POINTS seeded ones, from 0 to 1."""
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", [round(random.Random(seed).random(), 3) for seed in range(POINTS)])  # noqa: S311 - no secret


@pytest.fixture
def step(point: float) -> int:
    """A seeded step in the first half, so that a test that the machine delays is not late."""
    return round((0.02 + 0.4 * point) * STEPS)


@pytest.fixture(scope="session")
def undisturbed_run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Team]:
    """A finished run without a fault, by number of workers and flags. Each one is made once; tests only read it."""
    teams: dict[Any, Team] = {}

    def run(count: int = 2, flags: tuple[str, ...] = ()) -> Team:
        if (count, flags) not in teams:
            with Team(digits, tmp_path_factory.mktemp("undisturbed"), count, flags).start() as team:
                assert team.exit_codes() == [0] * count, [worker.errors for worker in team.workers.values()]
            teams[count, flags] = team
        return teams[count, flags]

    return run


@pytest.fixture(scope="session")
def undisturbed(undisturbed_run: Callable[..., Team]) -> Callable[..., dict[str, Any]]:
    """The result of the run without a fault, by number of workers and flags."""
    return lambda count=2, flags=(): undisturbed_run(count, flags).result()


@pytest.fixture(scope="session")
def interrupted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run whose two workers were killed in training. Tests copy it first."""
    with Team(digits, tmp_path_factory.mktemp("interrupted")).start() as team:
        team[0].wait_for_step(STEPS // 10)
        for worker in team.workers.values():
            worker.kill()
        team.exit_codes()
    return team.output


@pytest.fixture(scope="session")
def published(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with one published run, BEFORE, which is `latest`. Tests copy it first."""
    with Team(digits, tmp_path_factory.mktemp("published"), 1, SHORT, {"RUN": BEFORE}).start() as team:
        assert team.exit_codes() == [0], team[0].errors
    return team.output
