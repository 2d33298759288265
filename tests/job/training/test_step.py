"""Tests of a block of steps against the same arithmetic in plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tensorflow as tf

from job import model
from job.training import step
from job.training.packing import Packing
from job.training.step import BlockInput, BlockResult
from tests.job import plain_sgd

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

STEPS, PART = 5, 6
SIZES = np.array([6, 6, 6, 6, 4], np.float32)
RATES = np.array([0.3, 0.2, 0.1, 0.05, 0.02], np.float32)
PACKING = Packing.of(model.init(0))


def alone() -> step.RunBlock:
    """The function that a single worker trains with."""
    return step.compile_block(tf.distribute.get_strategy(), PACKING, 1, 1, gather_short=True)


def synchronous() -> step.RunBlock:
    """The function that several workers train with, here for one worker."""
    return step.synchronous(tf.distribute.get_strategy(), PACKING, lambda vector: vector)


@pytest.fixture(scope="module", params=[alone, synchronous])
def run_block(request: pytest.FixtureRequest) -> step.RunBlock:
    """Both functions, compiled once."""
    compiled: step.RunBlock = request.param()
    return compiled


def block(count: int = STEPS, stop: float = 0, sizes: NDArray[np.float32] = SIZES) -> BlockInput:
    """Random images; the last two of the last step are padding."""
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (STEPS, PART, 28, 28), np.uint8)
    labels = random.integers(0, 10, (STEPS, PART)).astype(np.int32)
    weights = np.ones([STEPS, PART], np.float32)
    weights[-1, 4:] = 0
    return BlockInput(images, labels, weights, sizes, RATES, np.int32(count), np.float32(stop))


def start() -> NDArray[np.float32]:
    """Packed parameters to start from, not zeros."""
    vector = np.random.default_rng(4).normal(0, 0.1, 7850)
    return vector.astype(np.float32)


def expected(inputs: BlockInput, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Weights, bias and the sum of losses after `count` steps of gradient descent."""
    params = PACKING.unpack(tf.constant(start()))
    weights, bias, total = params["W"].numpy().astype(float), params["b"].numpy().astype(float), 0.0
    for k in range(count):
        used = inputs.weights[k] == 1
        loss, by_weights, by_bias = plain_sgd.gradient(weights, bias, inputs.images[k][used], inputs.labels[k][used])
        weights = weights - float(inputs.rates[k]) * by_weights / used.sum()
        bias = bias - float(inputs.rates[k]) * by_bias / used.sum()
        total += float(loss)
    return weights, bias, total


def assert_expected(result: BlockResult, inputs: BlockInput, count: int) -> None:
    """The result equals expected()."""
    weights, bias, loss = expected(inputs, count)
    params = PACKING.unpack(result.vector)
    np.testing.assert_allclose(params["W"], weights, atol=2e-6)
    np.testing.assert_allclose(params["b"], bias, atol=2e-6)
    assert float(result.loss) == pytest.approx(loss, rel=1e-5)


def test_block_is_gradient_descent(run_block: step.RunBlock) -> None:
    """Parameters and loss equal plain NumPy's on the same batches, with the same rates and sizes."""
    assert_expected(run_block(tf.constant(start()), block()), block(), STEPS)


@pytest.mark.parametrize("count", [1, 3])
def test_steps_beyond_the_count_do_nothing(run_block: step.RunBlock, count: int) -> None:
    """A block that is not full gives the result of its first steps, although later batch sizes are 0."""
    inputs = block(count, sizes=np.where(np.arange(STEPS) < count, SIZES, 0).astype(np.float32))
    result = run_block(tf.constant(start()), inputs)
    assert_expected(result, inputs, count)
    # The other steps do not change a bit.
    other = inputs._replace(images=inputs.images.copy(), labels=inputs.labels.copy())
    other.images[count:], other.labels[count:] = 255, 1
    again = run_block(tf.constant(start()), other)
    np.testing.assert_array_equal(result.vector, again.vector)
    assert float(result.loss) == float(again.loss)


def test_padding_counts_for_nothing(run_block: step.RunBlock) -> None:
    """Examples of weight 0 do not change a bit of parameters or loss."""
    inputs = block()
    result = run_block(tf.constant(start()), inputs)
    inputs.images[-1, 4:], inputs.labels[-1, 4:] = 255, 1
    again = run_block(tf.constant(start()), inputs)
    np.testing.assert_array_equal(result.vector, again.vector)
    assert float(result.loss) == float(again.loss)


def test_blocks_continue_one_another(run_block: step.RunBlock) -> None:
    """Two blocks give the same as one block with the steps of both."""
    whole = run_block(tf.constant(start()), block())
    inputs = block()
    first = run_block(tf.constant(start()), inputs._replace(count=np.int32(2)))
    images, labels, weights, sizes, rates = (np.concatenate([array[2:], array[:2]]) for array in inputs[:5])
    second = run_block(first.vector, BlockInput(images, labels, weights, sizes, rates, np.int32(3), np.float32(0)))
    np.testing.assert_array_equal(second.vector, whole.vector)
    assert float(first.loss + second.loss) == pytest.approx(float(whole.loss), rel=1e-6)


@pytest.mark.parametrize("stop", [0, 1])
def test_flag_to_stop_comes_out(run_block: step.RunBlock, stop: int) -> None:
    """A worker that was asked to stop is counted, and still makes the block."""
    inputs = block(stop=stop)
    result = run_block(tf.constant(start()), inputs)
    assert float(result.stops) == stop
    assert_expected(result, inputs, STEPS)


@pytest.mark.parametrize(
    "make", [step.synchronous, lambda strategy, packing, total: step.local_sgd(strategy, packing, 2, total)]
)
def test_two_workers_with_the_same_examples_train_like_one(make: Callable[..., step.RunBlock]) -> None:
    """Twice the sum over twice the examples is the same mean; only the sum of losses doubles."""
    inputs = block(stop=1, sizes=2 * SIZES)
    result = make(tf.distribute.get_strategy(), PACKING, lambda vector: 2 * vector)(tf.constant(start()), inputs)
    assert float(result.stops) == 2
    assert_expected(result._replace(loss=result.loss / 2), inputs, STEPS)


def test_worker_with_nothing_but_padding_keeps_its_parameters() -> None:
    """In local SGD, a worker without examples in a step does not move and does not divide by zero."""
    inputs = block()._replace(weights=np.zeros([STEPS, PART], np.float32))
    result = alone()(tf.constant(start()), inputs)
    np.testing.assert_array_equal(result.vector, start())
    assert float(result.loss) == 0
