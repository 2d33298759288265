"""The job itself, read from top to bottom: train, evaluate, publish."""

from __future__ import annotations

import contextlib
import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from job import data, export, model, process, report, step
from job.course import Course
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from job.cluster import Cluster
    from job.config import Config
    from job.dataset import Dataset, Rows
    from job.publish import Output

    Tensors = Mapping[str, tf.Tensor]
    Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Worker:
    """This process among those that train together.

    strategy joins them, one replica on each. tell takes the fields of a progress record. told_to_stop says whether this
    worker was asked to leave. began is the process's start, in seconds of time.perf_counter().
    """

    cluster: Cluster
    strategy: tf.distribute.Strategy
    tell: Callable[..., None]
    told_to_stop: Callable[[], bool]
    began: float


def train_and_evaluate(config: Config, worker: Worker, dataset: Dataset, output: Output | None) -> int:
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
    # Rank 0's values reach every worker when the variable is made: the strategy broadcasts them.
    initial = model.init(config.seed)
    packing = step.Packing.of(initial)
    with worker.strategy.scope():
        vector = tf.Variable(packing.pack(initial), trainable=False).read_value()
    evaluator = Evaluator(worker, dataset.test)

    vector, course = fit(config, worker, dataset.train, packing, vector, evaluator)

    worker.tell(phase="evaluating", step=course.step, steps=course.steps)
    params = packing.unpack(vector)
    probabilities = evaluator.probabilities(params)
    if not np.isfinite(probabilities).all():  # a step's loss is that before its update, which may be the last
        raise not_finite(config, course)
    if output is None:
        say_published(evaluator.total)
        return Exit.OK
    worker.tell(phase="publishing", step=course.step, steps=course.steps)
    published = publish(config, worker, dataset, output, course, params, probabilities)
    verdict = output.promote(config.promote, config.min_accuracy)
    say_published(evaluator.total)
    # From here on the run has succeeded, even if its folder takes no more records.
    with contextlib.suppress(JobError):
        worker.tell(
            phase="published",
            step=course.step,
            steps=course.steps,
            accuracy=published["test"]["accuracy"],
            code=verdict.code,
            reason=verdict.verdict,
            message=verdict.reason,
        )
    return verdict.code


