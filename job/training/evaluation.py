"""The test set, evaluated by all workers together, and the last words that they say to each other."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf

from job import model
from job.training import data, step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from job.dataset.rows import Rows
    from job.training.worker import Worker

Tensors: TypeAlias = "Mapping[str, tf.Tensor]"
Probabilities: TypeAlias = "NDArray[np.float32]"
FAREWELL_S = 10.0


class Evaluator:
    """The test set, each worker's part of it evaluated there, every example counted once."""

    def __init__(self, worker: Worker, rows: Rows) -> None:
        self.total = step.compile_sum(worker.strategy)
        self._heartbeat = worker.report.heartbeat
        self._count = rows.count
        self._batches = data.evaluation_batches(rows, worker.cluster.workers, worker.cluster.rank)
        self._predict = tf.function(model.predict, autograph=False, reduce_retracing=True)

    def probabilities(self, params: Tensors) -> Probabilities:
        """The probabilities of all test examples in the dataset's order, [n, classes], the same on each worker."""
        classes = self._predict(params, tf.zeros([1, *self._batches.element_spec[1].shape[1:]], tf.uint8)).shape[1]
        own = np.zeros([self._count, classes], np.float32)  # the other workers' rows stay zeros
        for numbers, images, _ in self._batches:
            own[numbers.numpy()] = self._predict(params, images)
            self._heartbeat()
        return self.total(own)

    def say_published(self) -> None:
        """Pass the all-reduce that says 'published': whoever has passed it is done, whatever happens to the others."""
        self.total(np.ones(1, np.float32))

    def say_goodbye(self) -> None:
        """Pass another one: a worker that left before could take away what others still need of the last.

        Whoever passes it knows that all have passed the last; that it fails says only that somebody has left already.
        """
        with contextlib.suppress(tf.errors.OpError):
            self.total(np.ones(1, np.float32))

    def try_farewell(self) -> None:
        """say_published() and say_goodbye() where the others can be reached: one that is cut off never answers."""

        def farewell() -> None:
            with contextlib.suppress(tf.errors.OpError):
                self.say_published()
                self.say_goodbye()

        thread = threading.Thread(target=farewell, daemon=True)
        thread.start()
        thread.join(FAREWELL_S)

    def accuracy(self, params: Tensors) -> float:
        """The share of test examples that are classified rightly."""
        right = 0
        for _, images, labels in self._batches:
            right += int(np.count_nonzero(self._predict(params, images).numpy().argmax(axis=1) == labels))
            self._heartbeat()
        return float(self.total(np.asarray([right], np.float32))[0]) / self._count
