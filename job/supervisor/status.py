"""How this worker stands: shown on standard output, in the metrics and to its peers."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from job import telemetry
from job.supervisor.line_writer import LineWriter
from job.supervisor.metrics import Gauges
from job.telemetry import Record

if TYPE_CHECKING:
    from job.cluster import Cluster
    from job.rendezvous.client import Member
    from job.rendezvous.server import Gathering
    from job.supervisor.restart_policy import RestartPolicy

# Phases through which all go together, whatever the last message, up to a second ago, said.
IN_STEP = ("joining", "restoring", "compiling", "training", "evaluating", "publishing", "published")
PROGRESS = ("step", "steps", "checkpoint")


class WorkerStatus:
    """What is known of one worker.

    Args:
        cluster: who it is.
        restarts: how often its trainer was started again.

    Attributes:
        workers: how many there are.
        phase: the present one.
        accuracy: the published model's, once it is known.
        gauges: its metrics.
        writer: how it is shown on standard output.
        gathering: rank 0's, where there are several workers.
        member: how its peers are told, where there are any.
    """

    def __init__(self, cluster: Cluster, restarts: RestartPolicy) -> None:
        self._cluster, self._restarts = cluster, restarts
        self.workers = cluster.workers
        self.phase = "starting"
        self.accuracy: float | None = None
        self.gauges = Gauges(cluster.run, cluster.rank, cluster.workers)
        self.writer = LineWriter()
        self.gathering: Gathering | None = None
        self.member: Member | None = None
        self._progress: dict[str, int | None] = {}  # the last known of PROGRESS

    @property
    def step(self) -> int | None:
        """The last one that is known of."""
        return self._progress.get("step")

    def hear(self, record: Record) -> None:
        """Take notice of a trainer's record, and show it unless it only says that the work goes on."""
        news = record.phase != self.phase or record.loss is not None or record.message
        self._note(record)
        if news:
            self._show(record)

    def say(self, phase: str, **fields: Any) -> None:
        """Show a record of the supervisor's own."""
        known = {**self._progress, "restarts": self._restarts.total, **fields}
        record = Record(time.time(), self._cluster.run, self._cluster.rank, phase, **known)
        self._note(record)
        self._show(record)

    def _note(self, record: Record) -> None:
        """Keep what a record tells of this worker, for its peers, the metrics and the next record."""
        self.phase = record.phase
        self.accuracy = record.accuracy if record.phase == "published" else None
        self._progress |= {name: value for name in PROGRESS if (value := getattr(record, name)) is not None}
        self.gauges.show(record)
        if self.member:
            self.member.tell(record.phase, self._restarts.total)

    def _show(self, record: Record) -> None:
        """Write a record to standard output, rank 0's with what it has heard of the others."""
        if self.gathering:
            differing = {
                str(rank): {"phase": other.phase, "restarts": other.restarts}
                for rank, other in sorted(self.gathering.heard().items())
                if rank != record.rank and (other.restarts or other.phase not in {record.phase, *IN_STEP})
            }
            record = dataclasses.replace(record, workers=differing or None)
        self.writer.say(telemetry.to_logfmt(record))
