"""Prometheus metrics of one worker, a view of its telemetry records."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def show(self, record: Record) -> None:
        """Take over what a record says; what it does not say stays."""
        with self._lock:
            self._phase = record.phase
            for field in SHOWN:
                if (value := getattr(record, field)) is not None:
                    self._values[field] = value
            if record.checkpoint is not None and (not self._checkpoint or record.checkpoint != self._checkpoint[0]):
                self._checkpoint = record.checkpoint, self._clock()

    def restarted(self, cause: str) -> None:
        """Count a restart of the trainer in place."""
        with self._lock:
            self._restarts[cause] = self._restarts.get(cause, 0) + 1

    def text(self) -> bytes:
        """The metrics as Prometheus reads them."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics of this moment, for prometheus_client."""
        with self._lock:
            phase, values, restarts, checkpoint = (
                self._phase,
                self._values.copy(),
                self._restarts.copy(),
                self._checkpoint,
            )
        if phase:
            yield self._gauge("phase", "1 for the phase that the worker is in.", 1, phase=phase)
        for field, (name, text) in SHOWN.items():
            if field in values:
                yield self._gauge(name, text, values[field])
        yield self._gauge("workers", "Workers that train the run.", self._workers)
        if checkpoint:
            text = "Seconds since this worker heard of its newest checkpoint."
            yield self._gauge("checkpoint_age_seconds", text, self._clock() - checkpoint[1])
        if restarts:
            text = "Restarts of the trainer in place, by cause."
            counter = CounterMetricFamily("mnist_job_restarts", text, labels=[*self._labels, "cause"])
            for cause, count in restarts.items():
                counter.add_metric([*self._labels.values(), cause], count)
            yield counter

    def _gauge(self, name: str, text: str, value: float, **labels: str) -> GaugeMetricFamily:
        labels = {**self._labels, **labels}
        gauge = GaugeMetricFamily(f"mnist_job_{name}", text, labels=list(labels))
        gauge.add_metric(list(labels.values()), value)
        return gauge
