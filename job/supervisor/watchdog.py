"""Follows a supervisor's child: how it stands, why it is to end, and when it has to be killed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from job.errors import Exit, JobError
from job.supervisor.outcome import Outcome
from job.supervisor.status import IN_STEP

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.config import Config
    from job.rendezvous.client import Heard
    from job.supervisor.status import WorkerStatus
    from job.supervisor.supervised_process import SupervisedProcess
    from job.telemetry import Record

STEPPING = {"training", "evaluating"}  # no step in --stall-timeout means here that it hangs
BEFORE_STEPS = {"starting", "data", "joining", "restoring", "compiling"}  # where there is nothing to save
PATIENCE_S = 900.0  # for each of the other phases, which slow volumes and throttled CPUs may draw out
GOODBYE_S = 10.0  # for the last all-reduce, which one that is cut off would draw out
# How long a peer may say nothing, and a trainer that has joined give no sign of life, each of which they do once a
# second; TensorFlow's own heartbeats allow as much. With a fifth of a CPU no two signs were 1.3 s apart.
SILENT_S = 10.0
JOIN_S = 60.0  # TensorFlow joins workers that have all come in a second or two
PAUSED_S = 3.0  # look() is called every second
GONE_S = 5.0  # from SIGKILL to the end, which is beyond a process whose volume hangs


class Watchdog:
    """One child from its start to its end.

    Args:
        child: the process.
        config: the run's settings.
        status: what is known of this worker.
        gathering: the id of the gathering in which it was started; empty where it needs no other workers.
        clock: monotonic seconds.

    Attributes:
        told: how the child ended, or is about to, in its own words.
        ours: why it was made to end from here.
    """

    def __init__(
        self,
        child: SupervisedProcess,
        config: Config,
        status: WorkerStatus,
        gathering: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._child, self._config, self._status, self._gathering = child, config, status, gathering
        self._clock = clock
        self.told: Record | None = None
        self.ours: Outcome | None = None
        self._kill_at = self._gone_at = float("inf")
        # Since when it may be silent: since its last record, since all workers are joining, and since this process
        # was last stopped itself, when what had come could not be read.
        self._heard_at = self._looked_at = self._clock()
        self._together_at = float("inf")
        self._resumed_at = float("-inf")

    @property
    def deadline(self) -> float:
        """When to look() at the latest, by the clock."""
        return min(self._kill_at, self._gone_at, self._looked_at + 1)

    def is_over(self, heard: Heard) -> bool:
        """Whether the child is to end because the workers gather anew. Rank 0 publishes without the others."""
        phase, alone = self._status.phase, self._status.gathering is not None
        return heard.is_over(self._gathering) and phase != "published" and not (phase == "publishing" and alone)

    def hear(self, record: Record) -> None:
        """Take notice of what the child says."""
        self._heard_at = self._clock()
        if record.phase in {"failed", "published"}:
            self.told = record
        if record.phase != "failed":
            self._status.hear(record)

    def leave(self, seconds: float, why: Outcome) -> None:
        """Have the child leave within so many seconds, for a first reason; at once where it has nothing to save."""
        self.ours = self.ours or why
        if self._status.phase in BEFORE_STEPS:
            seconds = 0.0
        else:
            self._child.terminate()
        self._kill_at = min(self._kill_at, self._clock() + seconds)

    def look(self) -> None:
        """Kill the child where it hangs, or has not left in time.

        Raises:
            JobError: 75 where not even that ends it.
        """
        now = self._clock()
        if now - self._looked_at > PAUSED_S:
            self._resumed_at = now
        self._looked_at = now
        if now >= self._gone_at:
            message = f"the trainer has not ended {GONE_S:g} s after SIGKILL"
            raise JobError(Exit.TRY_AGAIN, "trainer-hangs", message, "see whether a volume hangs")
        if self._gone_at < float("inf"):
            return
        if self._kill_at == float("inf"):
            self.ours = self.ours or self._hangs(now)
        elif now < self._kill_at:
            return
        if self.ours:
            self._child.kill()
            self._gone_at = now + GONE_S

    def _hangs(self, now: float) -> Outcome | None:
        """Why the child is to be killed, if it is."""
        phase = self._status.phase
        quiet_s = now - max(self._heard_at, self._resumed_at)
        if quiet_s >= (patience_s := self._patience()):
            return Outcome(
                Exit.TRY_AGAIN, "stalled", f"the trainer made no progress in phase {phase} for {patience_s:g} s"
            )
        if now - max(self._child.sign_at, self._resumed_at) >= SILENT_S:
            message = f"the trainer gave no sign of life in phase {phase} for {SILENT_S:g} s"
            return Outcome(Exit.TRY_AGAIN, "stalled", message)
        if not self._gathering or phase in {"publishing", "published"}:
            return None
        rank, heard_at = self._longest_silent()
        # A trainer that makes steps has all its peers, whatever became of their supervisors.
        if min(quiet_s, now - max(heard_at, self._resumed_at)) >= SILENT_S:
            message = f"worker {rank} has not been heard of for {SILENT_S:g} s"
            return Outcome(Exit.TRY_AGAIN, "peer-lost", message)
        self._together_at = min(now, self._together_at) if self._all_join() else float("inf")
        if now - max(self._together_at, self._resumed_at) >= JOIN_S:
            message = f"TensorFlow has not joined the workers in {JOIN_S:g} s, though all have come"
            hint = "see whether TensorFlow's port, 2222 in a cluster, is open between them"
            return Outcome(Exit.TRY_AGAIN, "not-joined", message, hint)
        return None

    def _longest_silent(self) -> tuple[int, float]:
        """The peer that has said nothing for longest, and when it last did; above rank 0 only that one is heard."""
        if self._status.gathering:
            return self._status.gathering.longest_silent()
        return 0, self._status.member.answered_at if self._status.member else float("inf")

    def _all_join(self) -> bool:
        """Whether this is rank 0, whose child waits for TensorFlow to join the workers, and all others do so too."""
        if not self._status.gathering or self._status.phase != "joining" or self._child.sign_at < float("inf"):
            return False
        heard = self._status.gathering.heard().values()
        joining = [one for one in heard if one.gathering == self._gathering and one.phase in IN_STEP]
        return len(joining) == self._status.workers

    def _patience(self) -> float:
        """How long the child may say nothing, in seconds."""
        phase = self._status.phase
        if phase in STEPPING:
            return float(self._config.stall_timeout)
        if phase == "published":
            return GOODBYE_S
        return PATIENCE_S + (self._config.join_timeout if phase == "joining" else 0)
