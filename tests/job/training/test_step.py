"""Tests of training steps against the same arithmetic in plain NumPy, and of where calls end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf

from job import model
from job.training import step
from job.training.collectives import Collectives
from job.training.packing import Packing
from job.training.step import BlockInput, BlockState
from tests.job import plain_sgd

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from job.training.step import RunSteps

STEPS, PART = 5, 6
SIZES = np.array([6, 6, 6, 6, 4], np.float32)
RATES = np.array([0.3, 0.2, 0.1, 0.05, 0.02], np.float32)
PACKING = Packing.of(model.init(0))


def alone() -> RunSteps:
    """The function that a single worker trains with."""
    strategy = tf.distribute.get_strategy()
    return step.compile_steps(strategy, PACKING, 0, 1, 1, Collectives(strategy))


def synchronous() -> RunSteps:
    """The function that several workers train with, here for one worker."""
    return step.synchronous(tf.distribute.get_strategy(), PACKING, 1, lambda vector: vector)


def without_xla() -> RunSteps:
    """The function that several workers train with if model.py says that XLA does not compile it."""
    strategy = tf.distribute.get_strategy()
    return step.synchronous(strategy, PACKING, 1, lambda vector: vector, jit_compile=False)


def alone_without_xla() -> RunSteps:
    """The same for a single worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "jit_compile", False, raising=False)
        return alone()


def averaging(workers: int = 2) -> RunSteps:
    """The function of local SGD, here for workers that all train on the same examples."""
    return step.local_sgd(
        tf.distribute.get_strategy(), PACKING, workers, lambda vector: workers * vector, lambda news: workers * news
    )


@pytest.fixture(scope="module", params=[alone, synchronous, without_xla, alone_without_xla])
def run_steps(request: pytest.FixtureRequest) -> RunSteps:
    """Each function, compiled once."""
    compiled: RunSteps = request.param()
    return compiled


def block(count: int = STEPS, sizes: NDArray[np.float32] = SIZES) -> BlockInput:
    """Random images; the last two of the last step are padding."""
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (STEPS, PART, 28, 28), np.uint8)
    labels = random.integers(0, 10, (STEPS, PART)).astype(np.int32)
    weights = np.ones([STEPS, PART], np.float32)
    weights[-1, 4:] = 0
    return BlockInput(images, labels, weights, sizes, RATES, np.int32(count))


def whole(run_steps: RunSteps, inputs: BlockInput) -> BlockState:
    """A whole block, in as many calls as it takes."""
    return calls(run_steps, inputs)[-1]


def calls(run_steps: RunSteps, inputs: BlockInput) -> list[BlockState]:
    """The state after each call of a whole block."""
    states = [BlockState(tf.constant(start()))]
    while states[-1].done < inputs.count:
        states.append(run_steps(states[-1], inputs, False))
        assert states[-1].done > states[-2].done
    return states[1:]


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


def assert_expected(result: BlockState, inputs: BlockInput, count: int) -> None:
    """The result equals expected()."""
    weights, bias, loss = expected(inputs, count)
    params = PACKING.unpack(result.vector)
    np.testing.assert_allclose(params["W"], weights, atol=2e-6)
    np.testing.assert_allclose(params["b"], bias, atol=2e-6)
    assert float(result.loss) == pytest.approx(loss, rel=1e-5)


def test_block_is_gradient_descent(run_steps: RunSteps) -> None:
    """Parameters and loss equal plain NumPy's on the same batches, with the same rates and sizes."""
    assert_expected(whole(run_steps, block()), block(), STEPS)


@pytest.mark.parametrize("count", [1, 3])
def test_steps_beyond_the_count_do_nothing(run_steps: RunSteps, count: int) -> None:
    """A block that is not full gives the result of its first steps, although later batch sizes are 0."""
    inputs = block(count, sizes=np.where(np.arange(STEPS) < count, SIZES, 0).astype(np.float32))
    result = whole(run_steps, inputs)
    assert_expected(result, inputs, count)
    # The other steps do not change a bit.
    other = inputs._replace(images=inputs.images.copy(), labels=inputs.labels.copy())
    other.images[count:], other.labels[count:] = 255, 1
    assert_same_bits(result, whole(run_steps, other))


def test_padding_counts_for_nothing(run_steps: RunSteps) -> None:
    """Examples of weight 0 do not change a bit of parameters or loss."""
    inputs = block()
    result = whole(run_steps, inputs)
    inputs.images[-1, 4:], inputs.labels[-1, 4:] = 255, 1
    assert_same_bits(result, whole(run_steps, inputs))


def assert_same_bits(one: BlockState, other: BlockState) -> None:
    """Two blocks ended with the same parameters and loss."""
    np.testing.assert_array_equal(one.vector, other.vector)
    assert float(one.loss) == float(other.loss)


