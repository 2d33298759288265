"""Checkpoints of a training: taken up when it begins, saved beside it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

from job.errors import Exit, JobError
from job.output.checkpoint import Checkpoint, restore_newest
from job.output.checkpoint_writer import CheckpointWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tensorflow as tf

    from job.config import Config
    from job.output.run_folder import RunFolder
    from job.training.statistics import Course
    from job.training.step import Packing
    from job.training.worker import Worker


def restore(config: Config, worker: Worker, must_match: Mapping[str, Any], output: RunFolder) -> Checkpoint | None:
    """The newest sound checkpoint of the run, if it has any; what is damaged, and where it goes on, is told."""

    def warn(sentence: str) -> None:
        worker.report("restoring", reason="checkpoint-damaged", message=sentence)

    with output.errors():
        found = restore_newest(output.checkpoints, must_match, warn)
    if found is None:
        return None
    now = worker.cluster.workers
    if config.sync_every > 1 and found.workers != now:
        message = f"the run was trained by {found.workers} workers, not {now}, and --sync-every needs the same number"
        raise JobError(Exit.SETTINGS, "other-workers", message, f"train it with {found.workers} workers")
    change = f", with {now} workers instead of {found.workers}" if found.workers != now else ""
    message = f"going on from the checkpoint at step {found.step}{change}"
    worker.report("restoring", step=found.step, checkpoint=found.step, reason="resumed", message=message)
    return found


class Saver:
    """Hands checkpoints of the training to a thread that writes them; does nothing on ranks above 0.

    At its end it waits until the last one is on the disk, also where training ends by an error.
    """

    def __init__(
        self, worker: Worker, packing: Packing, must_match: Mapping[str, Any], output: RunFolder | None, made: int
    ) -> None:
        self._worker, self.packing, self._must_match, self._output = worker, packing, dict(must_match), output
        self._writer = CheckpointWriter(output.checkpoints, made or None) if output else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer and self._output:
            with contextlib.suppress(OSError) if kind else self._output.errors():
                self._writer.drain()

    @property
    def written(self) -> int | None:
        """The step of the newest checkpoint that is on the disk."""
        return self._writer.written if self._writer else None

    def save(self, course: Course, vector: tf.Tensor) -> None:
        """Have a checkpoint written."""
        if self._writer and self._output:
            params = self.packing.arrays(vector)
            workers = self._worker.cluster.workers
            with self._output.errors():
                self._writer.submit(Checkpoint(course.step, workers, self._must_match, course.training_s, params))
