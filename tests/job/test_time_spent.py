"""Tests of where a worker's time goes."""

from __future__ import annotations

import pytest

from job.time_spent import TimeSpent, goodput


def spent(*records: tuple[float, str, int | None]) -> TimeSpent:
    """The time spent in a worker that starts at 0 and sends these records: time, phase, step."""
    found = TimeSpent(0.0)
    for now, phase, step in records:
        found.update(now, phase, step)
    return found


START = ((1.0, "waiting", None), (3.0, "starting", None), (4.0, "data", None), (6.0, "joining", None))
TRAINED = ((6.5, "restoring", 0), (7.0, "compiling", 0), (9.0, "training", 10), (12.0, "training", 100))


def test_each_phase_belongs_to_a_part() -> None:
    """The parts of a run without a loss; after its end no time is added."""
    end = ((13.0, "evaluating", 100), (15.0, "publishing", 100), (16.0, "published", 100))
    found = spent(*START, *TRAINED, *end)
    assert found.at(99.0) == {
        "importing": 4.0,  # 1 before the waiting, 3 after it
        "gathering": 2.5,
        "compiling": 2.5,
        "training": 4.0,
        "evaluating": 2.0,
        "publishing": 1.0,
    }
    assert goodput(found.at(99.0)) == 4 / 16
    assert goodput({}) == 0


def test_a_loss_lasts_until_a_step_beyond_all_earlier_ones() -> None:
    """Waiting, compiling and repeated steps are no progress."""
    lost = (
        *((20.0, "restarting", 100), (21.0, "waiting", 100), (22.0, "starting", None), (25.0, "compiling", 50)),
        *((26.0, "training", 51), (28.0, "training", 100), (29.0, "training", 101)),
    )
    found = spent(*START, *TRAINED, *lost)
    assert found.at(31.0)["recovering"] == 9.0
    assert found.at(31.0)["training"] == 11.0 + 2.0
    assert sum(found.at(31.0).values()) == 31.0


@pytest.mark.parametrize("phase", ["evaluating", "publishing"])
def test_a_loss_after_the_last_step_ends_with_the_evaluation(phase: str) -> None:
    """No further step follows."""
    found = spent(*TRAINED, (20.0, "restarting", 100), (21.0, "compiling", 100), (23.0, phase, 100))
    assert found.at(24.0)["recovering"] == 3.0
    assert found.at(24.0)[phase] == 1.0


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    """Times in logs are those of the node's clock, which may be set."""
    found = spent((5.0, "training", 1), (3.0, "training", 2), (6.0, "training", 3))
    assert found.at(6.0) == {"importing": 5.0, "training": 1.0}


def test_the_time_of_an_earlier_pod_is_added() -> None:
    """Between the two the worker was replaced, and until a new step it recovers."""
    earlier = TimeSpent(0.0, {"compiling": 2.0, "training": 5.0}, "training", furthest=100)
    earlier.update(7.0, "training", 100)
    found = TimeSpent(50.0, {"importing": 3.0, "gathering": 1.0}, "gathering")
    found.add_earlier(earlier, 10.0)
    found.update(52.0, "compiling", 60)
    found.update(55.0, "training", 101)
    assert found.at(56.0) == {
        "compiling": 2.0,
        "training": 5.0 + 7.0 + 1.0,
        "replacing": 3.0,
        "importing": 3.0,
        "gathering": 1.0 + 2.0,
        "recovering": 3.0,
    }


def test_a_trainer_continues_what_its_supervisor_counted() -> None:
    """The text holds everything."""
    found = spent(*TRAINED, (20.0, "restarting", 100))
    assert TimeSpent.load(found.dump()) == found
