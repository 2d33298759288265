"""The state of this worker, as its log lines, its metrics and its peers show it."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from job import telemetry
from job.supervisor.line_writer import LineWriter
from job.supervisor.metrics import Metrics
from job.system import cgroup
from job.telemetry import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from job.cluster import Cluster
    from job.rendezvous.peers import Peers
    from job.supervisor.log_process import LogProcess
    from job.supervisor.restart_policy import RestartPolicy

PROGRESS = ("step", "steps", "checkpoint")


class WorkerStatus:
    """What is known of this worker. Its lines go to standard output, and to a log if there is one.

    Attributes:
        phase: the current one.
        accuracy: the published model's, once it is known.
        metrics: the worker's metrics.
    """

    def __init__(self, cluster: Cluster, restarts: RestartPolicy, peers: Peers, log: LogProcess | None = None) -> None:
        self._cluster, self._restarts, self._peers = cluster, restarts, peers
        self.phase = "starting"
        self.accuracy: float | None = None
        self.metrics = Metrics(cluster.run, cluster.rank, cluster.workers, cores=cgroup.cpu_limit())
        self._writer = LineWriter(log)
        self._progress: dict[str, int | None] = {}  # the last known values of PROGRESS
        self._joined = cluster.workers  # when the workers last met

    @property
    def step(self) -> int | None:
        """The last known step."""
        return self._progress.get("step")

    @property
    def checkpoint(self) -> int | None:
        """The step of the newest checkpoint that a trainer of rank 0 reported."""
        return self._progress.get("checkpoint")

    def process_starts(self) -> None:
        """Take note that a process is about to be started."""
        self.phase = "starting"
        self.metrics.spend(self.phase)

    def update(self, record: Record) -> None:
        """Take over a process's record, and show it unless it is a mere sign of life."""
        is_news = record.phase != self.phase or record.loss is not None or record.message
        self._take(record)
        if is_news:
            fewer = self._joined if self._joined < self._cluster.workers else None
            self._show(dataclasses.replace(record, joined=fewer))

    def report(self, phase: str, **fields: Any) -> None:
        """Show a record of the supervisor's own."""
        known = {**self._progress, "restarts": self._restarts.total, **fields}
        record = Record(time.time(), self._cluster.run, self._cluster.rank, phase, **known)
        self._take(record)
        self._show(record)

    def show_errors(self, lines: Iterable[str]) -> None:
        """Show what a process wrote to its standard error."""
        for line in lines:
            self._writer.write_error(line.rstrip("\n"))

    def flush(self, seconds: float) -> bool:
        """End the log, and wait at most so many seconds until all is written; returns whether all is."""
        return self._writer.drain(seconds)

    def _take(self, record: Record) -> None:
        self.phase = record.phase
        self.accuracy = record.accuracy if record.phase == "published" else None
        self._progress |= {name: value for name in PROGRESS if (value := getattr(record, name)) is not None}
        self._joined = self._joined if record.joined is None else record.joined
        self.metrics.update(record)
        self._peers.send_status(record.phase, self._restarts.total)

    def _show(self, record: Record) -> None:
        """Write a record to standard output, at rank 0 with what it knows of the other workers."""
        record = dataclasses.replace(record, workers=self._peers.deviations(record.phase) or None)
        self._writer.write(telemetry.to_logfmt(record))
