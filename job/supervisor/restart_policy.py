"""How often something that keeps ending is started again."""

from __future__ import annotations

import random
from dataclasses import dataclass

# Reasons of a trainer's end that followed another worker's: no fault of its own, and not counted.
CAUSED_BY_PEER = {"peer-lost", "stopped-by-peer", "stopped", "gathering"}
MAX_RESTARTS = 3  # without a new step
# The same for those that only followed. A worker that dies at each start is given up by its supervisor, and then by
# what replaces it, after 16, and the others are to be there to the end of that.
MAX_PEER_RESTARTS = 20
BACKOFF_S = (0.0, 2.0, 8.0)
JITTER = 0.25  # so that workers that fail together do not come back together


@dataclass
class RestartPolicy:
    """Counts restarts; a step beyond all that were made before sets the counts of those in a row to 0.

    A step that was made before is no progress: who dies at the same one each time is given up.
    """

    total: int = 0
    in_a_row: int = 0
    peer_restarts: int = 0
    _furthest: int = 0

    def record_step(self, step: int) -> None:
        """A step was made, counted from 1."""
        if step > self._furthest:
            self._furthest, self.in_a_row, self.peer_restarts = step, 0, 0

    def next_delay(self) -> float | None:
        """Count one more; the seconds to wait before it, or None where there were enough."""
        if self.in_a_row == MAX_RESTARTS:
            return None
        self.total += 1
        self.in_a_row += 1
        return BACKOFF_S[self.in_a_row - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret

    def allow_peer_restart(self) -> bool:
        """Count one that only followed another worker's end; whether there may be more."""
        self.peer_restarts += 1
        return self.peer_restarts < MAX_PEER_RESTARTS
