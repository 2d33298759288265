"""What the workers do together: sums, votes, and leaving at the same time."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import tensorflow as tf

from job.training import internals

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    Sum: TypeAlias = Callable[[tf.Tensor], tf.Tensor]

# The size of a message, in bytes, whose transfer takes as long as the wait for it: alpha / beta in the usual model, by
# which a message of n bytes takes alpha + n * beta. docs/performance.md has measurements.
WAIT_BYTES = 64 * 1024
ANNOUNCE_S = 10.0


def all_reduce(tensor: tf.Tensor) -> tf.Tensor:
    """The sum of the workers' tensors; call it within strategy.run."""
    # The identity places the tensor on a device; the strategy sums it there.
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))


def sum_of_vectors(rank: int, workers: int, *, on_cpu: bool) -> Sum:
    """The function that sums a vector within strategy.run in the fastest way, to the same bits on each worker.

    Args:
        rank: of this worker.
        workers: number of workers.
        on_cpu: whether the workers train on CPUs. Only there can TensorFlow gather vectors of some of the workers; NCCL
            chooses by itself.
    """

    def total(vector: tf.Tensor) -> tf.Tensor:
        if workers == 1:
            return vector
        way = fastest(workers, vector.shape.num_elements() * vector.dtype.size) if on_cpu else "ring"
        if way == "doubling":
            return recursive_doubling(vector, rank, workers)
        return gathered_sum(vector, workers) if way == "gather" else all_reduce(vector)

    return total


def fastest(workers: int, size: int) -> Literal["gather", "doubling", "ring"]:
    """How to sum vectors of `size` bytes: all workers know the same size, so all choose the same way.

    A message of n bytes takes alpha + n * beta. Messages of the whole vector follow one another when a worker gathers
    all vectors, and in recursive doubling; the strategy's ring sends 2(N-1) parts of size / N (Thakur, Rabenseifner and
    Gropp 2005, "Optimization of Collective Communication Operations in MPICH").
    """
    count = min(workers - 1, doubling_messages(workers))
    if count * (WAIT_BYTES + size) > 2 * (workers - 1) * (WAIT_BYTES + size / workers):
        return "ring"
    return "gather" if count == workers - 1 else "doubling"


def gathered_sum(vector: tf.Tensor, workers: int, group: int = 0, number: int = 0) -> tf.Tensor:
    """The sum of the vectors of all workers or of one group, which are added in the same order on each worker."""
    return tf.reduce_sum(internals.gather(vector, workers, group, number), axis=0)


def recursive_doubling(vector: tf.Tensor, rank: int, workers: int) -> tf.Tensor:
    """The sum of the workers' vectors, by doubling_messages() exchanges between pairs of workers.

    In the round of each bit, a worker exchanges its sum so far with the worker whose rank differs in this bit. If the
    number of workers is no power of two, the workers beyond it give their vectors to others first and receive the sum
    at the end. a + b has the bits of b + a, so all workers end with the same bits.
    """
    bits = workers.bit_length() - 1

    def exchange(vector: tf.Tensor, other: int, number: int) -> tf.Tensor:
        # Every pair of workers has a group of its own.
        group = 1 + min(rank, other) * workers + max(rank, other)
        return gathered_sum(vector, 2, group, number)

    partner = rank ^ (1 << bits)
    has_partner = max(rank, partner) < workers
    if has_partner:
        vector = exchange(vector, partner, 0)
    if rank < 1 << bits:
        for bit in range(bits):
            vector = exchange(vector, rank ^ (1 << bit), 1 + bit)
    else:
        vector = tf.fill(vector.shape, -0.0)  # which changes no bit of a sum
    return exchange(vector, partner, 1 + bits) if has_partner else vector


def doubling_messages(workers: int) -> int:
    """The number of messages that follow one another in recursive doubling."""
    bits = workers.bit_length() - 1
    return bits if workers == 1 << bits else bits + 2


class Collectives:
    """Operations that every worker must call at the same point of the run; each waits for all workers.

    Raises:
        tf.errors.OpError: from any method, if a peer is lost, unless the method says otherwise.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        # AutoGraph only rewrites Python's loops and conditions, and took half a second of each start.
        @tf.function(autograph=False)
        def total(tensor: tf.Tensor) -> tf.Tensor:
            return strategy.run(all_reduce, args=(tensor,))

        self._total = total

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """The sum of the workers' arrays, which have one shape and dtype; the same bits on each worker."""
        return np.asarray(self._total(tf.constant(array)))

    def any(self, vote: bool) -> bool:
        """Whether at least one worker votes yes."""
        return bool(self.sum(np.asarray([vote], np.float32))[0])

    def wait_until_published(self) -> None:
        """Wait until rank 0 has published the model and announces it."""
        self._barrier()

    def wait_to_leave(self) -> None:
        """Wait until every worker has passed wait_until_published(), which may still need this process.

        An error only means that another worker has already left; it is ignored.
        """
        with contextlib.suppress(tf.errors.OpError):
            self._barrier()

    def announce_published(self) -> None:
        """Rank 0's side of both waits. It gives up after ANNOUNCE_S, because a peer that is cut off never answers."""

        def announce() -> None:
            with contextlib.suppress(tf.errors.OpError):
                self.wait_until_published()
                self.wait_to_leave()

        thread = threading.Thread(target=announce, daemon=True)
        thread.start()
        thread.join(ANNOUNCE_S)

    def _barrier(self) -> None:
        self.sum(np.ones(1, np.float32))
