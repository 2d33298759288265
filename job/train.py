"""The story of a run, from top to bottom: restore, broadcast, fit, evaluate, publish, leave together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from job import model
from job.dataset.description import describe
from job.dataset.rows import ImagesOnDisk
from job.errors import Exit, JobError
from job.must_match import model_source, settings_to_match
from job.output import layout
from job.output.journal import read_curve
from job.output.significance import Predictions
from job.report.beside_latest import beside_latest
from job.report.report import Evaluation, RunFacts, build_report, write_report
from job.system import cgroup, process
from job.time_spent import REPLACING, goodput
from job.training import export
from job.training.checkpointing import Checkpointer, restore
from job.training.collectives import Collectives
from job.training.evaluation import Evaluator
from job.training.input import training_blocks
from job.training.packing import Packing
from job.training.plan import Plan
from job.training.statistics import TrainingStatistics
from job.training.step import BlockInput, BlockState, compile_steps, place

if TYPE_CHECKING:
    from pathlib import Path

    from job.config import Config
    from job.dataset.rows import Dataset
    from job.output.checkpoint import Checkpoint
    from job.output.promotion import Verdict
    from job.output.run_folder import RunFolder
    from job.training.evaluation import Probabilities
    from job.training.plan import Block
    from job.training.worker import Worker


def train_and_evaluate(config: Config, worker: Worker, dataset: Dataset, output: RunFolder | None) -> int:
    """Train a model on all workers together, evaluate it on the whole test set, and publish it.

    Args:
        config: the run's settings.
        worker: this process and its peers.
        dataset: verified training and test examples.
        output: rank 0's run folder, after begin(); None on the other ranks, which write nothing.

    Returns:
        The exit code: that of the verdict on rank 0, 0 on the other ranks.

    Raises:
        JobError: 76 if the loss is not finite, 75 if a worker was asked to stop, 73 or 75 from the output folder.
    """
    # Only rank 0 reads a checkpoint; on the other ranks this one is the start, until rank 0's values are broadcast.
    checkpoint = restore(config, worker, settings_to_match(config, dataset.fingerprint), output)
    vector, step = broadcast(worker, checkpoint)
    training = Training(config, worker, dataset, output, checkpoint, step)
    with training.checkpointer:  # on leaving, it waits until the last checkpoint is on the disk
        vector = fit(training, vector)
        probabilities = evaluate(training, vector)
    training.report_phase("publishing")
    published = publish(training, output, vector, probabilities) if output else None
    return leave_together(training, published)


def broadcast(worker: Worker, checkpoint: Checkpoint) -> tuple[tf.Tensor, int]:
    """Rank 0's packed parameters, float32 [size], and its step, on every worker."""
    # The strategy copies rank 0's initial value to the other workers when a variable is created.
    with worker.strategy.scope():
        packed = Packing.of(checkpoint.params).pack(checkpoint.params)
        vector = tf.Variable(packed, trainable=False).read_value()
        step = tf.Variable(checkpoint.step, dtype=tf.int64, trainable=False)
    return vector, int(step.numpy())


class Training:
    """What one worker trains with in a run that starts at rank 0's checkpoint, at a step."""

    def __init__(
        self,
        config: Config,
        worker: Worker,
        dataset: Dataset,
        output: RunFolder | None,
        checkpoint: Checkpoint,
        step: int,
    ) -> None:
        self.config, self.worker, self.dataset = config, worker, dataset
        self.model_source = model_source()  # as it is published: the file may be edited while this training goes on
        self.plan = Plan.of(config, worker.cluster, dataset.train)
        self.sizes = checkpoint.sizes
        self.packing = Packing.of(checkpoint.params)
        if output:
            model.layers(checkpoint.params)  # a fault in it would otherwise end the run only after the training
        self.collectives = Collectives(worker.strategy)
        self.evaluator = Evaluator(
            worker, self.collectives, dataset.test, len(dataset.classes), self.plan.evaluation_batch_size
        )
        self.evaluator.check(checkpoint.params)
        self.checkpointer = Checkpointer(worker, output, self.packing, checkpoint)
        self.statistics = TrainingStatistics(self.plan.steps, step=step, training_s=checkpoint.seconds)
        if output and step:
            with output.errors():
                self.statistics.curve.extend(read_curve(output.folder, step))
            if not self.statistics.curve or self.statistics.curve[-1]["step"] < step:  # else it is already recorded
                self.statistics.since_record = checkpoint.since_record

    def report_phase(self, phase: str, **fields: Any) -> None:
        """Send a record with the current step."""
        self.worker.report(phase, step=self.statistics.step, steps=self.plan.steps, **fields)


