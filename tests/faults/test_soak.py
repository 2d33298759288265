"""Runs of random kills, one after another, for as many minutes as asked."""

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
    pytest.mark.skipif("MINUTES" not in os.environ, reason="it takes as long as asked: MINUTES=20"),
]


def test_random_kills_for_minutes(
    digits: Path,
    quiet: Callable[..., Mapping[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Runs of 1 to 3 workers, any rank, trainer or worker, each kill beyond the last one's step: same models."""
    minutes = float(os.environ["MINUTES"])

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    say("")
    runs = survived = 0
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        rng = random.Random(runs)  # noqa: S311 - no secret
        count = rng.randint(1, 3)
        reference = quiet(count, LONG)
        kills = 0
        try:
            with Team(digits, tmp_path / str(runs), count, LONG).start() as team:
                kills = kill_at_random(team, rng, KILLS)
                assert_same(team, reference)
        except AssertionError:
            say(f"run {runs}, {count} workers, after {kills} kills: DIFFERS")
            raise
        runs, survived = runs + 1, survived + kills
        say(f"run {runs - 1}, {count} workers, {kills} kills: the same; {survived} kills survived so far")
    say(f"{survived} kills survived in {runs} runs and {minutes:g} minutes, no difference")
