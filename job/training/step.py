"""Compiled functions that make many training steps a call: gradient, all-reduce, update."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from job import model
from job.training.collectives import sum_of_vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from job.training.collectives import Collectives, Sum
    from job.training.packing import Packing

# AutoGraph is off everywhere: it only rewrites Python's loops and conditions, and took half a second of each start.

RunSteps: TypeAlias = "Callable[[BlockState, BlockInput, bool], BlockState]"

# A call makes steps for about this long, or one step if that takes longer. Between calls, the trainer reports its
# progress and checks whether it was asked to stop. All workers know it after the next call: within a second.
CALL_S = 0.4


class BlockInput(NamedTuple):
    """One worker's input to a block that has room for K steps.

    Attributes:
        images: uint8 [K, local_batch_size, height, width].
        labels: int32 [K, local_batch_size]; int64 after place() on a GPU.
        weights: float32 [K, local_batch_size], 0 for padding.
        batch_sizes: float32 [K], the number of examples in each global batch.
        rates: float32 [K], the learning rates.
        count: int32 [], how many of the K steps the block has.
    """

    images: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor
    batch_sizes: tf.Tensor
    rates: tf.Tensor
    count: tf.Tensor


class BlockState(NamedTuple):
    """The progress of a block between calls. It is the same on every worker, except between averages of local SGD.

    Attributes:
        vector: float32 [size], the packed parameters.
        loss: float32 [], in nats, summed over all examples of the steps made. Each call adds to it, so that its bits do
            not depend on where calls end.
        done: how many steps of the block are made.
        stops: how many workers were asked to stop before the last call began.
    """

    vector: tf.Tensor
    loss: tf.Tensor = np.float32(0)
    done: int = 0
    stops: int = 0


def place(block: BlockInput, device: str | None) -> BlockInput:
    """The block with its arrays on a device, so that no call and no step copies them again.

    The labels become int64, because TensorFlow keeps int32 in the host's memory, whatever the device.

    Args:
        block: in the host's memory.
        device: TensorFlow's name of a GPU; None to leave the block where it is.
    """
    if device is None:
        return block
    with tf.device(device):
        images, weights, sizes, rates = map(tf.identity, (block.images, block.weights, block.batch_sizes, block.rates))
        return BlockInput(images, tf.cast(block.labels, tf.int64), weights, sizes, rates, block.count)


class Pace:
    """How many steps a call makes: the same number on each worker, because all use the mean of their times of a step.

    A worker learns the others' times from the sum of a call's news, so these times are from the call before. The first
    calls make one step each: no worker has measured a step yet, and the first call also compiles.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._own_s = self._mean_s = CALL_S

    def last(self, done: int, block: BlockInput) -> int:
        """The step of the block at which the next call ends, if `done` steps are made."""
        return min(done + max(1, int(CALL_S / self._mean_s)), int(block.count))

    def news(self, stop: bool) -> NDArray[np.float32]:
        """What this worker tells the others, to be summed, float32 [2]: its flag to stop, and its time of a step."""
        return np.array([stop, self._own_s], np.float32)

    def record(self, steps: int, began: float, news: tf.Tensor) -> int:
        """Record a call. Return how many workers were asked to stop.

        Args:
            steps: made in the call.
            began: when the call began, in seconds of time.perf_counter().
            news: the sum of the workers' news().
        """
        stops, seconds = np.asarray(news)
        self._own_s = (time.perf_counter() - began) / steps
        self._mean_s = float(seconds) / self._workers
        return int(stops)


def compile_steps(
    strategy: tf.distribute.Strategy,
    packing: Packing,
    rank: int,
    workers: int,
    sync_every: int,
    collectives: Collectives,
    device: str | None = None,
) -> RunSteps:
    """The function that makes some of the remaining steps of a block: at least one, and the same number on each worker.

    Its last argument says whether this worker was asked to stop.

    Args:
        strategy: connects the workers.
        packing: of the parameters.
        rank: of this worker.
        workers: number of workers.
        sync_every: 1 to sum the gradients at each step. Above 1, each worker makes the steps of a block alone and the
            parameters are averaged at its end; the caller ends blocks at the right steps.
        collectives: of the same workers.
        device: TensorFlow's name of the GPU on which the steps run and the vector and place()d blocks are; None for
            CPUs.
    """
    total = sum_of_vectors(rank, workers, on_cpu=device is None)
    # It changes the last bits of the result, so it is in model.py, whose SHA-256 all workers and starts of a run share.
    jit_compile = getattr(model, "jit_compile", True)
    if workers == 1 or sync_every > 1:
        run_steps = local_sgd(strategy, packing, workers, total, collectives.sum, jit_compile=jit_compile)
    else:
        run_steps = synchronous(strategy, packing, workers, total, jit_compile=jit_compile)
    return on_device(run_steps, device)


