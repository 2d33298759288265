"""events.jsonl, the records that rank 0 writes while it trains: appended, and read back when a run resumes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from job import telemetry
from job.time_spent import TimeSpent

if TYPE_CHECKING:
    from pathlib import Path

    from job.telemetry import Record

EVENTS = "events.jsonl"


class Journal:
    """Appends each record to a run's events.jsonl.

    Args:
        folder: runs/<run>, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self._events = (folder / EVENTS).open("a", encoding="utf-8")
        if self._events.tell():
            self._events.write("\n")  # the last line may be torn; readers skip an empty line

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: from the file system.
        """
        self._events.write(telemetry.to_json(record) + "\n")
        self._events.flush()

    def close(self) -> None:
        """Close the file."""
        self._events.close()


def read_time_spent(folder: Path, before: float) -> TimeSpent | None:
    """The time that earlier trainers of a run spent, by part, from their records; None if there are no records.

    The time between two trainers has no records, so it counts as replacing.

    Args:
        folder: runs/<run>.
        before: the time up to which records count, in seconds since 1970.
    """
    spent: TimeSpent | None = None
    phase = ""
    with contextlib.suppress(FileNotFoundError), (folder / EVENTS).open(encoding="utf-8", errors="replace") as events:
        for record in telemetry.read_records(events):
            if record.time >= before:
                continue
            if spent is None:
                spent = TimeSpent(record.time)
            elif record.phase in {"restoring", "compiling"} and phase != "restoring":  # another trainer begins
                earlier, spent = spent, TimeSpent(record.time)
                spent.add_earlier(earlier, record.time)
            spent.update(record.time, record.phase, record.step)
            phase = record.phase
    return spent


def read_curve(folder: Path, step: int) -> list[dict[str, Any]]:
    """The learning curve of a run up to a step, in the form of TrainingStatistics.curve; empty without a journal.

    A later record of the same step replaces an earlier one.

    Args:
        folder: runs/<run>.
        step: the last step of the curve.
    """
    try:
        with (folder / EVENTS).open(encoding="utf-8", errors="replace") as events:
            records = telemetry.read_records(events)
            by_step = {r.step: r for r in records if r.phase == "training" and r.loss is not None and r.step}
    except FileNotFoundError:
        return []
    return [
        {"epoch": r.epoch, "step": at, "loss": r.loss, "accuracy": r.accuracy}
        for at, r in sorted(by_step.items())
        if at <= step
    ]