def fit(training: Training, vector: tf.Tensor) -> tf.Tensor:
    """Make the remaining steps of the run.

    Args:
        training: this worker's part.
        vector: packed parameters to start from, float32 [size].

    Returns:
        The packed parameters after the last step.

    Raises:
        JobError: 76 if the loss is not finite; 75 if a worker was asked to stop, after a checkpoint.
    """
    config, worker, plan, statistics = training.config, training.worker, training.plan, training.statistics
    device = "GPU:0" if config.device == "gpu" else None
    run_steps = compile_steps(
        worker.strategy,
        training.packing,
        plan.rank,
        plan.workers,
        config.sync_every,
        training.collectives,
        device,
    )
    training.report_phase("compiling")
    statistics.restart_clock()
    start = statistics.step
    examples = training_blocks(training.dataset.train, plan, start)
    for block, (images, labels, weights) in zip(plan.blocks(start), examples, strict=True):
        # Every block has room for block_steps steps, of which the run makes the first `count`.
        count = block.last - block.first
        sizes = plan.batch_sizes(block.first, block.first + plan.block_steps)
        given = place(BlockInput(images, labels, weights, sizes, plan.learning_rates(block), np.int32(count)), device)
        # If the run stopped within a block, the block's loss continues.
        state = BlockState(vector, np.float32(statistics.since_record.block_loss))
        while state.done < count and not state.stops:
            state = run_steps(state, given, worker.stop_requested())
            step = plan.step_after(block) - count + state.done
            worker.report.heartbeat("training", step=step, steps=plan.steps)
        vector, loss = state.vector, float(state.loss)
        statistics.record_block(step, loss, float(sizes[: state.done].sum()), complete=state.done == count)
        if not math.isfinite(loss):
            raise not_finite_error(training)
        if state.stops or plan.checkpoint_is_due(block):
            training.checkpointer.save(statistics, vector)
        if state.stops:
            raise stopped_error(training)
        if plan.record_is_due(block):
            report_progress(training, block, vector)
    return vector


def report_progress(training: Training, block: Block, vector: tf.Tensor) -> None:
    """Report the loss and the speed since the last record, and the accuracy if it is due.

    Raises:
        JobError: 75 if a worker was asked to stop during the evaluation, after a checkpoint.
    """
    due = training.plan.accuracy_is_due(block)
    accuracy = training.evaluator.accuracy(training.packing.unpack(vector)) if due else None
    summary = training.statistics.summary(block.epoch + 1, accuracy)
    training.worker.report("training", checkpoint=training.checkpointer.newest_step, **summary)
    if due and accuracy is None:
        training.checkpointer.save(training.statistics, vector)
        raise stopped_error(training)
    if due:
        training.statistics.restart_clock()  # the evaluation is no part of the training time


def evaluate(training: Training, vector: tf.Tensor) -> Probabilities:
    """The probabilities of all test examples, float32 [n, classes], the same on each worker.

    Raises:
        JobError: 76 if they are not finite; 75 if a worker was asked to stop. The last step has a checkpoint already.
    """
    training.report_phase("evaluating")
    probabilities = training.evaluator.probabilities(training.packing.unpack(vector))
    if probabilities is None:
        raise stopped_error(training)
    # The loss of a step is computed before its update, so the last update is checked only here.
    if not np.isfinite(probabilities).all():
        raise not_finite_error(training)
    return probabilities


def stopped_error(training: Training) -> JobError:
    """The error of a training run that ends early because this worker or a peer was asked to stop."""
    reason, who = ("stopped", "asked") if training.worker.stop_requested() else ("stopped-by-peer", "a peer was asked")
    message = f"{who} to stop at step {training.statistics.step}"
    return JobError(Exit.TRY_AGAIN, reason, message, "start the run again")


