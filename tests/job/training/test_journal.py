"""Tests of what a run writes while it trains."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from job import telemetry
from job.telemetry import Record
from job.training.journal import Journal, moments

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = [
    Record(1.0, "a", 0, "compiling", step=0, steps=20),
    Record(2.0, "a", 0, "training", epoch=1, step=10, steps=20, loss=0.5, examples_per_s=100.0),
    Record(3.0, "a", 0, "training", epoch=2, step=20, steps=20, loss=0.25, accuracy=0.75, examples_per_s=200.0),
    Record(4.0, "a", 0, "published", step=20, steps=20, accuracy=0.875),
]


def test_records_are_kept_and_their_figures_are_scalars(tmp_path: Path) -> None:
    """events.jsonl holds the records themselves, TensorBoard reads each figure by step, and both do so at once."""
    journal = Journal(tmp_path)
    for record in RECORDS:
        journal.write(record)
    with (tmp_path / "events.jsonl").open() as lines:
        assert list(telemetry.read(lines)) == RECORDS
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    found = {
        tag: [(event.wall_time, event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }
    assert found == {
        "loss": [(2.0, 10, 0.5), (3.0, 20, 0.25)],
        "accuracy": [(3.0, 20, 0.75), (4.0, 20, 0.875)],
        "examples_per_s": [(2.0, 10, 100.0), (3.0, 20, 200.0)],
    }
    journal.close()


def test_run_that_goes_on_is_appended_to(tmp_path: Path) -> None:
    """A second process's records come after the first one's."""
    for record in RECORDS[:2]:
        journal = Journal(tmp_path)
        journal.write(record)
        journal.close()
    with (tmp_path / "events.jsonl").open() as lines:
        assert list(telemetry.read(lines)) == RECORDS[:2]


def test_the_course_of_a_run_that_goes_on_is_read_back(tmp_path: Path) -> None:
    """Up to the step of its checkpoint; a step that was made twice counts as it was made last, and a torn line not."""
    training = [Record(float(at), "r", 0, "training", epoch=1, step=at, loss=at / 10) for at in (10, 20, 30)]
    again = dataclasses.replace(training[1], loss=0.5, accuracy=0.9)
    beat, other = Record(5.0, "r", 0, "training", step=15), Record(6.0, "r", 0, "evaluating", step=20, loss=1.0)
    lines = "\n".join(telemetry.to_json(record) for record in (*training, beat, other, again, training[2]))
    (tmp_path / "events.jsonl").write_text(lines[:-5])
    assert moments(tmp_path, 20) == [
        {"epoch": 1, "step": 10, "loss": 1.0, "accuracy": None},
        {"epoch": 1, "step": 20, "loss": 0.5, "accuracy": 0.9},
    ]
    assert moments(tmp_path / "none", 20) == []
