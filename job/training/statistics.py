"""Statistics of a training run: step, loss and speed, since the last record and over the whole run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from job.output.checkpoint import SinceRecord

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class TrainingStatistics:
    """Counts blocks of steps and the time that they take. Time for evaluation does not count.

    The first block of a process compiles, so it does not count for the speed if there is another block.

    Attributes:
        steps: of the whole run.
        clock: returns seconds.
        step: steps done so far; above 0 in a run that resumes from a checkpoint.
        curve: {"epoch", "step", "loss", "accuracy"} of each record so far.
        training_s: seconds of training so far.
        since_record: sums over the steps since the last record.
        first_block_at: when the first block ended, by the clock; 0 before.
    """

    steps: int
    clock: Callable[[], float] = time.perf_counter
    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    training_s: float = 0
    since_record: SinceRecord = field(default_factory=SinceRecord)
    first_block_at: float = 0

    def __post_init__(self) -> None:
        self._mark = self.clock()
        self._start_step, self._start_s = self.step, self.training_s
        self._first_steps, self._first_s = 0, 0.0

    def record_block(self, step: int, loss: float, examples: float, *, complete: bool = True) -> None:
        """Count a block that has just ended.

        Args:
            step: steps of the run that are done.
            loss: in nats, summed over the block's examples, also those before this process resumed it.
            examples: number of examples in the block, over all workers, that this process has trained on.
            complete: whether all steps of the block were made.
        """
        now = self.clock()
        seconds, self._mark = now - self._mark, now
        self.step = step
        self.training_s += seconds
        if not self._first_steps:
            self.first_block_at, self._first_s, self._first_steps = now, seconds, step - self._start_step
        since = self.since_record
        since.loss, since.block_loss = (since.loss + loss, 0.0) if complete else (since.loss, loss)
        since.examples += examples
        since.seconds += seconds

    def summary(self, epoch: int, accuracy: float | None) -> dict[str, Any]:
        """The fields of a record for the steps since the last one; its mean loss also extends the curve.

        Args:
            epoch: counted from 1.
            accuracy: on the test set, None if it was not evaluated.
        """
        since, self.since_record = self.since_record, SinceRecord()
        loss, examples_per_s = since.loss / since.examples, since.examples / since.seconds
        self.curve.append({"epoch": epoch, "step": self.step, "loss": loss, "accuracy": accuracy})
        eta_s = (self.steps - self.step) * self.seconds_per_step()
        return {**self.curve[-1], "steps": self.steps, "examples_per_s": examples_per_s, "eta_s": eta_s}

    def restart_clock(self) -> None:
        """Leave out the time since the last block, which was not spent on training."""
        self._mark = self.clock()

    def seconds_per_step(self) -> float:
        """Seconds that a step takes after compilation: of this process, or of the run if it has made no step yet."""
        own_steps, own_s = self.step - self._start_step, self.training_s - self._start_s
        if own_steps == self._first_steps:
            return self.training_s / self.step
        return (own_s - self._first_s) / (own_steps - self._first_steps)
