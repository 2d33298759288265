"""The job itself, read from top to bottom: train, evaluate, publish."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from job import model
from job.config import settings_to_match
from job.errors import Exit, JobError
from job.output.checkpoint import Checkpoint
from job.output.journal import read_curve
from job.report import report
from job.system import process
from job.training import data, export, step
from job.training.checkpointing import Saver, restore
from job.training.evaluation import Evaluator
from job.training.statistics import Course

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from job.cluster import Cluster
    from job.config import Config
    from job.dataset.rows import Dataset, Rows
    from job.output.run_folder import RunFolder
    from job.training.evaluation import Probabilities, Tensors
    from job.training.worker import Worker


def train_and_evaluate(config: Config, worker: Worker, dataset: Dataset, output: RunFolder | None) -> int:
    """Train a model on every worker together, evaluate it on the whole test set, and publish it.

    Args:
        config: the run's settings.
        worker: this process and its peers.
        dataset: verified training and test examples.
        output: rank 0's part of the output folder, begun; None on the others, who never look at it.

    Returns:
        The exit code: rank 0's verdict, 0 on the others.

    Raises:
        JobError: 76 when the loss is not finite, 75 when a worker was told to stop, 73 or 75 from the output folder.
    """
    must_match = settings_to_match(config, dataset.fingerprint)
    begun = restore(config, worker, must_match, output) if output else None
    first = begun or Checkpoint(0, worker.cluster.workers, must_match, 0.0, model.init(config.seed))
    packing = step.Packing.of(first.params)
    # Rank 0's values reach every worker when the variables are made: the strategy broadcasts them.
    with worker.strategy.scope():
        vector = tf.Variable(packing.pack(first.params), trainable=False).read_value()
        made = int(tf.Variable(first.step, dtype=tf.int64, trainable=False).numpy())
    plan = plan_of(config, worker.cluster, dataset.train)
    course = Course(plan.steps, step=made, training_s=first.seconds)
    if output and made:
        with output.errors():
            course.moments = read_curve(output.folder, made)
    evaluator = Evaluator(worker, dataset.test)

    with Saver(worker, packing, must_match, output, made) as saver:
        vector = fit(config, worker, dataset.train, plan, vector, course, evaluator, saver)

        worker.report("evaluating", step=course.step, steps=course.steps)
        params = packing.unpack(vector)
        probabilities = evaluator.probabilities(params)
        if evaluator.total(np.asarray([worker.stop_requested()], np.float32))[0]:
            saver.save(course, vector)
            raise stopped(worker, course)
    if not np.isfinite(probabilities).all():  # a step's loss is that before its update, which may be the last
        raise not_finite(config, course)
    worker.report("publishing", step=course.step, steps=course.steps)
    if output is None:
        evaluator.say_published()
        worker.report("published", step=course.step, steps=course.steps, code=0)
        evaluator.say_goodbye()
        return Exit.OK
    published = publish(config, worker, dataset, output, course, params, probabilities)
    verdict = output.promote()
    # From here on the run has succeeded, even if no peer hears of it, and its folder takes no more records.
    evaluator.try_farewell()
    with contextlib.suppress(JobError):
        worker.report(
            "published",
            step=course.step,
            steps=course.steps,
            accuracy=published["test"]["accuracy"],
            code=verdict.code,
            reason=verdict.verdict,
            message=verdict.reason,
        )
    return verdict.code


def fit(  # noqa: PLR0913, PLR0917 - what a training is made of
    config: Config,
    worker: Worker,
    rows: Rows,
    plan: data.Plan,
    vector: tf.Tensor,
    course: Course,
    evaluator: Evaluator,
    saver: Saver,
) -> tf.Tensor:
    """Make all steps of the run that are left, from packed parameters; returns them as they are at the end."""
    on_cpu = config.device == "cpu"
    workers = worker.cluster.workers
    advance = step.compile_block(worker.strategy, saver.packing, workers, config.sync_every, gather=on_cpu)
    worker.report("compiling", step=course.step, steps=plan.steps)
    course.resume()
    begun = course.step
    blocks = data.training_blocks(rows, plan, begun)
    for (epoch, first, last), (images, labels, weights) in zip(plan.blocks(begun), blocks, strict=True):
        before = course.step
        sizes = plan.batch_sizes(first, first + plan.block_steps)
        rates = learning_rates(config, plan, before)
        stop = np.float32(worker.stop_requested())
        outcome = advance(vector, step.Block(images, labels, weights, sizes, rates, np.int32(last - first), stop))
        vector, loss = outcome.vector, float(outcome.loss)
        course.made(before + last - first, loss, float(sizes[: last - first].sum()))
        worker.report.heartbeat("training", step=course.step, steps=plan.steps)
        if not math.isfinite(loss):
            raise not_finite(config, course)
        if outcome.stops or plan.checkpoint_is_due(before, course.step):
            saver.save(course, vector)
        if outcome.stops:
            raise stopped(worker, course)
        end_of_epoch = last == plan.steps_per_epoch
        if end_of_epoch or last // config.log_every > first // config.log_every:
            shown = end_of_epoch and shows_accuracy(config, epoch + 1)
            accuracy = evaluator.accuracy(saver.packing.unpack(vector)) if shown else None
            worker.report("training", checkpoint=saver.written, **course.moment(epoch + 1, accuracy))
            if shown:
                course.resume()
    return vector


def plan_of(config: Config, cluster: Cluster, rows: Rows) -> data.Plan:
    """Which examples this worker takes at each step."""
    return data.Plan(
        count=rows.count,
        row_bytes=math.prod(rows.shape),
        batch_size=min(config.batch_size, rows.count),
        workers=cluster.workers,
        rank=cluster.rank,
        seed=config.seed,
        epochs=config.epochs,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        sync_every=config.sync_every,
    )


def stopped(worker: Worker, course: Course) -> JobError:
    """The error of a training that was told to stop, here or at a peer."""
    told = worker.stop_requested()
    reason, who = ("stopped", "told") if told else ("stopped-by-peer", "a peer was told")
    return JobError(Exit.TRY_AGAIN, reason, f"{who} to stop at step {course.step}", "start the run again")


def not_finite(config: Config, course: Course) -> JobError:
    """The error of a training that diverged."""
    message = f"the loss was not finite at step {course.step}"
    hint = f"use a smaller --learning-rate than {config.learning_rate:g}, and another --name"
    return JobError(Exit.NOT_FINITE, "loss-not-finite", message, hint)


def learning_rates(config: Config, plan: data.Plan, first: int) -> NDArray[np.float32]:
    """The learning rates of a block that begins at step `first` of the run, counted from 0: float32 [block_steps].

    cosine falls from the learning rate to 0 over the run (Loshchilov and Hutter 2017, without restarts).
    """
    if config.schedule == "constant":
        return np.full(plan.block_steps, config.learning_rate, np.float32)
    done = np.arange(first, first + plan.block_steps) / plan.steps
    return (config.learning_rate * 0.5 * (1 + np.cos(np.pi * done))).astype(np.float32)


def shows_accuracy(config: Config, epoch: int) -> bool:
    """Whether the test set is evaluated for display after this epoch, counted from 1; the last has the run's own."""
    return config.evaluate_every > 0 and epoch % config.evaluate_every == 0 and epoch < config.epochs


