"""Tests of the evaluation of the test set: its figures, and a stop in the middle of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf

from job import model
from job.cluster import Cluster
from job.dataset.rows import Rows
from job.errors import Exit, JobError
from job.training.evaluation import Evaluator
from job.training.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from job.training.collectives import Collectives

COUNT, BATCH = 23, 4


class Votes:
    """Stands in for the collectives of a worker whose peers are silent, and counts the votes."""

    count = 0

    def any(self, vote: bool) -> bool:
        """Take part in a vote."""
        self.count += 1
        return vote

    def sum(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sum with the peers' zeros."""
        return array


def evaluator(
    rank: int, workers: int, stop_requested: Callable[[], bool] = lambda: False, classes: int = 10
) -> tuple[Evaluator, Votes, Mock]:
    """The evaluator of one of several workers, its votes, and its heartbeats."""
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (COUNT, 28, 28), np.uint8)
    rows = Rows(images, random.integers(0, 10, COUNT).astype(np.int32))
    addresses = ("a:1",) * workers
    report, votes = Mock(), Votes()
    worker = Worker(Cluster("r", "u", rank, addresses, addresses), Mock(), report, stop_requested, 1, 0.0)
    return Evaluator(worker, cast("Collectives", votes), rows, classes, BATCH), votes, report.heartbeat


def params() -> dict[str, tf.Tensor]:
    """Some parameters."""
    random = np.random.default_rng(2)
    return {name: tf.constant(random.normal(0, 0.1, v.shape), tf.float32) for name, v in model.init(0).items()}


@pytest.mark.parametrize(("classes", "fits"), [(10, True), (9, False), (11, False)])
def test_a_model_for_another_number_of_classes_is_refused(*, classes: int, fits: bool) -> None:
    """Its predictions would be counted in the wrong places."""
    made, _, _ = evaluator(0, 1, classes=classes)
    if fits:
        made.check(model.init(0))
        return
    with pytest.raises(
        JobError, match=rf"predict\(\) returns the shape .*10\), but the dataset has {classes} classes"
    ) as refused:
        made.check(model.init(0))
    assert refused.value.code == Exit.USAGE


@pytest.mark.parametrize("workers", [1, 2, 5, 30])
def test_every_worker_takes_part_in_as_many_votes(workers: int) -> None:
    """There is a vote and a heartbeat after each batch of the first worker, the others may have fewer batches."""
    made = [evaluator(rank, workers) for rank in range(workers)]
    together = sum(np.asarray(each.probabilities(params())) for each, _, _ in made)
    assert isinstance(together, np.ndarray)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)
    batches = math.ceil(math.ceil(COUNT / workers) / BATCH)
    assert {votes.count for _, votes, _ in made} == {batches}
    assert {heartbeat.call_count for _, _, heartbeat in made} == {batches}


def test_evaluation_ends_when_a_worker_was_asked_to_stop() -> None:
    """After the batch at hand, and without a result."""
    answers = iter([False, False, True])
    chosen, votes, _ = evaluator(0, 1, lambda: next(answers))
    assert chosen.accuracy(params()) is None
    assert votes.count == 3
    chosen, votes, _ = evaluator(0, 1, lambda: True)
    assert chosen.probabilities(params()) is None
    assert votes.count == 1
