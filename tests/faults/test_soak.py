"""Runs with random kills, one after another, for MINUTES."""

from __future__ import annotations

import os
import random
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.team import Team, assert_same
from tests.faults.test_trainer import KILLS, LONG, kill_at_random

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif("MINUTES" not in os.environ, reason="MINUTES is not set: make soak MINUTES=20"),
]


def test_random_kills_for_minutes(
    digits: Path,
    undisturbed: Callable[..., Mapping[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Runs of one to three workers survive kills of any rank's trainer or whole worker."""
    minutes = float(os.environ["MINUTES"])

    def log(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    log("")
    runs = survived = 0
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        rng = random.Random(runs)  # noqa: S311 - no secret
        count = rng.randint(1, 3)
        kills = 0
        try:
            with Team(digits, tmp_path / str(runs), count, LONG).start() as team:
                kills = kill_at_random(team, rng, KILLS)
                assert_same(team, undisturbed(count, LONG))
        except AssertionError:
            log(f"run {runs}, {count} workers, after {kills} kills: failed")
            raise
        runs, survived = runs + 1, survived + kills
        log(f"run {runs - 1}, {count} workers, {kills} kills: succeeded; {survived} kills survived so far")
    log(f"{survived} kills survived in {runs} runs and {minutes:g} minutes; no result differs")
