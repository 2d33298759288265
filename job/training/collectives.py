"""What the workers do together: sums, votes, and leaving at the same time."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, TypeAlias

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
        on_cpu: whether the workers train on CPUs. Only there can TensorFlow send a vector from one worker to another;
            NCCL chooses by itself.
    """

    def total(vector: tf.Tensor) -> tf.Tensor:
        if workers == 1:
            return vector
        if on_cpu and is_doubling_faster(workers, vector.shape.num_elements() * vector.dtype.size):
            return recursive_doubling(vector, rank, workers)
        return all_reduce(vector)

    return total


def is_doubling_faster(workers: int, size: int) -> bool:
    """Whether recursive doubling sums vectors of `size` bytes faster than the strategy's ring.

    All workers know the same size, so all choose the same way. A message of n bytes takes alpha + n * beta. In
    recursive doubling, messages of the whole vector follow one another; the ring sends 2(N-1) parts of size / N
    (Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication Operations in MPICH"). The ring's
    messages wait twice as long, because a worker asks for each only when it has its own.
    """
    ring = 2 * (workers - 1) * (2 * WAIT_BYTES + size / workers)
    return doubling_messages(workers) * (WAIT_BYTES + size) <= ring


def recursive_doubling(vector: tf.Tensor, rank: int, workers: int) -> tf.Tensor:
    """The sum of the workers' vectors, by at most doubling_messages() messages that follow one another.

    In the round of each bit, a worker exchanges its sum so far with the worker whose rank differs in this bit. If the
    number of workers is no power of two, the workers beyond it give their vectors to others first and receive the sum
    at the end. Both workers of a pair add in the same order, so all workers end with the same bits.

    No receive depends on a value, so TensorFlow asks the other worker for its message before the message is needed. It
    then takes half a round trip instead of a whole one.
    """
    bits = workers.bit_length() - 1
    sent = []

    def keys(sender: int, receiver: int, number: int) -> tuple[int, int]:
        # Every pair of workers has a group of its own.
        return min(sender, receiver) * workers + max(sender, receiver), 2 * number + (sender > receiver)

    def send(total: tf.Tensor, other: int, number: int) -> None:
        sent.append(internals.send(total, *keys(rank, other, number)))

    def receive(other: int, number: int) -> tf.Tensor:
        return internals.receive(vector.shape, vector.dtype, *keys(other, rank, number))

    partner, total = rank ^ (1 << bits), vector
    if rank >= 1 << bits:
        send(total, partner, 0)
        total = receive(partner, 1 + bits)
    else:
        if partner < workers:
            total += receive(partner, 0)
        for bit in range(bits):
            send(total, rank ^ (1 << bit), 1 + bit)
            received = receive(rank ^ (1 << bit), 1 + bit)
            # In the order of the ranks, because of two NaNs the first is the sum.
            total = received + total if rank & 1 << bit else total + received
        if partner < workers:
            send(total, partner, 1 + bits)
    with tf.control_dependencies(sent):  # TensorFlow would remove operations that nothing depends on
        return tf.identity(total)


def doubling_messages(workers: int) -> int:
    """The most messages that follow one another in recursive doubling."""
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
