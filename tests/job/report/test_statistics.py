"""Tests of the formulas, against published values and sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from job.report import statistics as metrics


@pytest.mark.parametrize(
    ("correct", "total", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_interval_is_the_published_one(correct: int, total: int, interval: tuple[float, float]) -> None:
    """Table I, method 3, of R. G. Newcombe, Statist. Med. 17 (1998), 857-872."""
    assert metrics.wilson(correct, total) == pytest.approx(interval, abs=5e-5)


def test_per_class_figures_and_zero_over_zero() -> None:
    """A class that is never predicted has precision 0, one without examples recall 0, and none divides by zero."""
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 2, 0])
    counts = metrics.confusion(labels, predicted, 3)
    assert counts.tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert metrics.per_class(counts) == [
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3},
        {"precision": 0, "recall": 0, "f1": 0, "support": 1},
        {"precision": 0, "recall": 0, "f1": 0, "support": 0},
    ]


def test_calibration_error_is_the_weighted_distance_in_bins() -> None:
    """Two sure examples, one of them wrong, share a bin; one at exactly 0.6 belongs to the bin that ends there."""
    probabilities = np.array([[0.98, 0.02], [0.96, 0.04], [0.6, 0.4]], np.float32)
    # bin (14/15, 1]: |1 right of 2 - mean confidence 0.97| * 2; bin (8/15, 9/15]: |1 - 0.6| * 1
    expected = (abs(1 - 1.94) + abs(1 - 0.6)) / 3
    assert metrics.calibration_error(np.array([0, 1, 0]), probabilities) == pytest.approx(expected, abs=1e-6)


def test_loss_is_finite_where_the_true_class_has_probability_zero() -> None:
    """The mean of -ln p, with p no smaller than the smallest normal float32."""
    probabilities = np.array([[0.5, 0.5], [1, 0]], np.float32)
    expected = (np.log(2) - np.log(np.finfo(np.float32).tiny.astype(float))) / 2
    assert metrics.cross_entropy(np.array([0, 1]), probabilities) == pytest.approx(expected)
