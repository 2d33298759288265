"""The model: softmax regression on 28x28 images. To train another model, give another file with --model.

Keep the four public functions, their arguments and their results. TensorFlow traces them into graphs with AutoGraph
switched off: use TensorFlow's operations, and no Python `if` or `for` that depends on the value of a tensor. Parameters
are a dict of float32 arrays of any shapes, with names that you choose. examples/ has a model with a hidden layer.

Softmax regression is also called multinomial logistic regression: Bishop, Pattern Recognition and Machine Learning,
section 4.3.4.
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
    """The parameters before the first step, float32: W [784, 10] and b [10].

    The same seed must give the same parameters. Here they are zeros for every seed, because the loss is convex.
    """
    del seed
    return {"W": np.zeros([PIXELS, CLASSES], np.float32), "b": np.zeros([CLASSES], np.float32)}


def loss_and_gradient(
    params: Mapping[str, tf.Tensor], images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The loss and its gradient by each parameter, as weighted sums over the examples.

    They must be sums and not means: the workers add up their results and divide by the size of the global batch.

    Args:
        params: the parameters by name, float32, with the names and shapes of init().
        images: uint8 [n, 28, 28].
        labels: int32 [n], 0 to 9.
        weights: float32 [n], by which each example's loss is multiplied; 0 for padding.

    Returns:
        The cross-entropy in nats, float32 [], and a dict with the names and shapes of `params`.
    """
    pixels = _pixels(images)
    log_probabilities = tf.math.log_softmax(pixels @ params["W"] + params["b"])
    targets = tf.one_hot(labels, CLASSES)
    loss = -tf.reduce_sum(log_probabilities * targets * weights[:, None])
    # d(loss)/d(logits) of softmax and cross-entropy together is the probability minus the target.
    error = (tf.exp(log_probabilities) - targets) * weights[:, None]
    return loss, {"W": tf.matmul(pixels, error, transpose_a=True), "b": tf.reduce_sum(error, axis=0)}


def predict(params: Mapping[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """The probability of each class, float32 [n, 10], for images uint8 [n, 28, 28]."""
    return tf.math.softmax(_pixels(images) @ params["W"] + params["b"])


def layers(
    params: Mapping[str, NDArray[np.float32]],
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], str]] | None:
    """The dense layers of the model in order, which the report's page needs to classify what a reader draws.

    Returns:
        (weights [inputs, outputs], bias [outputs], activation) of each layer, whose activation is 'relu', 'tanh',
        'sigmoid' or 'linear'. The last layer is 'linear' and gives the logits; the page applies the softmax. None if
        the model has other layers: the report then has no canvas.
    """
    return [(params["W"], params["b"], "linear")]


def _pixels(images: tf.Tensor) -> tf.Tensor:
    """Grey levels from 0 to 1, float32 [n, 784], for images uint8 [n, 28, 28]."""
    return tf.cast(tf.reshape(images, [-1, PIXELS]), tf.float32) * (1 / 255)
