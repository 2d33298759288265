"""Tests of the model."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from job import model
from tests.job import plain_sgd


def examples(count: int = 7) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
    """Images, labels, weights (one is 0, one is a half) and random parameters."""
    random = np.random.default_rng(1)
    weights = np.ones(count, np.float32)
    weights[2], weights[4] = 0, 0.5
    params = {
        "W": tf.constant(random.normal(0, 0.1, (784, 10)).astype(np.float32)),
        "b": tf.constant(random.normal(0, 1, 10).astype(np.float32)),
    }
    images = tf.constant(random.integers(0, 256, (count, 28, 28), np.uint8))
    return images, tf.constant(random.integers(0, 10, count).astype(np.int32)), tf.constant(weights), params


def test_gradient_is_that_of_the_loss() -> None:
    """It equals TensorFlow's automatic gradient of TensorFlow's cross-entropy."""
    images, labels, weights, params = examples()
    with tf.GradientTape() as tape:
        tape.watch(params)
        logits = tf.cast(tf.reshape(images, [-1, 784]), tf.float32) / 255 @ params["W"] + params["b"]
        expected = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits) * weights)
    by_tape = tape.gradient(expected, params)
    loss, gradient = model.loss_and_gradient(params, images, labels, weights)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert gradient.keys() == params.keys()
    for name in params:
        np.testing.assert_allclose(gradient[name], by_tape[name], atol=1e-5)


def test_loss_and_gradient_are_sums() -> None:
    """Those of single examples add up to those of all examples, so the workers' parts do too."""
    images, labels, weights, params = examples()
    loss, gradient = model.loss_and_gradient(params, images, labels, weights)
    single = [
        model.loss_and_gradient(params, images[i : i + 1], labels[i : i + 1], weights[i : i + 1]) for i in range(7)
    ]
    np.testing.assert_allclose(sum(one for one, _ in single), loss, rtol=1e-5)
    np.testing.assert_allclose(sum(one["W"] for _, one in single), gradient["W"], atol=1e-5)


def test_training_begins_at_zeros() -> None:
    """Parameters are float32 zeros for any seed, and all classes are equally probable."""
    for seed in (0, 7):
        params = model.init(seed)
        assert {name: (value.shape, value.dtype.name) for name, value in params.items()} == {
            "W": ((784, 10), "float32"),
            "b": ((10,), "float32"),
        }
        assert not any(value.any() for value in params.values())
    np.testing.assert_allclose(model.predict(model.init(0), examples()[0]), np.full([7, 10], 0.1), rtol=1e-6)


def test_prediction_is_the_softmax_of_the_layer() -> None:
    """The loss of an image is -ln of its class's probability, and layers() describes the same computation."""
    images, labels, _, params = examples()
    probabilities = model.predict(params, images).numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    ((weights, bias, activation),) = model.layers({name: value.numpy() for name, value in params.items()}) or []
    assert activation == "linear"
    total, _, _ = plain_sgd.gradient(weights.astype(float), bias.astype(float), images.numpy(), labels.numpy())
    np.testing.assert_allclose(-np.log(probabilities[np.arange(7), labels]).sum(), total, rtol=1e-5)
