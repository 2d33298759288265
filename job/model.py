"""Softmax regression, and the only file that knows the architecture; overwrite it to train another model.

Its functions are traced without AutoGraph: write them in TensorFlow's operations, without Python's `if` and `for` on
tensors.

Multinomial logistic regression as in Bishop, Pattern Recognition and Machine Learning, 4.3.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PIXELS = 28 * 28
CLASSES = 10


def init(seed: int) -> dict[str, NDArray[np.float32]]:
    """The parameters before the first step: W [784, 10] and b [10], zeros whatever the seed, for the loss is convex."""
    del seed
    return {"W": np.zeros([PIXELS, CLASSES], np.float32), "b": np.zeros([CLASSES], np.float32)}


def loss_and_gradient(
    params: Mapping[str, tf.Tensor], images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The cross-entropy in nats and its gradient, both summed over the examples and not averaged.

    Args:
        params: W and b, as init() names them, float32.
        images: uint8 [n, 28, 28].
        labels: int32 [n], 0 to 9.
        weights: float32 [n]: what each example counts, 0 for padding.
    """
    pixels = _pixels(images)
    log_probabilities = tf.nn.log_softmax(pixels @ params["W"] + params["b"])
    targets = tf.one_hot(labels, CLASSES)
    loss = -tf.reduce_sum(log_probabilities * targets * weights[:, None])
    # d(loss)/d(logits) of softmax and cross-entropy together: the probability less the target.
    error = (tf.exp(log_probabilities) - targets) * weights[:, None]
    return loss, {"W": tf.matmul(pixels, error, transpose_a=True), "b": tf.reduce_sum(error, axis=0)}


def predict(params: Mapping[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Probabilities float32 [n, 10] of images uint8 [n, 28, 28]."""
    return tf.nn.softmax(_pixels(images) @ params["W"] + params["b"])


def layers(
    params: Mapping[str, NDArray[np.float32]],
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], str]] | None:
    """(weights [inputs, outputs], bias [outputs], activation) of each dense layer, for the report's page.

    The last layer's outputs are logits: its activation is 'linear' and the softmax after it is understood.
    None: the model is not made of dense layers.
    """
    return [(params["W"], params["b"], "linear")]


def _pixels(images: tf.Tensor) -> tf.Tensor:
    """Grey levels from 0 to 1, float32 [n, 784]."""
    return tf.cast(tf.reshape(images, [-1, PIXELS]), tf.float32) * (1 / 255)
