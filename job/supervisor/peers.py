"""The other workers of the run: how this one meets them, what it sends them, and what it knows of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from job.rendezvous.client import EVERY_S, Member, check_apart
from job.rendezvous.server import Answer, Gathering

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable

    from job.cluster import Cluster
    from job.rendezvous.server import Request

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

    def after(self, answer: Answer | str) -> Attendance:
        """What is known after rank 0's answer, or after a sentence that says why there is none."""
        if isinstance(answer, str):
            return replace(self, unreachable=answer)
        ranks = ", ".join(map(str, answer.missing))
        more = self.workers - answer.joined - len(answer.missing)
        others = f" and {more} more" if more > 0 else ""
        absent = f"worker {ranks} has" if len(answer.missing) == 1 else f"workers {ranks}{others} have"
        return Attendance(self.workers, answer.joined, f"{absent} not joined")


class Peers:
    """The other workers, as this one knows them: rank 0 by its rendezvous, the others by rank 0's answers.

    Args:
        cluster: this worker and its peers.
        events: the queue that rank 0's answers go into.

    Attributes:
        rank: this worker's.
        join: what rank 0 answers to a request; None above rank 0 and before connect().
    """

    def __init__(self, cluster: Cluster, events: queue.SimpleQueue[object]) -> None:
        self._cluster, self._events = cluster, events
        self._rendezvous: Gathering | None = None
        self._client: Member | None = None
        self.rank = cluster.rank
        self.join: Callable[[Request], Answer] | None = None

    def connect(self, settings: str) -> None:
        """Prepare to meet the other workers, if there are any.

        Args:
            settings: the settings hash.
        """
        cluster = self._cluster
        if cluster.workers == 1:
            return
        if cluster.rank == 0:
            self._rendezvous = Gathering(cluster.run, cluster.job_uid, settings, cluster.workers)
            self.join = functools.partial(self._rendezvous.join, wait_s=EVERY_S)
        self._client = Member(cluster, settings, self._events, self.join)

    def start_round(self) -> str | None:
        """Ask rank 0 to count this worker in; returns the id of this attempt, or None if there are no others."""
        if self._client is None:
            return None
        self._client.wait()
        return self._client.request.attempt

    def complete_round(self, answer: Answer) -> None:
        """Take note that all have joined; this worker's trainer belongs to the answer's round from now on.

        Raises:
            JobError: 75, two workers have the same address.
        """
        check_apart(answer.addresses)
        if self._client:
            self._client.joined(answer.gathering)

    def send_status(self, phase: str, restarts: int) -> None:
        """Send the others, with the next request, how this worker is."""
        if self._client:
            self._client.tell(phase, restarts)

    def deviations(self, phase: str) -> dict[str, Any]:
        """The phase and the restarts of each worker that is in another phase or was restarted; only rank 0 knows.

        Args:
            phase: this worker's.
        """
        if not self._rendezvous:
            return {}
        return {
            str(rank): {"phase": other.phase, "restarts": other.restarts}
            for rank, other in sorted(self._rendezvous.heard().items())
            if rank != self.rank and (other.restarts or other.phase not in {phase, *SHARED_PHASES})
        }

    def longest_silent(self) -> tuple[int, float]:
        """The peer that has been silent for longest, and when it last sent something, in monotonic seconds.

        Above rank 0 that is rank 0.
        """
        if self._rendezvous:
            return self._rendezvous.longest_silent()
        return 0, self._client.answered_at if self._client else float("inf")

    def all_started(self, round_id: str) -> bool:
        """Whether the trainers of all workers are at least joining in this round; only rank 0 knows."""
        if not self._rendezvous:
            return False
        requests = self._rendezvous.heard().values()
        started = [one for one in requests if one.gathering == round_id and one.phase in SHARED_PHASES]
        return len(started) == self._cluster.workers