def publish(
    config: Config,
    worker: Worker,
    dataset: Dataset,
    output: RunFolder,
    course: Course,
    params: Tensors,
    probabilities: Probabilities,
) -> dict[str, Any]:
    """Write the model and its report and make them appear in the output folder; returns the report."""
    arrays = {name: tensor.numpy() for name, tensor in params.items()}
    images, labels = dataset.test.take(np.arange(dataset.test.count))
    evaluation = report.Evaluation(labels, probabilities)
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    manifest = output.manifest
    run = report.RunFacts(
        name=output.run,
        job_uid=output.job_uid,
        started=manifest["started"],
        settings=manifest["settings"],
        settings_hash=manifest["settings_hash"],
        fingerprint=dataset.fingerprint,
        workers=worker.cluster.workers,
        replicas=worker.strategy.num_replicas_in_sync,
        device=config.device,
        versions=manifest["versions"],
        # There is none where the run went on from its last checkpoint and its journal is lost.
        curve=[*course.moments[:-1], *({**last, "accuracy": accuracy} for last in course.moments[-1:])],
        timing={
            "startup_s": (course.first_block_at or time.perf_counter()) - worker.started,
            "training_s": course.training_s,
            "steps": course.steps,
            "examples_per_s": dataset.train.count * config.epochs / course.steps / course.seconds_a_step(),
            "us_per_step": course.seconds_a_step() * 1e6,
            "peak_rss_mb": process.peak_rss_mb(),
        },
        parameters_sha256=digest(arrays),
    )

    written = report.build_report(run, evaluation)

    def fill(folder: Path) -> None:
        export.save(folder / "saved_model" / "1", arrays, dataset.test.shape)
        report.write_report(folder, written, evaluation, images, model.layers(arrays))

    output.publish(fill)
    return written


def digest(params: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 of parameters: the name, dtype, shape and bytes of each, in sorted name order."""
    sha = hashlib.sha256()
    for name in sorted(params):
        sha.update(f"{name} {params[name].dtype} {params[name].shape}\n".encode())
        sha.update(params[name].tobytes())
    return sha.hexdigest()
