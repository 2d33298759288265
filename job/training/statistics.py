"""The course of a training: its step, loss and speed, since the last record and over the whole run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Course:
    """Counts blocks of steps as they are made, and the seconds that they took; evaluations are left out.

    The first block compiles, so speeds leave it out too where there is another.

    Args:
        steps: of the whole run.
        clock: seconds.
        step: that the run has reached; above 0 where it goes on from a checkpoint.
        moments: its records until there.
        training_s: the seconds that it took until there.
    """

    steps: int
    clock: Callable[[], float] = time.perf_counter
    step: int = 0
    moments: list[dict[str, Any]] = field(default_factory=list)
    training_s: float = 0
    first_block_at: float = 0
    first_block_s: float = 0
    first_block_steps: int = 0

    def __post_init__(self) -> None:
        self._mark = self.clock()
        self._before, self._before_s = self.step, self.training_s
        self._loss = self._examples = self._seconds = 0.0

    def made(self, step: int, loss: float, examples: float) -> None:
        """A block of steps was made.

        Args:
            step: the run's step that it ended with, counted from 1.
            loss: the sum over its examples.
            examples: how many they were, over all workers.
        """
        now = self.clock()
        seconds, self._mark = now - self._mark, now
        self.step = step
        self.training_s += seconds
        if not self.first_block_steps:
            self.first_block_at, self.first_block_s, self.first_block_steps = now, seconds, step - self._before
        self._loss += loss
        self._examples += examples
        self._seconds += seconds

    def moment(self, epoch: int, accuracy: float | None) -> dict[str, Any]:
        """A record's fields for the steps since the last one: mean loss, and examples per second."""
        loss, examples_per_s = self._loss / self._examples, self._examples / self._seconds
        self._loss = self._examples = self._seconds = 0.0
        self.moments.append({"epoch": epoch, "step": self.step, "loss": loss, "accuracy": accuracy})
        return {
            **self.moments[-1],
            "steps": self.steps,
            "examples_per_s": examples_per_s,
            "eta_s": (self.steps - self.step) * self.seconds_a_step(),
        }

    def resume(self) -> None:
        """Start the clock again after something that is not training."""
        self._mark = self.clock()

    def seconds_a_step(self) -> float:
        """Seconds that a step takes once all is compiled."""
        own, own_s = self.step - self._before, self.training_s - self._before_s
        if own == self.first_block_steps:
            return self.training_s / self.step
        return (own_s - self.first_block_s) / (own - self.first_block_steps)
