"""The metrics of one worker, a view of its telemetry records."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.telemetry import Record

# By a record's field: the metric's name behind `mnist_job_`, and its help.
SHOWN = {
    "step": ("step", "Training steps completed."),
    "steps": ("steps", "Training steps of the whole run."),
    "loss": ("loss", "Mean cross-entropy, in nats, over the examples since the last record."),
    "accuracy": ("accuracy", "Share of the test examples classified rightly, 0 to 1."),
    "examples_per_s": ("examples_per_second", "Training examples a second, over all workers."),
    "joined": ("workers_joined", "Workers that have come, when last they gathered."),
}


class Gauges:
    """What /metrics shows; a value that is not known yet is absent.

    Args:
        run: the run's name, and with rank a label of every metric.
        rank: this worker's.
        workers: how many workers train the run.
        clock: monotonic seconds.
    """

    def __init__(self, run: str, rank: int, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._labels = {"run": run, "rank": str(rank)}
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = ""
        self._values: dict[str, float] = {}
        self._workers = workers
        self._restarts: dict[str, int] = {}
        self._checkpoint: tuple[int, float] | None = None  # its step, and when it was first heard of
        self._furthest, self._ahead_at = 0, clock()

    def show(self, record: Record) -> None:
        """Take over what a record says; what it does not say stays."""
        with self._lock:
            self._phase = record.phase
            for field in SHOWN:
                if (value := getattr(record, field)) is not None:
                    self._values[field] = value
            if record.step is not None and record.step > self._furthest:
                self._furthest, self._ahead_at = record.step, self._clock()
            if record.checkpoint is not None and (not self._checkpoint or record.checkpoint != self._checkpoint[0]):
                self._checkpoint = record.checkpoint, self._clock()

    def restarted(self, cause: str) -> None:
        """Count a restart of the trainer in place."""
        with self._lock:
            self._restarts[cause] = self._restarts.get(cause, 0) + 1

    def text(self) -> bytes:
        """The metrics as Prometheus reads them."""
        from job.supervisor.prometheus import text  # noqa: PLC0415 - it takes as long to import as half of the supervisor

        with self._lock:
            now = self._clock()
            step_age_s = now - self._ahead_at
            age_s = now - self._checkpoint[1] if self._checkpoint else None
            shown = {
                name: (help_, self._values[field]) for field, (name, help_) in SHOWN.items() if field in self._values
            }
            restarts = self._restarts.copy()
            phase = self._phase
        shown["workers"] = "Workers that train the run.", self._workers
        shown["step_age_seconds"] = "Seconds since this worker made a step beyond all before, or began.", step_age_s
        if age_s is not None:
            shown["checkpoint_age_seconds"] = "Seconds since this worker heard of its newest checkpoint.", age_s
        return text(self._labels, phase, shown, restarts)
