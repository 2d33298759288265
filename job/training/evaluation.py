"""Evaluation of the test set by all workers together."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf

from job import model
from job.training.input import evaluation_batches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from job.dataset.rows import Rows
    from job.training.collectives import Collectives
    from job.training.worker import Worker

Tensors: TypeAlias = "Mapping[str, tf.Tensor]"
Probabilities: TypeAlias = "NDArray[np.float32]"


class Evaluator:
    """Evaluates the test set: each worker a part of it, every example exactly once."""

    def __init__(self, worker: Worker, collectives: Collectives, rows: Rows) -> None:
        self._heartbeat, self._collectives = worker.report.heartbeat, collectives
        self._count = rows.count
        self._batches = evaluation_batches(rows, worker.cluster.workers, worker.cluster.rank)
        self._predict = tf.function(model.predict, autograph=False, reduce_retracing=True)

    def probabilities(self, params: Tensors) -> Probabilities:
        """The probabilities of all test examples in the dataset's order, float32 [n, classes], on each worker."""
        classes = self._predict(params, tf.zeros([1, *self._batches.element_spec[1].shape[1:]], tf.uint8)).shape[1]
        own = np.zeros([self._count, classes], np.float32)  # the rows of the other workers stay 0
        for numbers, images, _ in self._batches:
            own[numbers.numpy()] = self._predict(params, images)
            self._heartbeat()
        return self._collectives.sum(own)

    def accuracy(self, params: Tensors) -> float:
        """The share of test examples that are classified correctly."""
        correct = 0
        for _, images, labels in self._batches:
            correct += int(np.count_nonzero(self._predict(params, images).numpy().argmax(axis=1) == labels))
            self._heartbeat()
        return float(self._collectives.sum(np.asarray([correct], np.float32))[0]) / self._count
