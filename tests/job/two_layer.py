"""Another model.py: a hidden layer of rectified units, its gradient left to TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

HIDDEN = 32


def init(seed: int) -> dict[str, NDArray[np.float32]]:
    """Two layers' weights, drawn at He's scale, and zero biases."""
    random = np.random.default_rng(seed)

    def drawn(inputs: int, outputs: int) -> NDArray[np.float32]:
        return random.normal(0, (2 / inputs) ** 0.5, (inputs, outputs)).astype(np.float32)

    return {
        "hidden_weights": drawn(784, HIDDEN),
        "hidden_bias": np.zeros([HIDDEN], np.float32),
        "out_weights": drawn(HIDDEN, 10),
        "out_bias": np.zeros([10], np.float32),
    }


def loss_and_gradient(
    params: Mapping[str, tf.Tensor], images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The summed cross-entropy and its gradient."""
    with tf.GradientTape() as tape:
        tape.watch(params)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, _logits(params, images))
        loss = tf.reduce_sum(losses * weights)
    return loss, tape.gradient(loss, dict(params))


def predict(params: Mapping[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Probabilities float32 [n, 10]."""
    return tf.nn.softmax(_logits(params, images))


def layers(params: Mapping[str, NDArray[np.float32]]) -> list[tuple[NDArray[np.float32], NDArray[np.float32], str]]:
    """Both layers, for the report's page."""
    return [
        (params["hidden_weights"], params["hidden_bias"], "relu"),
        (params["out_weights"], params["out_bias"], "linear"),
    ]


def _logits(params: Mapping[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    pixels = tf.cast(tf.reshape(images, [-1, 784]), tf.float32) / 255
    hidden = tf.nn.relu(pixels @ params["hidden_weights"] + params["hidden_bias"])
    return hidden @ params["out_weights"] + params["out_bias"]
