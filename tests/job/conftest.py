"""Fixtures of the tests that run the whole command."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.job import processes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.job.processes import Ended


class Trained(NamedTuple):
    """A finished run named `good` of two workers and 12 steps, whose output is not to be changed."""

    data: Path
    output: Path
    ended: Ended


@pytest.fixture(scope="session")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One good run, as it went without a terminal."""
    output = tmp_path_factory.mktemp("good") / "output"
    ended = processes.run("--data", prepared, "--output", output, "--name=good", "--workers=2", "--epochs=2")
    return Trained(prepared, output, ended)
