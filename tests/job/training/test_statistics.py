"""Tests of the statistics of a training run, with a clock that is set by hand."""

from __future__ import annotations

import pytest

from job.output.checkpoint import SinceRecord
from job.training.statistics import TrainingStatistics


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The current time in seconds."""
        return self.now


def test_summary_covers_the_steps_since_the_last_one() -> None:
    """Mean loss and speed cover the steps since the last summary; the first block, which compiles, does not count."""
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
        "eta_s": pytest.approx(15.0),  # there is only the first block so far
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


def test_a_single_block_counts_for_the_speed() -> None:
    """If there is only the first block, its seconds count."""
    clock = Clock()
    statistics = TrainingStatistics(4, clock)
    clock.now += 2
    statistics.record_block(4, 1.0, 4)
    assert (statistics.seconds_per_step(), statistics.summary(1, None)["eta_s"]) == (0.5, 0)


def test_a_resumed_run_continues_its_statistics() -> None:
    """Its seconds are added to the earlier ones; its speed is this process's, or the run's before the first step."""
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


def test_a_block_that_two_processes_make_counts_once() -> None:
    """The loss that the second one reports for the block includes the first one's, the examples are only its own."""
    clock = Clock()
    first = TrainingStatistics(30, clock)
    clock.now += 1
    first.record_block(5, 4.0, 5)
    first.record_block(8, 2.0, 3, complete=False)
    second = TrainingStatistics(30, Clock(), step=8, since_record=first.since_record)
    assert second.since_record.block_loss == 2.0
    second.record_block(10, 6.0, 2)
    summary = second.summary(1, None)
    assert (summary["loss"], summary["examples_per_s"]) == (1.0, 10.0)
    assert second.since_record == SinceRecord()
