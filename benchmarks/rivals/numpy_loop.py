"""NumPy: the gradient written out in float32, into arrays that are allocated once.

W is [784, 10], like in the formula, or [10, 784] with classes first. That is less obvious but faster, because both
products then run along the long axis.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from benchmarks.rivals import common


def main() -> None:
    """Train, and print the result. The caller limits BLAS by OPENBLAS_NUM_THREADS."""
    args = common.arguments(__doc__, classes_first=0)
    train, test = common.load(args.data)
    size, count = args.batch_size, len(train.labels)
    steps = count // size
    # The shapes are always [784, 10] and [batch, 10]; classes first is Fortran's order in memory.
    order: Literal["F", "C"] = "F" if args.classes_first else "C"
    weights, bias = np.zeros((common.PIXELS, common.CLASSES), np.float32, order), np.zeros(common.CLASSES, np.float32)
    rows, x = np.empty((size, common.PIXELS), np.uint8), np.empty((size, common.PIXELS), np.float32)
    p, gradient = np.empty((size, common.CLASSES), np.float32, order), np.empty_like(weights)
    row, scale, rate = np.arange(size), np.float32(1 / 255), np.float32(args.learning_rate / size)
    generator = np.random.default_rng(0)

    def run_epoch() -> None:
        epoch = generator.permutation(count)
        for start in range(0, steps * size, size):
            batch = epoch[start : start + size]
            np.take(train.images, batch, axis=0, out=rows, mode="clip")  # the default mode would copy `rows` first
            np.multiply(rows, scale, out=x)
            np.matmul(x, weights, out=p)
            np.add(p, bias, out=p)
            np.subtract(p, p.max(axis=1, keepdims=True), out=p)
            np.exp(p, out=p)
            np.divide(p, p.sum(axis=1, keepdims=True), out=p)
            p[row, train.labels[batch]] -= 1
            np.multiply(p, rate, out=p)
            np.matmul(x.T, p, out=gradient)
            np.subtract(weights, gradient, out=weights)
            np.subtract(bias, p.sum(axis=0), out=bias)

    us_per_step = common.time_epochs(args.epochs, steps, run_epoch)
    common.finish(us_per_step, size, common.accuracy(weights, bias, test))


if __name__ == "__main__":
    main()
