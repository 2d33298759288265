"""Tests of the vector into which parameters are packed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from job.errors import Exit, JobError
from job.training.packing import Packing


def test_packing_is_undone_by_unpacking() -> None:
    """Arrays of any rank keep their names, shapes and values, and packing them again gives the same vector."""
    shapes: dict[str, tuple[int, ...]] = {"b": (3,), "W": (2, 3), "a": (), "kernel": (2, 3, 4, 5)}
    random = np.random.default_rng(0)
    params = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    packing = Packing.of(params)
    vector = packing.pack({name: tf.constant(value) for name, value in params.items()})
    unpacked = packing.unpack(vector)
    assert list(unpacked) == sorted(shapes)
    for name, value in params.items():
        np.testing.assert_array_equal(unpacked[name], value)
        np.testing.assert_array_equal(packing.arrays(vector)[name], value, strict=True)
    np.testing.assert_array_equal(packing.pack(unpacked), vector)


@pytest.mark.parametrize("found", [{"W": (2, 3)}, {"W": (3, 2), "b": (2,)}, {}])
def test_a_gradient_that_does_not_fit_is_refused(found: dict[str, tuple[int, ...]]) -> None:
    """A transposed one would have the right size, and train another model."""
    packing = Packing.of({"W": np.zeros((3, 2), np.float32)})
    with pytest.raises(
        JobError, match=r"return a float32 gradient for each parameter, in its shape: W \(3, 2\)$"
    ) as refused:
        packing.pack({name: tf.zeros(shape) for name, shape in found.items()})
    assert refused.value.code == Exit.USAGE
    for gradient in (None, tf.zeros((3, 2), tf.float64)):  # of a parameter that the loss does not use, and of NumPy's
        with pytest.raises(JobError, match="the gradients of the model's loss_and_gradient"):
            packing.pack({"W": gradient})


def test_parameters_that_are_not_float32_are_refused() -> None:
    """NumPy's random numbers are float64."""
    with pytest.raises(JobError, match=re.escape("init() of the model gives W as float64; return float32")) as refused:
        Packing.of({"W": np.random.default_rng(0).normal(size=3)})  # type: ignore[dict-item]
    assert refused.value.code == Exit.USAGE


def test_packing_is_in_name_order_with_matrices_transposed() -> None:
    """The layout of the vector, on which workers must agree."""
    params = {"b": np.array([7, 8], np.float32), "W": np.array([[1, 2], [3, 4], [5, 6]], np.float32)}
    assert Packing.of(params).pack(params).numpy().tolist() == [1, 3, 5, 2, 4, 6, 7, 8]
