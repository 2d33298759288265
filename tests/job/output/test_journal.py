"""Tests of events.jsonl: what a run appends, and the learning curve that is read back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from job import telemetry
from job.output.journal import Journal, read_curve, read_time_spent
from job.telemetry import Record

if TYPE_CHECKING:
    from pathlib import Path


def test_a_resumed_run_appends_to_its_journal(tmp_path: Path) -> None:
    """A second process's records follow those of the first, and each is in the file as soon as it is written."""
    records = [Record(1.0, "a", 0, "compiling", step=0, steps=20), Record(2.0, "a", 0, "training", step=10, loss=0.5)]
    for count, record in enumerate(records, 1):
        journal = Journal(tmp_path)
        journal.write(record)
        with (tmp_path / "events.jsonl").open() as lines:
            assert list(telemetry.read_records(lines)) == records[:count]
        journal.close()


def test_the_time_of_earlier_trainers_is_read_back(tmp_path: Path) -> None:
    """Up to the start of the pod that reads it; after its last record nothing is known."""
    said = (("compiling", 3.0, 0), ("training", 5.0, 10), ("training", 9.0, 20), ("compiling", 30.0, 10))
    lines = [telemetry.to_json(Record(time, "r", 0, phase, step=step)) + "\n" for phase, time, step in said]
    (tmp_path / "events.jsonl").write_text("".join(lines))
    found = read_time_spent(tmp_path, before=20.0)
    assert found
    assert (found.seconds, found.since, found.furthest) == (
        {"importing": 0.0, "compiling": 2.0, "training": 4.0},
        9.0,
        20,
    )
    assert read_time_spent(tmp_path, before=3.0) is None
    assert read_time_spent(tmp_path / "none", before=3.0) is None


def test_the_time_between_earlier_trainers_is_replacing(tmp_path: Path) -> None:
    """Each begins with restoring or compiling, also after a failure, and recovers as after any restart."""
    said = (
        *(("compiling", 3.0, 0), ("training", 10.0, 10), ("training", 100.0, 90)),
        *(("restoring", 700.0, 50), ("compiling", 702.0, 50), ("training", 710.0, 60), ("training", 750.0, 90)),
        *(("training", 760.0, 100), ("training", 800.0, 140), ("failed", 801.0, None)),
        *(("restoring", 900.0, None), ("restoring", 901.0, 140), ("compiling", 902.0, 140), ("evaluating", 910.0, 140)),
        *(("compiling", 1000.0, 140), ("compiling", 1100.0, 140), ("evaluating", 1101.0, 140)),
    )
    lines = [telemetry.to_json(Record(time, "r", 0, phase, step=step)) + "\n" for phase, time, step in said]
    (tmp_path / "events.jsonl").write_text("".join(lines))
    found = read_time_spent(tmp_path, before=2000.0)
    assert found
    assert found.at(1102.0) == {
        "importing": 0.0,
        "compiling": 7.0,
        "training": 90.0 + 41.0,
        "replacing": 600.0 + 99.0 + 90.0 + 100.0,
        "recovering": 60.0 + 10.0 + 1.0,
        "evaluating": 1.0,
    }


def test_the_curve_of_a_resumed_run_is_read_back(tmp_path: Path) -> None:
    """It ends at the checkpoint's step; the later record of a repeated step counts, and a torn line does not."""
    training = [Record(float(at), "r", 0, "training", epoch=1, step=at, loss=at / 10) for at in (10, 20, 30)]
    again = dataclasses.replace(training[1], loss=0.5, accuracy=0.9)
    beat, other = Record(5.0, "r", 0, "training", step=15), Record(6.0, "r", 0, "evaluating", step=20, loss=1.0)
    lines = "\n".join(telemetry.to_json(record) for record in (*training, beat, other, again, training[2]))
    (tmp_path / "events.jsonl").write_text(lines[:-5])
    assert read_curve(tmp_path, 20) == [
        {"epoch": 1, "step": 10, "loss": 1.0, "accuracy": None},
        {"epoch": 1, "step": 20, "loss": 0.5, "accuracy": 0.9},
    ]
    assert read_curve(tmp_path / "none", 20) == []
