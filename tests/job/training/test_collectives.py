"""Tests of what the workers do together, as far as one worker shows it; whole runs show the rest."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tensorflow as tf

from job.training import collectives, internals
from job.training.collectives import Collectives

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture
def alone() -> Collectives:
    """The collectives of a single worker."""
    return Collectives(tf.distribute.get_strategy())


def test_sum_of_one_worker_is_its_own_array(alone: Collectives) -> None:
    """The array keeps its shape and its bits."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(alone.sum(array), array, strict=True)


@pytest.mark.parametrize("vote", [False, True])
def test_a_vote_of_one_worker_decides(alone: Collectives, vote: bool) -> None:
    """A single yes is enough, and no vote is a yes without one."""
    assert alone.any(vote) is vote


@pytest.mark.parametrize("lost", [False, True])
def test_rank_0_leaves_although_a_peer_is_lost(alone: Collectives, monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    """After an error at once, and after ANNOUNCE_S if a peer never answers: while the barrier still waits."""
    monkeypatch.setattr(collectives, "ANNOUNCE_S", 0.2)
    release, passed = threading.Event(), list[bool]()

    def barrier() -> None:
        if lost:
            raise tf.errors.UnavailableError(None, None, "a peer left")
        passed.append(release.wait(60))

    monkeypatch.setattr(alone, "_barrier", barrier)
    try:
        alone.announce_published()
        assert passed == []
    finally:
        release.set()


class Messages:
    """TensorFlow's messages between threads that stand for workers.

    Attributes:
        depths: how many messages each worker has waited for, one after the other.
    """

    def __init__(self) -> None:
        self.depths: dict[int, int] = defaultdict(int)
        self._changed = threading.Condition()
        self._sent: dict[tuple[int, int], tuple[tf.Tensor, int]] = {}

    def send(self, vector: tf.Tensor, group: int, instance: int) -> tf.Tensor:
        """Send a vector; no two messages have the same numbers."""
        with self._changed:
            assert (group, instance) not in self._sent
            self._sent[group, instance] = vector, self.depths[threading.get_ident()]
            self._changed.notify_all()
        return vector

    def receive(self, shape: tf.TensorShape, dtype: tf.DType, group: int, instance: int) -> tf.Tensor:
        """Wait for a vector."""
        with self._changed:
            assert self._changed.wait_for(lambda: (group, instance) in self._sent, 60)
            vector, depth = self._sent.pop((group, instance))
            own = threading.get_ident()
            self.depths[own] = max(self.depths[own], depth + 1)
        assert (vector.shape, vector.dtype) == (shape, dtype)
        return vector


@pytest.mark.parametrize("workers", [2, 3, 4, 5, 6, 7, 8, 13, 16])
def test_workers_sum_their_vectors_to_the_same_bits(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in no more messages than the model counts, whether or not their number is a power of two."""
    messages = Messages()
    monkeypatch.setattr(internals, "send", messages.send)
    monkeypatch.setattr(internals, "receive", messages.receive)
    vectors = np.random.default_rng(workers).normal(size=(workers, 40)).astype(np.float32)
    vectors[:, 0] = -0.0
    sums: dict[int, NDArray[np.float32]] = {}

    def work(rank: int) -> None:
        total = collectives.sum_of_vectors(rank, workers, on_cpu=True)
        sums[rank] = total(tf.constant(vectors[rank])).numpy()

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(sums) == workers
    assert len({each.tobytes() for each in sums.values()}) == 1
    np.testing.assert_allclose(sums[0], vectors.sum(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    assert (workers - 1).bit_length() <= max(messages.depths.values()) <= collectives.doubling_messages(workers)


@pytest.mark.parametrize(
    ("workers", "size", "doubling"),
    [
        (2, 31_400, True),
        (2, 100_000_000, True),  # the ring would send as many bytes in more messages
        (3, 31_400, True),
        (5, 31_400, True),
        (8, 31_400, True),
        (1000, 31_400, True),
        (8, 100_000_000, False),
    ],
)
def test_short_vectors_are_summed_in_few_messages_and_long_ones_in_few_bytes(
    workers: int, size: int, doubling: bool
) -> None:
    """The choice depends on what all workers know."""
    assert collectives.is_doubling_faster(workers, size) is doubling
