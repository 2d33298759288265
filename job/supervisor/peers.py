"""The other workers of the run: how this one meets them, what it sends them, and what it knows of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from job.rendezvous.client import Client, check_distinct
from job.rendezvous.server import Rendezvous

if TYPE_CHECKING:
    import queue

    from job.cluster import Cluster
    from job.rendezvous.messages import Reply

# Phases that all workers go through together. A worker's last message is up to a second old, so that a peer in another
# of these phases is not worth showing.
SHARED_PHASES = ("joining", "restoring", "compiling", "training", "evaluating", "publishing", "published")


@dataclass(frozen=True)
class Attendance:
    """How many workers have joined, and what the others are waiting for."""

    workers: int
    joined: int = 0
    absent: str = ""  # the workers that rank 0 last named
    unreachable: str = ""  # why rank 0 gives no answer

    @property
    def missing(self) -> str:
        """What has kept the workers from meeting."""
        # Rank 0 may be gone because it gave up first: the workers that it waited for are still the cause.
        return ", and then ".join(filter(None, (self.absent, self.unreachable))) or "worker 0 has not answered"

    def after(self, reply: Reply | str) -> Attendance:
        """What is known after rank 0's reply, or after a sentence that says why there is none."""
        if isinstance(reply, str):
            return replace(self, unreachable=reply)
        ranks = ", ".join(map(str, reply.missing))
        more = self.workers - reply.joined - len(reply.missing)
        others = f" and {more} more" if more > 0 else ""
        absent = f"worker {ranks} has" if len(reply.missing) == 1 else f"workers {ranks}{others} have"
        return Attendance(self.workers, reply.joined, f"{absent} not joined")


class Peers:
    """The other workers, as this one knows them: rank 0 by its rendezvous, the others by rank 0's replies.

    Attributes:
        rendezvous: the rounds, as rank 0 counts them; None above rank 0 and before connect().
    """

    def __init__(self, cluster: Cluster, events: queue.SimpleQueue[object]) -> None:
        self._cluster, self._events = cluster, events
        self.rendezvous: Rendezvous | None = None
        self._client: Client | None = None
        self.rank = cluster.rank

    def connect(self, settings: str) -> None:
        """Prepare to meet the other workers, if there are any; their settings hash must be this one."""
        cluster = self._cluster
        if cluster.workers == 1:
            return
        if cluster.rank == 0:
            self.rendezvous = Rendezvous(cluster.run, cluster.job_uid, settings, cluster.workers)
        self._client = Client(cluster, settings, self._events)

    def start_round(self) -> str | None:
        """Ask rank 0 to count this worker in; returns the id of this attempt, or None if there are no others."""
        if self._client is None:
            return None
        self._client.start_attempt()
        return self._client.request.attempt

    def complete_round(self, reply: Reply) -> None:
        """Take note that all have joined; this worker's trainer belongs to the reply's round from now on.

        Raises:
            JobError: 75, two workers have the same address.
        """
        check_distinct(reply.addresses)
        if self._client:
            self._client.enter_round(reply.round_id)

    def send_status(self, phase: str, restarts: int) -> None:
        """Send the others, with the next request, how this worker is."""
        if self._client:
            self._client.report(phase, restarts)

    def deviations(self, phase: str) -> dict[str, Any]:
        """The phase and the restarts of each worker that is not in this phase, or was restarted; only rank 0 knows."""
        if not self.rendezvous:
            return {}
        return {
            str(rank): {"phase": other.phase, "restarts": other.restarts}
            for rank, other in sorted(self.rendezvous.latest_requests().items())
            if rank != self.rank and (other.restarts or other.phase not in {phase, *SHARED_PHASES})
        }

    def longest_silent(self) -> tuple[int, float]:
        """The peer that is silent for longest, above rank 0 always rank 0, and when it last sent something."""
        if self.rendezvous:
            return self.rendezvous.longest_silent()
        return 0, self._client.answered_at if self._client else float("inf")

    def all_started(self, round_id: str) -> bool:
        """Whether the trainers of all workers are at least joining in this round; only rank 0 knows."""
        if not self.rendezvous:
            return False
        requests = self.rendezvous.latest_requests().values()
        started = sum(request.round_id == round_id and request.phase in SHARED_PHASES for request in requests)
        return started == self._cluster.workers
