"""The metrics of one worker, a view of its telemetry records."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from job.time_spent import TimeSpent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric

    from job.telemetry import Record

# By a record's field: the metric's name without its prefix `mnist_job_`, and its help.
GAUGES = {
    "step": ("step", "Training steps completed."),
    "steps": ("steps", "Training steps of the whole run."),
    "loss": ("loss", "Mean cross-entropy, in nats, over the examples since the last record."),
    "accuracy": ("accuracy", "Share of the test examples classified correctly, 0 to 1."),
    "examples_per_s": ("examples_per_second", "Training examples per second, over all workers."),
    "joined": ("workers_joined", "Workers that had joined the last round of the rendezvous."),
}


class Metrics:
    """What /metrics shows. A value that is not known yet is absent.

    The run's name and this worker's rank are labels of every metric. The clock returns monotonic seconds; cores is the
    number of CPUs that the worker may use.

    Attributes:
        spent: where the worker's time went, by the clock.
    """

    def __init__(
        self, run: str, rank: int, workers: int, clock: Callable[[], float] = time.monotonic, cores: int = 1
    ) -> None:
        self._labels = {"run": run, "rank": str(rank)}
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = ""
        self._values: dict[str, float] = {}  # by the field of a record
        self._workers = workers
        self._restarts: dict[str, int] = {}  # by cause
        self._checkpoint: tuple[int, float] | None = None  # its step, and when it was first reported
        self._furthest_step, self._furthest_at = 0, clock()
        self._cores = cores
        self.spent = TimeSpent(clock())

    def update(self, record: Record) -> None:
        """Take over the values of a record; the others stay."""
        self.spend(record.phase, record.step)
        with self._lock:
            self._phase = record.phase
            for field in GAUGES:
                if (value := getattr(record, field)) is not None:
                    self._values[field] = value
            if record.step is not None and record.step > self._furthest_step:
                self._furthest_step, self._furthest_at = record.step, self._clock()
            if record.checkpoint is not None and (not self._checkpoint or record.checkpoint != self._checkpoint[0]):
                self._checkpoint = record.checkpoint, self._clock()

    def spend(self, phase: str, step: int | None = None) -> None:
        """Count the time from now on as that of a phase."""
        with self._lock:
            self.spent.update(self._clock(), phase, step)

    def count_restart(self, cause: str) -> None:
        """Count a restart of the trainer in place."""
        with self._lock:
            self._restarts[cause] = self._restarts.get(cause, 0) + 1

    def text(self) -> bytes:
        """The metrics in the format of Prometheus."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - 26 ms; often never asked for

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """The metrics as Prometheus' client asks a collector for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - as in text()

        def gauge(name: str, description: str, value: float, **more: str) -> Metric:
            labels = {**self._labels, **more}
            family = GaugeMetricFamily(f"mnist_job_{name}", description, labels=list(labels))
            family.add_metric(list(labels.values()), value)
            return family

        with self._lock:
            now = self._clock()
            if self._phase:
                yield gauge("phase", "1 for the phase that the worker is in.", 1, phase=self._phase)
            for field, (name, description) in GAUGES.items():
                if field in self._values:
                    yield gauge(name, description, self._values[field])
            yield gauge("workers", "Workers that train the run.", self._workers)
            description = "Seconds since this worker started, or made a step beyond all earlier ones."
            yield gauge("step_age_seconds", description, now - self._furthest_at)
            if self._checkpoint:
                description = "Seconds since this worker first reported its newest checkpoint."
                yield gauge("checkpoint_age_seconds", description, now - self._checkpoint[1])
            seconds = self.spent.at(now)
            description = "Seconds of this worker, by what they were spent on; goodput is the share of training."
            counter = CounterMetricFamily("mnist_job_spent_seconds", description, labels=[*self._labels, "part"])
            for part, value in seconds.items():
                counter.add_metric([*self._labels.values(), part], value)
            yield counter
            description = "CPUs that this worker may use, multiplied by the seconds since it started."
            counter = CounterMetricFamily("mnist_job_core_seconds", description, labels=list(self._labels))
            counter.add_metric(list(self._labels.values()), self._cores * sum(seconds.values()))
            yield counter
            if self._restarts:
                description = "Restarts of the trainer in place, by cause."
                counter = CounterMetricFamily("mnist_job_restarts", description, labels=[*self._labels, "cause"])
                for cause, count in self._restarts.items():
                    counter.add_metric([*self._labels.values(), cause], count)
                yield counter