def say_published(total: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    """Pass the all-reduce that says 'published': whoever has passed it is done, whatever happens to the others."""
    total(np.ones(1, np.float32))
    # A worker that left now could take away what others still need of the last all-reduce. Whoever passes another one
    # knows that all have passed the last; that it fails says only that somebody has left already.
    with contextlib.suppress(tf.errors.OpError):
        total(np.ones(1, np.float32))


def fit(
    config: Config, worker: Worker, rows: Rows, packing: step.Packing, vector: tf.Tensor, evaluator: Evaluator
) -> tuple[tf.Tensor, Course]:
    """Make all steps of the run, from packed parameters.

    Returns:
        The packed parameters at the end, and the course of the training.
    """
    cluster = worker.cluster
    plan = data.Plan(
        count=rows.count,
        row_bytes=math.prod(rows.shape),
        batch_size=min(config.batch_size, rows.count),
        workers=cluster.workers,
        rank=cluster.rank,
        seed=config.seed,
        epochs=config.epochs,
        log_every=config.log_every,
        sync_every=config.sync_every,
    )
    on_cpu = config.device == "cpu"
    advance = step.compile_block(worker.strategy, packing, cluster.workers, config.sync_every, gather=on_cpu)
    worker.tell(phase="compiling", step=0, steps=plan.steps)
    course = Course(plan.steps)
    blocks = data.training_blocks(rows, plan)
    for (epoch, first, last), (images, labels, weights) in zip(plan.blocks(), blocks, strict=True):
        sizes = plan.batch_sizes(first, first + plan.block_steps)
        rates = learning_rates(config, plan, epoch * plan.steps_per_epoch + first)
        stop = np.float32(worker.told_to_stop())
        outcome = advance(vector, step.Block(images, labels, weights, sizes, rates, np.int32(last - first), stop))
        vector, loss = outcome.vector, float(outcome.loss)
        course.made(epoch * plan.steps_per_epoch + last, loss, float(sizes[: last - first].sum()))
        if not math.isfinite(loss):
            raise not_finite(config, course)
        if outcome.stops:
            told = worker.told_to_stop()
            reason, who = ("stopped", "told") if told else ("stopped-by-peer", "a peer was told")
            message = f"{who} to stop at step {course.step}"
            raise JobError(Exit.TRY_AGAIN, reason, message, "start the run again")
        end_of_epoch = last == plan.steps_per_epoch
        if end_of_epoch or last // config.log_every > first // config.log_every:
            shown = end_of_epoch and shows_accuracy(config, epoch + 1)
            accuracy = evaluator.accuracy(packing.unpack(vector)) if shown else None
            worker.tell(phase="training", **course.moment(epoch + 1, accuracy))
            if shown:
                course.resume()
    return vector, course


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


class Evaluator:
    """The test set, each worker's part of it evaluated there, every example counted once."""

    def __init__(self, worker: Worker, rows: Rows) -> None:
        self.total = step.compile_sum(worker.strategy)
        self._count = rows.count
        self._batches = data.evaluation_batches(rows, worker.cluster.workers, worker.cluster.rank)
        self._predict = tf.function(model.predict, autograph=False, reduce_retracing=True)

    def probabilities(self, params: Tensors) -> Probabilities:
        """The probabilities of all test examples in the dataset's order, [n, classes], the same on each worker."""
        classes = self._predict(params, tf.zeros([1, *self._batches.element_spec[1].shape[1:]], tf.uint8)).shape[1]
        own = np.zeros([self._count, classes], np.float32)  # the other workers' rows stay zeros
        for numbers, images, _ in self._batches:
            own[numbers.numpy()] = self._predict(params, images)
        return self.total(own)

    def accuracy(self, params: Tensors) -> float:
        """The share of test examples that are classified rightly."""
        right = 0
        for _, images, labels in self._batches:
            right += int(np.count_nonzero(self._predict(params, images).numpy().argmax(axis=1) == labels))
        return float(self.total(np.asarray([right], np.float32))[0]) / self._count


def publish(
    config: Config,
    worker: Worker,
    dataset: Dataset,
    output: Output,
    course: Course,
    params: Tensors,
    probabilities: Probabilities,
) -> dict[str, Any]:
    """Write the model and its report and make them appear in the output folder; returns the report."""
    arrays = {name: tensor.numpy() for name, tensor in params.items()}
    images, labels = dataset.test.take(np.arange(dataset.test.count))
    evaluation = report.Evaluation(labels, probabilities)
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    begun = output.begun
    run = report.Run(
        name=output.run,
        job_uid=output.job_uid,
        started=begun["started"],
        settings=begun["settings"],
        settings_hash=begun["settings_hash"],
        fingerprint=dataset.fingerprint,
        workers=worker.cluster.workers,
        replicas=worker.strategy.num_replicas_in_sync,
        device=config.device,
        versions=begun["versions"],
        curve=[*course.moments[:-1], {**course.moments[-1], "accuracy": accuracy}],
        timing={
            "startup_s": course.first_block_at - worker.began,
            "training_s": course.training_s,
            "steps": course.steps,
            "examples_per_s": dataset.train.count * config.epochs / course.steps / course.seconds_a_step(),
            "us_per_step": course.seconds_a_step() * 1e6,
            "peak_rss_mb": process.peak_rss_mb(),
        },
        parameters_sha256=digest(arrays),
    )

    written = report.build(run, evaluation)

    def fill(folder: Path) -> None:
        export.save(folder / "saved_model" / "1", arrays, dataset.test.shape)
        report.write(folder, written, evaluation, images, model.layers(arrays))

    output.publish(fill)
    return written


def digest(params: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 of parameters: the name, dtype, shape and bytes of each, in sorted name order."""
    sha = hashlib.sha256()
    for name in sorted(params):
        sha.update(f"{name} {params[name].dtype} {params[name].shape}\n".encode())
        sha.update(params[name].tobytes())
    return sha.hexdigest()
