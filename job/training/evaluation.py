"""Evaluation of the test set by all workers together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf

from job import model
from job.config import usage_error
from job.training.input import evaluation_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from job.dataset.rows import Rows
    from job.training.collectives import Collectives
    from job.training.worker import Worker

Tensors: TypeAlias = "Mapping[str, tf.Tensor]"
Probabilities: TypeAlias = "NDArray[np.float32]"


class Evaluator:
    """Evaluates the test set: each worker evaluates a part, and every example counts once.

    After each batch, the workers exchange whether one of them was asked to stop. If so, all of them stop.
    """

    def __init__(self, worker: Worker, collectives: Collectives, rows: Rows, classes: int, batch_size: int) -> None:
        self._worker, self._collectives = worker, collectives
        self._count, self._classes = rows.count, classes
        self._batches = evaluation_batches(rows, worker.cluster.size, worker.cluster.place, batch_size)
        # The last worker may have fewer batches than the first, but all take part in the same number of votes.
        self._votes = math.ceil(math.ceil(rows.count / worker.cluster.size) / batch_size)
        self._stopped = False
        self._predict = tf.function(model.predict, autograph=False, reduce_retracing=True)

    def check(self, params: Mapping[str, NDArray[np.float32]]) -> None:
        """Refuse a model that does not give a probability for each of the dataset's classes.

        Raises:
            JobError: 64.
        """
        specs = {name: tf.TensorSpec(array.shape, tf.float32) for name, array in params.items()}
        images = tf.TensorSpec([None, *self._batches.element_spec[1].shape[1:]], tf.uint8)
        given = self._predict.get_concrete_function(specs, images).structured_outputs
        shape = getattr(given, "shape", None)  # a tensor has a shape; a dict or a tuple has none
        if shape is None or not shape.is_compatible_with([None, self._classes]):
            what = type(given).__name__ if shape is None else f"the shape {shape}"
            message = f"the model's predict() returns {what}, but the dataset has {self._classes} classes"
            raise usage_error(message, f"return the probability of each class, float32 [n, {self._classes}]")

    def probabilities(self, params: Tensors) -> Probabilities | None:
        """The probabilities of all test examples in the dataset's order, float32 [n, classes], on each worker.

        None if a worker was asked to stop.
        """
        own = np.zeros([self._count, self._classes], np.float32)  # the rows of the other workers stay 0
        for numbers, probabilities, _ in self._evaluated(params):
            own[numbers] = probabilities
        return None if self._stopped else self._collectives.sum(own)

    def accuracy(self, params: Tensors) -> float | None:
        """The share of test examples that are classified correctly; None if a worker was asked to stop."""
        correct = 0
        for _, probabilities, labels in self._evaluated(params):
            correct += int(np.count_nonzero(probabilities.argmax(axis=1) == labels))
        if self._stopped:
            return None
        return float(self._collectives.sum(np.asarray([correct], np.float32))[0]) / self._count

    def _evaluated(self, params: Tensors) -> Iterator[tuple[NDArray[np.int64], Probabilities, NDArray[np.int32]]]:
        """Row numbers, probabilities and labels of each batch, until a worker is asked to stop."""
        batches = iter(self._batches)
        self._stopped = False
        for _ in range(self._votes):
            batch = next(batches, None)
            if batch:
                numbers, images, labels = batch
                yield numbers.numpy(), self._predict(params, images).numpy(), labels.numpy()
            self._worker.report.heartbeat()
            self._stopped = self._collectives.any(self._worker.stop_requested())
            if self._stopped:
                return
