"""The functions of model.py for a model of Keras 3, which is called as a pure function of its parameters.

Only a model.py that uses this module imports Keras. Keras's own fit() does not train with several workers:
https://github.com/keras-team/keras/issues/20585
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import keras
import tensorflow as tf

from job.config import usage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from job.errors import JobError


class Functions(NamedTuple):
    """What model.py defines; job/model.py describes the four functions.

    Attributes:
        init: the initial parameters by name. It builds the model, so it must be called before the next two.
        loss_and_gradient: cross-entropy, and the penalties of the layers' regularisers for each example.
        predict: the probabilities.
        layers: None, so that the report has no canvas.
        jit_compile: whether XLA compiles the training steps.
    """

    init: Callable[[int], dict[str, NDArray[np.float32]]]
    loss_and_gradient: Callable[..., tuple[tf.Tensor, dict[str, tf.Tensor]]]
    predict: Callable[[Mapping[str, tf.Tensor], tf.Tensor], tf.Tensor]
    layers: Callable[[Mapping[str, NDArray[np.float32]]], None]
    jit_compile: bool


def model(build: Callable[[], keras.Model], *, jit_compile: bool = False) -> Functions:
    """The functions for the model that `build` makes.

    Parameters have the names of their layers, such as conv2d/kernel. The model gets grey levels from 0 to 1, float32,
    in the shape of its input, and returns the logits of the classes: it does not end in a softmax.

    Args:
        build: makes the model, with keras.Input or with another input shape. init() calls it and not model.py's import,
            because Keras creates TensorFlow's context, after which the number of threads cannot be set.
        jit_compile: whether XLA compiles the training steps. On CPUs, XLA makes convolutions several times as slow.
    """
    network: keras.Model = None

    def init(seed: int) -> dict[str, NDArray[np.float32]]:
        nonlocal network
        keras.utils.clear_session()  # it numbers the layers from the start again
        keras.utils.set_random_seed(seed)
        network = build()
        check(network)
        return {name(variable): variable.numpy() for variable in network.trainable_variables}

    def name(variable: keras.Variable) -> str:
        return str(variable.path.removeprefix(f"{network.name}/"))

    def call(
        params: Mapping[str, tf.Tensor], images: tf.Tensor, *, training: bool
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The logits, float32 [n, classes], and the penalties of the regularisers, float32 [] each."""
        values = [tf.convert_to_tensor(params[name(variable)]) for variable in network.trainable_variables]
        pixels = tf.cast(tf.reshape(images, [-1, *network.input_shape[1:]]), tf.float32) * (1 / 255)
        logits, _, penalties = network.stateless_call(values, [], pixels, training=training, return_losses=True)
        return tf.cast(logits, tf.float32), penalties

    def loss_and_gradient(
        params: Mapping[str, tf.Tensor], images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(params)
            logits, penalties = call(params, images, training=True)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits) * weights)
            # The job divides sums over examples by the number of examples.
            loss += sum(penalties) * tf.reduce_sum(weights)
        return loss, tape.gradient(loss, dict(params), unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def predict(params: Mapping[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(call(params, images, training=False)[0])

    return Functions(init, loss_and_gradient, predict, lambda _: None, jit_compile)


def check(network: keras.Model) -> None:
    """Refuse a model that this job cannot train.

    Raises:
        JobError: 64.
    """
    if keras.backend.backend() != "tensorflow":
        raise _refused(f"runs on {keras.backend.backend()}", "set KERAS_BACKEND=tensorflow")
    if not network.built or not hasattr(network, "input_shape"):
        raise _refused("has no input shape", "start the model with keras.Input([28, 28, 1])")
    if stateful := [layer.name for layer in network.layers if layer.non_trainable_variables]:
        what = f"has variables that no gradient changes, which this job does not keep, in {', '.join(stateful)}"
        raise _refused(what, "leave them out")
    last = network.layers[-1]
    if isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) is keras.activations.softmax:
        raise _refused("ends in a softmax, which this job adds itself", f"leave the softmax of {last.name} out")
    if twice := [path for path, count in Counter(v.path for v in network.trainable_variables).items() if count > 1]:
        raise _refused(f"has several variables named {', '.join(twice)}", "give each layer a name of its own")


def _refused(what: str, hint: str) -> JobError:
    return usage_error(f"the Keras model in model.py {what}", hint)
