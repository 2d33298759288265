"""Another model.py: softmax regression behind a hidden layer of rectified linear units.

It is made for Fashion-MNIST, whose images have the same shape as MNIST's but are too hard for a linear model.
TensorFlow computes the gradient. Give this file with --model to train it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PIXELS = 28 * 28
HIDDEN = 128
CLASSES = 10


def init(seed: int) -> dict[str, NDArray[np.float32]]:
    """The parameters before the first step, float32: weights [784, 128] and [128, 10], biases [128] and [10].

    The weights are random, because with zeros all hidden units would stay equal. Their scale is that of He et al.,
    Delving Deep into Rectifiers, 2015.
    """
    random = np.random.RandomState(seed)  # NumPy promises the same numbers for the same seed in all its versions

    def normal(inputs: int, outputs: int) -> NDArray[np.float32]:
        return random.normal(0, (2 / inputs) ** 0.5, (inputs, outputs)).astype(np.float32)

    return {
        "hidden_weights": normal(PIXELS, HIDDEN),
        "hidden_bias": np.zeros([HIDDEN], np.float32),
        "out_weights": normal(HIDDEN, CLASSES),
        "out_bias": np.zeros([CLASSES], np.float32),
    }


def loss_and_gradient(
    params: Mapping[str, tf.Tensor], images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The cross-entropy in nats and its gradient by each parameter, as weighted sums over the examples.

    Args:
        params: the parameters by name, float32.
        images: uint8 [n, 28, 28].
        labels: int32 [n], 0 to 9.
        weights: float32 [n], by which each example's loss is multiplied; 0 for padding.
    """
    with tf.GradientTape() as tape:
        tape.watch(params)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, _logits(params, images))
        loss = tf.reduce_sum(losses * weights)
    return loss, tape.gradient(loss, dict(params))


def predict(params: Mapping[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """The probability of each class, float32 [n, 10], for images uint8 [n, 28, 28]."""
    return tf.nn.softmax(_logits(params, images))


def layers(params: Mapping[str, NDArray[np.float32]]) -> list[tuple[NDArray[np.float32], NDArray[np.float32], str]]:
    """(weights [inputs, outputs], bias [outputs], activation) of both layers, for the canvas on the report's page."""
    return [
        (params["hidden_weights"], params["hidden_bias"], "relu"),
        (params["out_weights"], params["out_bias"], "linear"),
    ]


def _logits(params: Mapping[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    pixels = tf.cast(tf.reshape(images, [-1, PIXELS]), tf.float32) * (1 / 255)
    hidden = tf.nn.relu(pixels @ params["hidden_weights"] + params["hidden_bias"])
    return hidden @ params["out_weights"] + params["out_bias"]