def not_finite_error(training: Training) -> JobError:
    """The error of a training run that diverged."""
    message = f"the loss was not finite at step {training.statistics.step}"
    hint = f"use a smaller --learning-rate than {training.config.learning_rate:g}, and another --name"
    return JobError(Exit.NOT_FINITE, "loss-not-finite", message, hint)


def publish(
    training: Training, output: RunFolder, vector: tf.Tensor, probabilities: Probabilities
) -> tuple[float, Verdict]:
    """Write the model and its report, make them appear in the output folder as a whole, and promote the model.

    Returns:
        The accuracy on the test set, and the verdict on the promotion.

    Raises:
        JobError: 73 or 75 from the output folder.
    """
    params = training.packing.arrays(vector)
    test = training.dataset.test
    labels = test.labels
    evaluation = Evaluation(labels, probabilities)
    predictions = Predictions(labels, probabilities.argmax(axis=1))
    accuracy = float(predictions.correct.mean())
    known = facts(training, output, accuracy, export.parameters_sha256(params))
    # Images on disk are not read once more for this: it could take as long as an epoch.
    on_disk = isinstance(training.dataset.train.images, ImagesOnDisk)
    data = None if on_disk else describe(training.dataset)
    beside = beside_latest(output.root, training.dataset.fingerprint, data, predictions)
    document = build_report(dataclasses.replace(known, data=data, beside_latest=beside), evaluation)

    def fill(folder: Path) -> None:
        (folder / layout.MODEL_SOURCE).write_bytes(training.model_source)
        export.save(folder / "saved_model" / "1", params, model.predict, test.shape)
        write_report(folder, document, evaluation, test, model.layers(params))

    output.publish(fill)
    return accuracy, output.promote()


def facts(training: Training, output: RunFolder, accuracy: float, parameters_sha256: str) -> RunFacts:
    """What the report says about the run itself."""
    statistics = training.statistics
    curve = list(statistics.curve)
    if curve:  # it is empty if the run resumed after its last step and its journal is lost
        curve[-1] = {**curve[-1], "accuracy": accuracy}
    seconds = statistics.seconds_per_step()
    spent = training.worker.report.spent.at(time.monotonic())
    examples = training.plan.count * training.config.epochs
    return RunFacts(
        manifest=output.manifest,
        sizes=[size for size in training.sizes if size[0] < statistics.step],  # not a restart after the last step
        replicas=training.worker.strategy.num_replicas_in_sync,
        curve=curve,
        timing={
            "startup_s": (statistics.first_block_at or time.perf_counter()) - training.worker.started,
            "training_s": statistics.training_s,
            "steps": statistics.step,
            "examples_per_s": examples / statistics.step / seconds,
            "us_per_step": seconds * 1e6,
            "peak_rss_mb": process.peak_rss_mb(),
            "spent_s": spent,
            "goodput": goodput(spent),
            "core_seconds": (sum(spent.values()) - spent.get(REPLACING, 0))
            * cgroup.cpu_limit()
            * training.worker.cluster.workers,
        },
        parameters_sha256=parameters_sha256,
    )


def leave_together(training: Training, published: tuple[float, Verdict] | None) -> int:
    """Exit only when every worker knows that the model is published; returns the exit code.

    A worker that left after the first wait could take away what another one still needs to finish it, hence the second.
    Rank 0 answers both in announce_published(). Ranks above 0 exit with 0 whatever the verdict is.

    Args:
        training: this worker's part.
        published: publish()'s result on rank 0; None on the other ranks, which wait for it.
    """
    if published is None:
        training.collectives.wait_until_published()
        training.report_phase("published", code=0)
        training.collectives.wait_to_leave()
        return Exit.OK
    # The run has succeeded: neither a peer that does not answer nor a journal that cannot be written changes that.
    training.collectives.announce_published()
    accuracy, verdict = published
    fields = {"code": verdict.code, "reason": verdict.verdict, "message": verdict.reason}
    with contextlib.suppress(JobError):
        training.report_phase("published", accuracy=accuracy, **fields)
    return verdict.code
