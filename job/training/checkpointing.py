"""Checkpoints of a training run: where it starts, and what rank 0 saves while it trains."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any, Self, cast

from job import model
from job.errors import Exit, JobError
from job.must_match import model_file
from job.output.checkpoint import Checkpoint, CheckpointWriter, restore_newest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    import numpy as np
    import tensorflow as tf
    from numpy.typing import NDArray

    from job.config import Config
    from job.output.run_folder import RunFolder
    from job.training.packing import Packing
    from job.training.statistics import TrainingStatistics
    from job.training.worker import Worker


def restore(config: Config, worker: Worker, settings: Mapping[str, Any], output: RunFolder | None) -> Checkpoint:
    """The newest intact checkpoint of the run, or its start at step 0 if there is no checkpoint.

    Reports each damaged checkpoint that was skipped and the step that the run resumes from.

    Args:
        config: the run's settings.
        worker: this process.
        settings: must_match.settings_to_match()'s, which the checkpoint must have.
        output: rank 0's run folder; None on the other ranks, which get the start.

    Returns:
        The checkpoint, with this start's number of workers and threads.

    Raises:
        JobError: 78 if the checkpoints do not fit this run, or none is intact; 73 or 75 from the output folder.
    """
    workers, threads = worker.cluster.size, worker.threads
    start = Checkpoint(0, workers, threads, dict(settings), 0.0, model.init(config.seed), sizes=((0, workers),))
    if output is None:
        return start

    def warn(sentence: str) -> None:
        worker.report("restoring", reason="checkpoint-damaged", message=sentence)

    with output.errors():
        checkpoint = restore_newest(output.checkpoints, settings, warn)
    if checkpoint is None:
        return start
    before = checkpoint.workers
    if config.sync_every > 1 and before != workers:
        message = f"the run was trained by {before} workers, not {workers}, and --sync-every needs the same number"
        raise JobError(Exit.SETTINGS, "other-workers", message, f"train it with {before} workers")
    check_shapes(checkpoint.params, start.params)
    message = f"resuming from the checkpoint at step {checkpoint.step}{changes(checkpoint, start)}"
    worker.report("restoring", step=checkpoint.step, checkpoint=checkpoint.step, reason="resumed", message=message)
    return checkpoint.resumed_by(workers, threads)


def changes(before: Checkpoint, now: Checkpoint) -> str:
    """The permitted differences from the start that wrote a checkpoint, as the end of a sentence."""
    told = f", with {now.workers} workers instead of {before.workers}" if now.workers != before.workers else ""
    if before.threads not in {now.threads, None}:
        told += f", with {now.threads} threads instead of {before.threads}, so the last bits of the result may differ"
    if "model" not in before.settings:
        told += "; it has no hash of model.py, so the model is not compared"
    return told


def check_shapes(before: Mapping[str, NDArray[np.float32]], now: Mapping[str, NDArray[np.float32]]) -> None:
    """Refuse to resume with other parameters, which can come from a module that model.py imports.

    Raises:
        JobError: 78, with the names and shapes of both.
    """
    shapes = [{name: list(params[name].shape) for name in sorted(params)} for params in (before, now)]
    if shapes[0] != shapes[1]:
        had, has = (", ".join(f"{name} {shape}" for name, shape in each.items()) for each in shapes)
        message = f"the model changed since the run began: its parameters were {had}, and {model_file()} makes {has}"
        hint = "restore the original model with all that it imports, or use another --name"
        raise JobError(Exit.SETTINGS, "other-model", message, hint)


class Checkpointer:
    """Saves checkpoints in a thread while training goes on; does nothing on ranks above 0.

    At the end of a `with`, also after an error, it waits until the last checkpoint is on the disk. If that write fails
    after the training was asked to stop, the failure is added to that error; after any other error, it is a record.

    Args:
        worker: this process.
        output: rank 0's run folder; None on the other ranks.
        packing: of the parameters.
        checkpoint: restore()'s; those that are saved have its settings, workers, sizes and threads.
    """

    def __init__(self, worker: Worker, output: RunFolder | None, packing: Packing, checkpoint: Checkpoint) -> None:
        self._report, self._output, self._packing = worker.report, output, packing
        self._start = checkpoint
        self._writer = CheckpointWriter(output.checkpoints, checkpoint.step or None) if output else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if not self._writer:
            return
        try:
            with self._errors():
                self._writer.drain()
        except JobError as failure:
            if error is None:
                raise
            if error.__cause__ is failure.__cause__:  # save() has raised it
                return
            if isinstance(error, JobError) and error.code == Exit.TRY_AGAIN:
                message = f"{error.message}, but {failure.message}"
                raise JobError(failure.code, failure.reason, message, failure.hint) from failure
            with contextlib.suppress(JobError):  # the journal is on the same volume
                self._report("training", reason=failure.reason, message=failure.message)

    @property
    def newest_step(self) -> int | None:
        """The step of the newest checkpoint on the disk, None if there is none."""
        return self._writer.written if self._writer else None

    def save(self, statistics: TrainingStatistics, vector: tf.Tensor) -> None:
        """Have the packed parameters written as a checkpoint.

        Raises:
            JobError: 73 or 75, if an earlier checkpoint could not be written.
        """
        if self._writer and self._output:
            params = self._packing.arrays(vector)
            checkpoint = dataclasses.replace(
                self._start,
                step=statistics.step,
                seconds=statistics.training_s,
                params=params,
                since_record=dataclasses.replace(statistics.since_record),  # training goes on adding to it
            )
            with self._errors():
                self._writer.submit(checkpoint)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn an OSError into a JobError: 73 or 75, with the step after which nothing is saved."""
        output, writer = cast("RunFolder", self._output), cast("CheckpointWriter", self._writer)
        try:
            with output.errors():
                yield
        except JobError as failure:
            since = f"no step after {writer.written} is saved" if writer.written else "no step is saved"
            message = f"{failure.message}; {since}"
            raise JobError(failure.code, failure.reason, message, failure.hint) from failure.__cause__
