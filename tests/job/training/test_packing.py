"""Tests of the vector into which parameters are packed."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

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


def test_packing_is_in_name_order_with_matrices_transposed() -> None:
    """The layout of the vector, on which workers must agree."""
    params = {"b": np.array([7, 8], np.float32), "W": np.array([[1, 2], [3, 4], [5, 6]], np.float32)}
    assert Packing.of(params).pack(params).numpy().tolist() == [1, 3, 5, 2, 4, 6, 7, 8]
