"""How often, and after what delay, a trainer or a worker is started again."""

from __future__ import annotations

import random
from dataclasses import dataclass

# Reasons of an exit that only followed another worker's. They are not this worker's fault, and are not counted as
# restarts.
CAUSED_BY_PEER = {"peer-lost", "stopped-by-peer", "stopped", "gathering"}
# Reasons of failures that other processes on the same machine would meet again.
LASTING = {"not-joined"}
# Reasons of an exit after which only a replacement of the worker, perhaps on another node, can succeed.
USELESS_HERE = {"run-in-use", "no-gpu"}
MAX_RESTARTS = 3  # in a row, without a new step
# The same for exits that only followed another worker's. A worker that fails at each start is given up on by its
# supervisor, and then by each pod that replaces it, after 16 starts. The others must still be there after the last one.
MAX_PEER_RESTARTS = 20
BACKOFF_S = (0.0, 2.0, 8.0)
JITTER = 0.25  # so that workers that fail together do not start again together


@dataclass
class RestartPolicy:
    """Counts restarts. A step beyond the furthest one so far sets the counts in a row to 0.

    Repeating an earlier step is no progress: a worker that keeps dying at the same step is given up on.
    """

    total: int = 0
    in_a_row: int = 0
    peer_restarts: int = 0
    _furthest: int = 0

    def record_step(self, step: int) -> None:
        """Take note of a completed step, counted from 1."""
        if step > self._furthest:
            self._furthest, self.in_a_row, self.peer_restarts = step, 0, 0

    def next_delay(self) -> float | None:
        """Count a restart; returns the seconds to wait before it, or None if the limit is reached."""
        if self.in_a_row == MAX_RESTARTS:
            return None
        self.total += 1
        self.in_a_row += 1
        return BACKOFF_S[self.in_a_row - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret

    def allow_peer_restart(self) -> bool:
        """Count an exit that only followed another worker's; returns whether a restart is allowed."""
        self.peer_restarts += 1
        return self.peer_restarts < MAX_PEER_RESTARTS
