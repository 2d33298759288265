"""Tests of the statistics of a training run, with a clock that is set by hand."""

from __future__ import annotations

import pytest

from job.training.statistics import TrainingStatistics


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The present second."""
        return self.now


def test_records_tell_what_was_made_since_the_last_one() -> None:
    """Mean loss and speed are of the steps since the record before; the first block, which compiles, is no measure."""
    clock = Clock()
    statistics = TrainingStatistics(40, clock)
    clock.now += 5  # compiling
    statistics.record_block(10, 200.0, 100)
    first = statistics.summary(1, None)
    for step, loss in ((15, 60.0), (20, 30.0)):
        clock.now += 1
        statistics.record_block(step, loss, 50)
    clock.now += 7  # an evaluation
    statistics.restart_clock()
    second = statistics.summary(2, 0.9)
    assert first == {
        "epoch": 1,
        "step": 10,
        "loss": 2.0,
        "accuracy": None,
        "steps": 40,
        "examples_per_s": 20.0,
        "eta_s": pytest.approx(15.0),  # nothing better is known yet
    }
    assert second == {
        "epoch": 2,
        "step": 20,
        "loss": 0.9,
        "accuracy": 0.9,
        "steps": 40,
        "examples_per_s": 50.0,
        "eta_s": pytest.approx(20 * 0.2),
    }
    clock.now += 2
    statistics.record_block(30, 1.0, 100)
    assert (statistics.training_s, statistics.first_block_at, statistics.seconds_per_step()) == (9.0, 105.0, 0.2)
    assert statistics.curve == [
        {"epoch": 1, "step": 10, "loss": 2.0, "accuracy": None},
        {"epoch": 2, "step": 20, "loss": 0.9, "accuracy": 0.9},
    ]


def test_one_block_alone_is_its_own_measure() -> None:
    """Where the first block is all there is, its seconds count."""
    clock = Clock()
    statistics = TrainingStatistics(4, clock)
    clock.now += 2
    statistics.record_block(4, 1.0, 4)
    assert (statistics.seconds_per_step(), statistics.summary(1, None)["eta_s"]) == (0.5, 0)


def test_a_run_that_goes_on_counts_from_there() -> None:
    """Its seconds are added to those before; its speed is this process's own, or the run's if it makes no step."""
    clock = Clock()
    statistics = TrainingStatistics(30, clock, step=10, training_s=8.0, curve=[{"step": 10}])
    assert statistics.seconds_per_step() == 0.8
    clock.now += 2
    statistics.record_block(15, 5.0, 5)
    clock.now += 1
    statistics.record_block(20, 5.0, 5)
    assert (statistics.training_s, statistics.seconds_per_step()) == (11.0, 0.2)
    assert statistics.summary(2, None)["loss"] == 1.0
    assert [point["step"] for point in statistics.curve] == [10, 20]
