"""The training of the job in plain NumPy and float64: the reference for its results."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from job.dataset.rows import Rows

Float: TypeAlias = NDArray[np.float64]


def zeros() -> tuple[Float, Float]:
    """The parameters of softmax regression before the first step."""
    return np.zeros([784, 10]), np.zeros([10])


def gradient(weights: Float, bias: Float, images: NDArray[np.uint8], labels: NDArray[np.int32]) -> tuple[Float, ...]:
    """Loss, gradient by weights and gradient by bias, each summed over the examples."""
    pixels = images.reshape(len(images), -1) / 255
    logits = pixels @ weights + bias
    logits -= logits.max(axis=1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    error = np.exp(log_probabilities) - np.eye(10)[labels]
    return -log_probabilities[np.arange(len(labels)), labels].sum(), pixels.T @ error, error.sum(axis=0)


def train(
    rows: Rows, *, epochs: int, batch: int, rate: float, seed: int, workers: int = 1, sync_every: int = 1
) -> dict[str, Float]:
    """Train on the cosine schedule.

    If sync_every is above 1, workers make that many steps alone and average, weighted by their numbers of examples.
    """
    steps_per_epoch = -(-rows.count // batch)
    part = -(-batch // workers)
    alone = workers if sync_every > 1 else 1
    replicas, examples = [zeros() for _ in range(alone)], np.zeros(alone)
    for epoch in range(epochs):
        order = np.random.RandomState([seed, epoch]).permutation(rows.count)
        for k in range(steps_per_epoch):
            done = epoch * steps_per_epoch + k
            now = rate * 0.5 * (1 + np.cos(np.pi * done / (steps_per_epoch * epochs)))
            chosen = order[k * batch : (k + 1) * batch]
            shares = [chosen[r * part : (r + 1) * part] for r in range(alone)] if alone > 1 else [chosen]
            for r, share in enumerate(shares):
                examples[r] += share.size
                if share.size:
                    weights, bias = replicas[r]
                    _, by_weights, by_bias = gradient(weights, bias, *rows.take(share))
                    replicas[r] = weights - now * by_weights / share.size, bias - now * by_bias / share.size
            if (k + 1) % sync_every == 0 or k + 1 == steps_per_epoch:
                mean = [np.average([replica[i] for replica in replicas], axis=0, weights=examples) for i in range(2)]
                replicas, examples = [(mean[0], mean[1]) for _ in range(alone)], np.zeros(alone)
    return {"W": replicas[0][0], "b": replicas[0][1]}
