"""A block of training steps as one compiled function: gradient, all-reduce, update."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import tensorflow as tf

from job import model
from job.training.collectives import sum_of_vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.training.collectives import Sum
    from job.training.packing import Packing

# AutoGraph is off everywhere: it only rewrites Python's loops and conditions, and took half a second of each start.

RunBlock: TypeAlias = "Callable[[tf.Tensor, BlockInput], BlockResult]"


class BlockInput(NamedTuple):
    """One worker's input to a block that has room for K steps.

    Attributes:
        images: uint8 [K, local_batch_size, height, width].
        labels: int32 [K, local_batch_size].
        weights: float32 [K, local_batch_size], 0 for padding.
        batch_sizes: float32 [K], the number of examples in each global batch.
        rates: float32 [K], the learning rates.
        count: int32 [], how many of the K steps to make.
        stop: float32 [], 1 if this worker was asked to stop.
    """

    images: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor
    batch_sizes: tf.Tensor
    rates: tf.Tensor
    count: tf.Tensor
    stop: tf.Tensor


class BlockResult(NamedTuple):
    """The result of a block, the same on every worker.

    Attributes:
        vector: float32 [size], the packed parameters.
        loss: float32 [], in nats, summed over all examples of the block.
        stops: float32 [], how many workers were asked to stop before the block.
    """

    vector: tf.Tensor
    loss: tf.Tensor
    stops: tf.Tensor


def compile_block(
    strategy: tf.distribute.Strategy, packing: Packing, workers: int, sync_every: int, *, gather_short: bool
) -> RunBlock:
    """The function that makes a block of steps from packed parameters.

    Args:
        strategy: connects the workers.
        packing: of the parameters.
        workers: number of workers.
        sync_every: 1 to sum the gradients at each step. Above 1, each worker makes the steps of a block alone and the
            parameters are averaged at its end; the caller ends blocks at the right steps.
        gather_short: passed to sum_of_vectors().
    """
    total = sum_of_vectors(workers, gather_short=gather_short)
    if workers == 1 or sync_every > 1:
        return local_sgd(strategy, packing, workers, total)
    return synchronous(strategy, packing, total)


def synchronous(strategy: tf.distribute.Strategy, packing: Packing, total: Sum) -> RunBlock:
    """Steps with one all-reduce each, which sums the gradient, the loss and the flag to stop."""

    @tf.function(jit_compile=True, autograph=False)
    def update(vector: tf.Tensor, summed: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        """Compiled for the last update of a block too, so that it rounds like all others wherever a block ends."""
        return vector - rate * summed[:-2]

    @tf.function(jit_compile=True, autograph=False)
    def update_and_gradient(
        vector: tf.Tensor, summed: tf.Tensor, rate: tf.Tensor, block: BlockInput, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Make the update of the step before and compute the gradient of step k, in one launch instead of two."""
        vector = update(vector, summed, rate)
        loss, gradient = packed_gradient(packing, vector, block, k)
        return vector, tf.concat([gradient, [loss, block.stop]], axis=0)

    def step(
        vector: tf.Tensor, summed: tf.Tensor, rate: tf.Tensor, block: BlockInput, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        vector, own = update_and_gradient(vector, summed, rate, block, k)
        return vector, total(own)

    @tf.function(autograph=False)
    def run_block(vector: tf.Tensor, block: BlockInput) -> BlockResult:
        rates = block.rates / block.batch_sizes

        def next_step(
            k: tf.Tensor, vector: tf.Tensor, summed: tf.Tensor, rate: tf.Tensor, loss: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            vector, summed = strategy.run(step, args=(vector, summed, rate, block, k))
            return k + 1, vector, summed, tf.gather(rates, k), loss + summed[-2]

        # The loop is outside strategy.run, which refuses a collective in control flow inside it.
        start = (0, vector, tf.zeros([vector.shape[0] + 2]), 0.0, 0.0)
        _, vector, summed, rate, loss = tf.while_loop(lambda k, *_: k < block.count, next_step, start)
        return BlockResult(update(vector, summed, rate), loss, summed[-1])

    return cast("RunBlock", run_block)


def local_sgd(strategy: tf.distribute.Strategy, packing: Packing, workers: int, total: Sum) -> RunBlock:
    """Steps that each worker makes alone, then one all-reduce that averages the parameters (Stich 2019).

    A single worker trains in this way too.
    """

    @tf.function(jit_compile=True, autograph=False)
    def own_steps(vector: tf.Tensor, block: BlockInput) -> tuple[tf.Tensor, tf.Tensor]:
        def step(k: tf.Tensor, vector: tf.Tensor, loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # Each worker divides by the number of its own examples, which may be none.
            size = tf.maximum(tf.reduce_sum(tf.gather(block.weights, k)), 1)
            summed, gradient = packed_gradient(packing, vector, block, k)
            return k + 1, vector - tf.gather(block.rates, k) / size * gradient, loss + summed

        # No tf.range: XLA takes its end for a constant and would compile the block again for every count.
        _, vector, loss = tf.while_loop(lambda k, *_: k < block.count, step, [0, vector, 0.0])
        return vector, loss

    def steps(vector: tf.Tensor, block: BlockInput) -> tf.Tensor:
        vector, loss = own_steps(vector, block)
        return total(tf.concat([vector / workers, [loss, block.stop]], axis=0))

    @tf.function(autograph=False)
    def run_block(vector: tf.Tensor, block: BlockInput) -> BlockResult:
        summed = strategy.run(steps, args=(vector, block))
        return BlockResult(summed[:-2], summed[-2], summed[-1])

    return cast("RunBlock", run_block)


def packed_gradient(
    packing: Packing, vector: tf.Tensor, block: BlockInput, k: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss and the packed gradient of step k of a block, summed over this worker's examples."""
    # tf.gather, because XLA would compile a slice again for every k.
    images, labels, weights = (tf.gather(tensor, k) for tensor in (block.images, block.labels, block.weights))
    loss, gradient = model.loss_and_gradient(packing.unpack(vector), images, labels, weights)
    return loss, packing.pack(gradient)
