"""Follows a supervisor's child: how it stands, why it is to end, and when it has to be killed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from job.ending import End
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from job.child import Child
    from job.config import Config
    from job.standing import Standing
    from job.telemetry import Record

STEPPING = {"training", "evaluating"}  # no step in --stall-timeout means here that it hangs
BEFORE_STEPS = {"starting", "data", "joining", "restoring", "compiling"}  # where there is nothing to save
PATIENCE_S = 900.0  # for each of the other phases, which slow volumes and throttled CPUs may draw out
GONE_S = 5.0  # from SIGKILL to the end, which is beyond a process whose volume hangs


class Watch:
    """One child from its start to its end.

    Args:
        child: the process.
        config: the run's settings.
        standing: what is known of this worker.

    Attributes:
        told: how the child ended, or is about to, in its own words.
        ours: why it was made to end from here.
    """

    def __init__(self, child: Child, config: Config, standing: Standing) -> None:
        self._child, self._config, self._standing = child, config, standing
        self.told: Record | None = None
        self.ours: End | None = None
        self._kill_at = self._gone_at = float("inf")
        self._heard_at = time.monotonic()

    @property
    def deadline(self) -> float:
        """When next to look(), in seconds of time.monotonic()."""
        return min(self._kill_at, self._gone_at, self._heard_at + self._patience())

    @property
    def needs_peers(self) -> bool:
        """Whether the child can do nothing without the other workers."""
        return self._standing.phase not in {"publishing", "published"}

    def hear(self, record: Record) -> None:
        """Take notice of what the child says."""
        self._heard_at = time.monotonic()
        if record.phase in {"failed", "published"}:
            self.told = record
        if record.phase != "failed":
            self._standing.hear(record)

    def leave(self, seconds: float, why: End) -> None:
        """Have the child leave within so many seconds, for a first reason; at once where it has nothing to save."""
        self.ours = self.ours or why
        if self._standing.phase in BEFORE_STEPS:
            seconds = 0.0
        else:
            self._child.terminate()
        self._kill_at = min(self._kill_at, time.monotonic() + seconds)

    def look(self) -> None:
        """Kill the child where it hangs, or has not left in time.

        Raises:
            JobError: 75 where not even that ends it.
        """
        now = time.monotonic()
        if now >= self._gone_at:
            message = f"the trainer has not ended {GONE_S:g} s after SIGKILL"
            raise JobError(Exit.TRY_AGAIN, "trainer-hangs", message, "see whether a volume hangs")
        if now < self.deadline:
            return
        if self.ours is None:
            message = f"the trainer made no progress in phase {self._standing.phase} for {self._patience():g} s"
            self.ours = End(Exit.TRY_AGAIN, "stalled", message)
        self._child.kill()
        self._kill_at = self._heard_at = float("inf")
        self._gone_at = now + GONE_S

    def _patience(self) -> float:
        """How long the child may say nothing, in seconds."""
        if self._standing.phase in STEPPING:
            return float(self._config.stall_timeout)
        return PATIENCE_S + (self._config.join_timeout if self._standing.phase == "joining" else 0)