def on_device(run_steps: RunSteps, device: str | None) -> RunSteps:
    """The function with its operators on a device; None to let TensorFlow choose."""

    def run(state: BlockState, block: BlockInput, stop: bool) -> BlockState:
        with tf.device(device):
            return run_steps(state, block, stop)

    return run


def traced_once(function: tf.types.experimental.PolymorphicFunction) -> Callable[..., Any]:
    """A tf.function whose arguments always have the shapes and types of its first call.

    TensorFlow then need not look for a trace that fits, which took up to 0.4 ms a call.
    """
    trace: Callable[..., Any] | None = None

    def call(*args: Any) -> Any:
        nonlocal trace
        trace = trace or function.get_concrete_function(*args)
        return trace(*args)

    return call


def synchronous(
    strategy: tf.distribute.Strategy, packing: Packing, workers: int, total: Sum, *, jit_compile: bool = True
) -> RunSteps:
    """Steps with one all-reduce each, which sums the gradient, the loss and the workers' news (see Pace)."""

    @tf.function(jit_compile=jit_compile, autograph=False)
    def update(
        vector: tf.Tensor, loss: tf.Tensor, summed: tf.Tensor, rates: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Apply the sum of step k - 1, which is zeros before a call's first step.

        It is compiled for the last step of a call too, so that all steps round in the same way.
        """
        return vector - tf.gather(rates, tf.maximum(k - 1, 0)) * summed[:-3], loss + summed[-3]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def update_and_gradient(
        vector: tf.Tensor,
        loss: tf.Tensor,
        summed: tf.Tensor,
        rates: tf.Tensor,
        k: tf.Tensor,
        block: BlockInput,
        news: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        """Apply the sum of the previous step and compute the gradient of step k, in one launch instead of two."""
        vector, loss = update(vector, loss, summed, rates, k)
        own_loss, gradient = packed_gradient(packing, vector, block, k)
        return vector, loss, tf.concat([gradient, [own_loss], news], axis=0)

    def step(*args: Any) -> tuple[tf.Tensor, ...]:
        vector, loss, own = update_and_gradient(*args)
        return vector, loss, total(own)

    @traced_once
    @tf.function(autograph=False)
    def make_steps(
        vector: tf.Tensor, loss: tf.Tensor, k: tf.Tensor, last: tf.Tensor, block: BlockInput, news: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        rates = block.rates / block.batch_sizes
        # TensorFlow creates int32 numbers on the CPU. Without these identities, the loop of a GPU's steps would run on
        # both, and send the numbers to the GPU at each step.
        k, last, count = map(tf.identity, (k, last, block.count))
        block = block._replace(count=count)

        # Each operator of the loop costs microseconds, so as much as possible is in compiled functions. The condition
        # does not wait for the sum of the step.
        def next_step(k: tf.Tensor, vector: tf.Tensor, loss: tf.Tensor, summed: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return k + 1, *strategy.run(step, args=(vector, loss, summed, rates, k, block, news))

        # The loop is outside strategy.run, which refuses a collective in control flow inside it.
        start = (k, vector, loss, tf.zeros([vector.shape[0] + 3]))
        # Two iterations, because each holds the buffers of its receives. The next one's are posted in time.
        k, vector, loss, summed = tf.while_loop(lambda k, *_: k < last, next_step, start, parallel_iterations=2)
        return *update(vector, loss, summed, rates, k), summed[-2:]

    pace = Pace(workers)

    def run_steps(state: BlockState, block: BlockInput, stop: bool) -> BlockState:
        began = time.perf_counter()
        last = pace.last(state.done, block)
        tensors = state.vector, state.loss, np.int32(state.done), np.int32(last), block
        vector, loss, news = make_steps(*tensors, pace.news(stop))
        return BlockState(vector, loss, last, pace.record(last - state.done, began, news))

    return run_steps


def local_sgd(
    strategy: tf.distribute.Strategy,
    packing: Packing,
    workers: int,
    total: Sum,
    exchange: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    jit_compile: bool = True,
) -> RunSteps:
    """Steps that each worker makes alone, then one all-reduce that averages the parameters (Stich 2019).

    Each worker's parameters are weighted by the number of examples that it has trained on in the block. A single worker
    trains in this way too.

    If a block takes longer than a call, the call ends within the block. The workers then exchange only the flag to stop
    and the time of a step. If one was asked to stop, the call returns the state after the last average, and the steps
    since then are lost: an additional average would change the result.

    Args:
        strategy: connects the workers.
        packing: of the parameters.
        workers: number of workers.
        total: sums vectors within strategy.run.
        exchange: the sum of the workers' arrays, float32 [2], outside of it.
        jit_compile: whether XLA compiles the steps.
    """

    @traced_once
    @tf.function(jit_compile=jit_compile, autograph=False)
    def own_steps(
        vector: tf.Tensor, loss: tf.Tensor, k: tf.Tensor, last: tf.Tensor, block: BlockInput
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def step(k: tf.Tensor, vector: tf.Tensor, loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # Each worker divides by the number of its own examples, which may be none.
            size = tf.maximum(tf.reduce_sum(tf.gather(block.weights, k)), 1)
            summed, gradient = packed_gradient(packing, vector, block, k)
            return k + 1, vector - tf.gather(block.rates, k) / size * gradient, loss + summed

        k, last = tf.identity(k), tf.identity(last)  # as in synchronous()
        # No tf.range: XLA takes its end for a constant and would compile the block again for every count.
        _, vector, loss = tf.while_loop(lambda k, *_: k < last, step, [k, vector, loss])
        return vector, loss

    @traced_once
    @tf.function(autograph=False)
    def average(*args: Any) -> tuple[tf.Tensor, ...]:
        summed = strategy.run(steps_and_sum, args=args)
        return summed[:-3], summed[-3], summed[-2:]

    def steps_and_sum(
        vector: tf.Tensor, loss: tf.Tensor, k: tf.Tensor, last: tf.Tensor, block: BlockInput, news: tf.Tensor
    ) -> tf.Tensor:
        vector, loss = own_steps(vector, loss, k, last, block)
        # The divisor: the number of workers if all had the same number of examples, infinity if this worker had none.
        share = tf.reduce_sum(block.batch_sizes[: block.count]) / tf.reduce_sum(block.weights)
        return total(tf.concat([vector / share, [loss], news], axis=0))

    pace, start = Pace(workers), BlockState(tf.zeros([0]))

    def run_steps(state: BlockState, block: BlockInput, stop: bool) -> BlockState:
        nonlocal start
        if not state.done:
            start = state
        began = time.perf_counter()
        last = pace.last(state.done, block)
        tensors = state.vector, state.loss, np.int32(state.done), np.int32(last), block
        news = pace.news(stop)
        if workers > 1 and last == block.count:
            vector, loss, news = average(*tensors, news)
        else:
            vector, loss = own_steps(*tensors)
            news = exchange(news) if workers > 1 else news
        stops = pace.record(last - state.done, began, news)
        if stops and last < block.count and workers > 1:
            return start._replace(stops=stops)
        return BlockState(vector, loss, last, stops)

    return run_steps


def packed_gradient(
    packing: Packing, vector: tf.Tensor, block: BlockInput, k: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss and the packed gradient of step k of a block, summed over this worker's examples."""
    # tf.gather, because XLA would compile a slice again for every k.
    images, labels, weights = (tf.gather(tensor, k) for tensor in (block.images, block.labels, block.weights))
    loss, gradient = model.loss_and_gradient(packing.unpack(vector), images, tf.cast(labels, tf.int32), weights)
    return loss, packing.pack(gradient)