def test_blocks_continue_one_another(run_steps: RunSteps) -> None:
    """Two blocks give the same as one block with the steps of both."""
    inputs = block()
    first = whole(run_steps, inputs._replace(count=np.int32(2)))
    images, labels, weights, sizes, rates = (np.concatenate([array[2:], array[:2]]) for array in inputs[:5])
    rest = BlockInput(images, labels, weights, sizes, rates, np.int32(3))
    second = BlockState(first.vector)
    while second.done < 3:
        second = run_steps(second, rest, False)
    result = whole(run_steps, block())
    np.testing.assert_array_equal(second.vector, result.vector)
    assert float(first.loss + second.loss) == pytest.approx(float(result.loss), rel=1e-6)


@pytest.mark.parametrize("make", [alone, synchronous, averaging])
def test_calls_may_end_after_any_step(make: Callable[[], RunSteps], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they end depends on the time that steps take. Parameters and loss are the same to the bit."""
    monkeypatch.setattr(step, "CALL_S", 1e-9)
    slow = calls(make(), block())
    assert [state.done for state in slow] == [1, 2, 3, 4, 5]
    monkeypatch.setattr(step, "CALL_S", 1e9)
    fast = calls(make(), block())
    assert len(fast) < STEPS
    assert_same_bits(slow[-1], fast[-1])


@pytest.mark.parametrize("make", [alone, synchronous, averaging])
def test_calls_of_any_length_are_traced_once(make: Callable[[], RunSteps], monkeypatch: pytest.MonkeyPatch) -> None:
    """For a large model, tracing and compiling would look like a stall."""
    compute = Mock(wraps=model.loss_and_gradient)
    monkeypatch.setattr(model, "loss_and_gradient", compute)
    monkeypatch.setattr(step, "CALL_S", 1e-9)
    run_steps = make()
    state = run_steps(BlockState(tf.constant(start())), block(), False)
    before = compute.call_count
    monkeypatch.setattr(step, "CALL_S", 1e9)
    while state.done < STEPS:
        state = run_steps(state, block(), False)
    whole(run_steps, block(3))
    assert compute.call_count == before


@pytest.mark.parametrize("make", [alone, synchronous])
def test_flag_to_stop_comes_out_with_the_call(make: Callable[[], RunSteps], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every worker knows it after the same step, within the time of a call."""
    monkeypatch.setattr(step, "CALL_S", 1e-9)
    state = make()(BlockState(tf.constant(start())), block(), True)
    assert (state.done, state.stops) == (1, 1)
    assert_expected(state, block(), 1)


@pytest.mark.parametrize("others_s", [0.001, 0.2])
def test_all_workers_make_the_same_number_of_steps(others_s: float) -> None:
    """Each uses the mean of all times of a step, whatever its own is."""
    pace = step.Pace(2)
    assert pace.last(2, block()) == 3, "nothing is measured yet"
    pace.record(1, time.perf_counter() - 60, np.array([0, others_s + step.CALL_S / 3], np.float32))
    mean_s = (others_s + step.CALL_S / 3) / 2
    assert pace.last(1, block()) == min(1 + int(step.CALL_S / mean_s), STEPS)


def test_stop_between_two_averages_gives_up_the_steps_since_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers' parameters differ there. At an average nothing is lost."""
    monkeypatch.setattr(step, "CALL_S", 1e-9)
    run_steps = averaging()
    state = BlockState(tf.constant(start()))
    for done in (1, 2):
        state = run_steps(state, block(), False)
        assert (state.done, state.stops) == (done, 0)
    state = run_steps(state, block(), True)
    assert (state.done, state.stops, float(state.loss)) == (0, 2, 0)
    np.testing.assert_array_equal(state.vector, start())
    state = run_steps(BlockState(tf.constant(start())), block(1), True)
    assert (state.done, state.stops) == (1, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: step.synchronous(tf.distribute.get_strategy(), PACKING, 2, lambda vector: 2 * vector),
        averaging,
    ],
)
def test_two_workers_with_the_same_examples_train_like_one(make: Callable[[], RunSteps]) -> None:
    """Twice the sum over twice the examples is the same mean; only the sum of losses doubles."""
    inputs = block(sizes=2 * SIZES)
    result = whole(make(), inputs)
    assert_expected(result._replace(loss=result.loss / 2), inputs, STEPS)


@pytest.mark.parametrize(("examples", "share"), [(STEPS * PART - 2, 0.25), (0, 0)])
def test_parameters_are_averaged_by_examples(examples: int, share: float) -> None:
    """A worker's weight is its share of the block's examples, which may be 0."""
    inputs = block(sizes=4 * SIZES)
    inputs = inputs if examples else inputs._replace(weights=np.zeros([STEPS, PART], np.float32))
    run_steps = step.local_sgd(tf.distribute.get_strategy(), PACKING, 2, lambda vector: vector, lambda news: news)
    own = whole(alone(), inputs)
    np.testing.assert_allclose(whole(run_steps, inputs).vector, share * np.asarray(own.vector), rtol=1e-6)


def test_worker_with_nothing_but_padding_keeps_its_parameters() -> None:
    """In local SGD, a worker without examples in a step does not move and does not divide by zero."""
    inputs = block()._replace(weights=np.zeros([STEPS, PART], np.float32))
    result = whole(alone(), inputs)
    np.testing.assert_array_equal(result.vector, start())
    assert float(result.loss) == 0
