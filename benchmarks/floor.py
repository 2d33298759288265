"""A lower bound: the two matrix products of a step alone, in float32, in one compiled TensorFlow function.

The products are [batch, 784] by [784, 10] and [784, batch] by [batch, 10] or, with classes first, [10, 784] by [784,
batch] and [10, batch] by [batch, 784], which takes XLA about half the time on a CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.rivals import common

# Few enough batches to stay in the processor's cache. In a training step the pixels are in the cache too when they are
# multiplied; a stream of float32 batches from main memory would measure the memory.
BATCHES = 8

# Small enough for finite weights (the largest eigenvalue of x'x is about 10,000), large enough to change them.
RATE = 1e-5


def main() -> None:
    """Time the products, compare their values with NumPy's, and print the result."""
    args = common.arguments(__doc__, classes_first=0)
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    train, _ = common.load(args.data)
    size, steps = args.batch_size, len(train.labels) // args.batch_size
    x = train.images[: BATCHES * size].reshape(BATCHES, size, common.PIXELS).astype(np.float32) / 255
    start = np.random.default_rng(0).normal(size=(common.PIXELS, common.CLASSES)).astype(np.float32)

    # Each step uses the weights of the step before, so the compiler cannot leave out a product, move it out of the loop
    # or share it between steps. Subtracting 7,840 numbers is the cheapest way to achieve this.
    @tf.function(jit_compile=True)
    def products(weights: Any, batches: Any) -> Any:
        for k in tf.range(steps):
            batch = batches[k % BATCHES]
            if args.classes_first:
                weights -= RATE * tf.matmul(tf.matmul(weights, batch, transpose_b=True), batch)
            else:
                weights -= RATE * tf.matmul(batch, tf.matmul(batch, weights), transpose_a=True)
        return weights

    batches = tf.constant(x)
    state = first = tf.constant(start.T if args.classes_first else start)

    def run_epoch() -> None:
        nonlocal state
        state = products(state, batches)
        state.numpy()

    us_per_step = common.time_epochs(args.epochs, steps, run_epoch)
    expected = start
    for k in range(steps):
        expected = expected - RATE * (x[k % BATCHES].T @ (x[k % BATCHES] @ expected))
    weights = products(first, batches).numpy()
    np.testing.assert_allclose(weights.T if args.classes_first else weights, expected, atol=1e-3)
    common.finish(us_per_step, size, None)


if __name__ == "__main__":
    main()
