"""A block of training steps as one compiled function: gradient, the all-reduce, update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np
import tensorflow as tf

from job import model
from job.training import internals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

# Up to this size a message takes less time than the wait for it: then gathering every worker's vector, N-1 messages
# one after the other, beats the ring's 2(N-1) smaller ones. Two workers, 31 KB: 0.49 ms against 0.75 ms.
GATHER_BYTES = 64 * 1024
# AutoGraph is off everywhere: it only rewrites Python's loops and conditions, and took half a second of each start.


Array: TypeAlias = "NDArray[np.float32]"
Sum: TypeAlias = "Callable[[tf.Tensor], tf.Tensor]"
Advance: TypeAlias = "Callable[[tf.Tensor, Block], Outcome]"


class Block(NamedTuple):
    """One block of a worker's steps.

    images are uint8 [K, part, height, width], labels int32 [K, part], weights float32 [K, part] and 0 for padding;
    batch_sizes float32 [K] are the true numbers of examples of the global batches, rates float32 [K] the learning
    rates; count, int32, is how many of the K steps are to be made; stop, float32, is 1 where this worker was told
    to stop.
    """

    images: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor
    batch_sizes: tf.Tensor
    rates: tf.Tensor
    count: tf.Tensor
    stop: tf.Tensor


class Outcome(NamedTuple):
    """What a block gives, equal on every worker.

    vector is the packed parameters; loss the sum over all examples of the block, in nats; stops how many workers
    were told to stop before it.
    """

    vector: tf.Tensor
    loss: tf.Tensor
    stops: tf.Tensor


@dataclass(frozen=True)
class Packing:
    """Named parameters as one vector, in sorted name order.

    Matrices are packed transposed. With [784, 10] carried from step to step as [10, 784], XLA's two products of a step
    run along the long axis and take half the time: 34 us instead of 75 at batch 100.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, params: Mapping[str, Array]) -> Packing:
        """The packing of parameters of these names and shapes."""
        return cls(tuple((name, tuple(params[name].shape)) for name in sorted(params)))

    def pack(self, params: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The parameters as one float32 vector."""
        return tf.concat([tf.reshape(tf.transpose(params[name]), [-1]) for name, _ in self.shapes], axis=0)

    def unpack(self, vector: tf.Tensor) -> dict[str, tf.Tensor]:
        """The parameters by name, each in its own shape."""
        sizes = [tf.TensorShape(shape).num_elements() for _, shape in self.shapes]
        parts = zip(self.shapes, tf.split(vector, sizes), strict=True)
        return {name: tf.transpose(tf.reshape(part, shape[::-1])) for (name, shape), part in parts}

    def arrays(self, vector: tf.Tensor) -> dict[str, Array]:
        """The same in NumPy, in a tenth of the time: training waits for it at each checkpoint."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.shapes])
        parts = zip(self.shapes, np.split(vector.numpy(), ends[:-1]), strict=True)
        return {name: np.array(part.reshape(shape[::-1]).T, order="C") for (name, shape), part in parts}


def compile_block(
    strategy: tf.distribute.Strategy, packing: Packing, workers: int, sync_every: int, *, gather: bool
) -> Advance:
    """The function that makes a block of steps from packed parameters.

    Args:
        strategy: the strategy under which the workers train.
        packing: of the parameters.
        workers: number of workers.
        sync_every: 1: the gradients are summed at each step. Above: each worker makes its own steps through the whole
            block, after which the parameters are averaged (local SGD, Stich 2019); the caller ends blocks there.
        gather: sum short vectors by gathering them, which TensorFlow offers on CPUs only.
    """

    def total(vector: tf.Tensor) -> tf.Tensor:
        """The sum of the workers' vectors, the same to the bit on each."""
        if workers == 1:
            return vector
        if gather and vector.shape.num_elements() * vector.dtype.size <= GATHER_BYTES:
            return tf.reduce_sum(internals.gather(vector, workers), axis=0)
        return all_reduce(vector)

    if workers == 1 or sync_every > 1:
        return averaging(strategy, packing, workers, total)
    return synchronous(strategy, packing, total)


def synchronous(strategy: tf.distribute.Strategy, packing: Packing, total: Sum) -> Advance:
    """Blocks of steps with one all-reduce each: of the gradient, the loss and the flag to stop."""

    @tf.function(jit_compile=True, autograph=False)
    def update(vector: tf.Tensor, summed: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        """Compiled for the last one too: it rounds as all others do, wherever a block ends."""
        return vector - rate * summed[:-2]

    @tf.function(jit_compile=True, autograph=False)
    def update_and_gradient(
        vector: tf.Tensor, summed: tf.Tensor, rate: tf.Tensor, block: Block, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Make the update that the step before left, and compute this one's gradient: one launch a step, not two."""
        vector = update(vector, summed, rate)
        loss, gradient = packed_gradient(packing, vector, block, k)
        return vector, tf.concat([gradient, [loss, block.stop]], axis=0)

    def step(
        vector: tf.Tensor, summed: tf.Tensor, rate: tf.Tensor, block: Block, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        vector, own = update_and_gradient(vector, summed, rate, block, k)
        return vector, total(own)

    @tf.function(autograph=False)
    def advance(vector: tf.Tensor, block: Block) -> Outcome:
        rates = block.rates / block.batch_sizes

        def next_step(
            k: tf.Tensor, vector: tf.Tensor, summed: tf.Tensor, rate: tf.Tensor, loss: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            vector, summed = strategy.run(step, args=(vector, summed, rate, block, k))
            return k + 1, vector, summed, tf.gather(rates, k), loss + summed[-2]

        # The loop stands outside of strategy.run because a collective inside control flow inside it is refused.
        start = (0, vector, tf.zeros([vector.shape[0] + 2]), 0.0, 0.0)
        _, vector, summed, rate, loss = tf.while_loop(lambda k, *_: k < block.count, next_step, start)
        return Outcome(update(vector, summed, rate), loss, summed[-1])

    return cast("Advance", advance)


def averaging(strategy: tf.distribute.Strategy, packing: Packing, workers: int, total: Sum) -> Advance:
    """Blocks of steps that each worker makes alone, then one all-reduce that averages them; one worker has no more."""

    @tf.function(jit_compile=True, autograph=False)
    def own_steps(vector: tf.Tensor, block: Block) -> tuple[tf.Tensor, tf.Tensor]:
        def step(k: tf.Tensor, vector: tf.Tensor, loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # Each divides by the size of its own part of the global batch, which may be nothing but padding.
            size = tf.maximum(tf.reduce_sum(tf.gather(block.weights, k)), 1)
            summed, gradient = packed_gradient(packing, vector, block, k)
            return k + 1, vector - tf.gather(block.rates, k) / size * gradient, loss + summed

        # Not over a tf.range, whose end XLA takes for a constant: it would compile the block anew for every count.
        _, vector, loss = tf.while_loop(lambda k, *_: k < block.count, step, [0, vector, 0.0])
        return vector, loss

    def steps(vector: tf.Tensor, block: Block) -> tf.Tensor:
        vector, loss = own_steps(vector, block)
        return total(tf.concat([vector / workers, [loss, block.stop]], axis=0))

    @tf.function(autograph=False)
    def advance(vector: tf.Tensor, block: Block) -> Outcome:
        summed = strategy.run(steps, args=(vector, block))
        return Outcome(summed[:-2], summed[-2], summed[-1])

    return cast("Advance", advance)


def packed_gradient(packing: Packing, vector: tf.Tensor, block: Block, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss and the packed gradient of step k of a block, summed over this worker's examples."""
    # tf.gather, because XLA compiles a slice anew for every k.
    images, labels, weights = (tf.gather(tensor, k) for tensor in (block.images, block.labels, block.weights))
    loss, gradient = model.loss_and_gradient(packing.unpack(vector), images, labels, weights)
    return loss, packing.pack(gradient)


def compile_sum(strategy: tf.distribute.Strategy) -> Callable[[Array], Array]:
    """The function that sums an array over the workers, the same to the bit on each."""

    @tf.function(autograph=False)
    def total(tensor: tf.Tensor) -> tf.Tensor:
        return strategy.run(all_reduce, args=(tensor,))

    return lambda array: np.asarray(total(tf.constant(array)))


def all_reduce(tensor: tf.Tensor) -> tf.Tensor:
    """The sum over the replicas, from within strategy.run."""
    # The identity gives the tensor a device, by which the strategy finds where to sum it.
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))
