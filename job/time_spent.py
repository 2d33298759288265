"""Where a worker's time went, from its telemetry records. /metrics, report.json and `status` are views of it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Self

SPENT = "TIME_SPENT"  # environment variable that a supervisor sets for its trainer: what dump() returns

# The part of a worker's time that each phase belongs to; a phase that is not here belongs to the part before it.
PARTS = {
    "starting": "importing",
    "data": "importing",
    "waiting": "gathering",
    "joining": "gathering",
    "restoring": "compiling",
    "compiling": "compiling",
    "training": "training",
    "evaluating": "evaluating",
    "publishing": "publishing",
    "published": "",
    "failed": "",
}
# From a restart until a step beyond all earlier ones, or until the evaluation, whatever the phases in between.
RECOVERING = "recovering"
# From the last record of an earlier pod until the pod that replaced it started.
REPLACING = "replacing"


@dataclass
class TimeSpent:
    """Adds up the seconds of each part. Times are in seconds of any one clock.

    Attributes:
        since: the time up to which everything is counted.
        seconds: by part; a part that has not occurred is absent.
        part: the present one, empty when the worker has ended.
        furthest: the greatest step so far.
        recovering: whether the worker was restarted and has made no new step since.
    """

    since: float
    seconds: dict[str, float] = field(default_factory=dict)
    part: str = "importing"
    furthest: int = 0
    recovering: bool = False

    def update(self, now: float, phase: str, step: int | None = None) -> None:
        """Take note that the worker is in a phase, and at a step if it is known."""
        self.seconds, self.since = self.at(now), max(now, self.since)
        if phase == "restarting":
            self.recovering = True
        elif (step or 0) > self.furthest or phase in {"evaluating", "publishing"}:
            self.recovering = False
        self.furthest = max(step or 0, self.furthest)
        part = PARTS.get(phase, self.part)
        self.part = RECOVERING if self.recovering and part else part

    def at(self, now: float) -> dict[str, float]:
        """The seconds of each part up to a time."""
        if not self.part:
            return dict(self.seconds)
        return {**self.seconds, self.part: self.seconds.get(self.part, 0.0) + max(0.0, now - self.since)}

    def add_earlier(self, earlier: TimeSpent, start: float) -> None:
        """Add what an earlier pod of this worker spent.

        Args:
            earlier: until that pod's last record.
            start: when this worker started, by the clock of `earlier`.
        """
        before = {**earlier.seconds, REPLACING: earlier.seconds.get(REPLACING, 0.0) + max(0.0, start - earlier.since)}
        self.seconds = {
            part: before.get(part, 0.0) + self.seconds.get(part, 0.0) for part in {**before, **self.seconds}
        }
        if self.furthest < earlier.furthest:  # its steps since the checkpoint are repeated
            self.furthest, self.recovering = earlier.furthest, True

    def dump(self) -> str:
        """Everything as text, for a process on the same machine, whose monotonic clock is the same."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """What dump() wrote."""
        return cls(**json.loads(text))


def goodput(seconds: dict[str, float]) -> float:
    """The share of the time that was spent on training; 0 if there is none."""
    total = sum(seconds.values())
    return seconds.get("training", 0.0) / total if total else 0.0
