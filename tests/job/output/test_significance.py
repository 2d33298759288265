"""Tests of the comparison of two models on the same test examples."""

from __future__ import annotations

import numpy as np
import pytest

from job.output.significance import Predictions, WorseClass, holm, mcnemar, worse_classes


def test_mcnemar_is_the_exact_binomial() -> None:
    """2 P[X <= 1] of Binomial(10, 1/2) is 22/1024; even splits are no evidence; large counts are summed exactly too."""
    assert mcnemar(1, 9) == mcnemar(9, 1) == 22 / 1024
    assert mcnemar(0, 0) == mcnemar(7, 7) == 1
    # The normal approximation with continuity correction, good to a percent here.
    assert mcnemar(4500, 4700) == pytest.approx(0.0381, rel=0.01)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    """Each p-value times the number of those not yet rejected, never below the one before, at most 1."""
    assert holm([0.04, 0.01, 0.03, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
    assert holm([]) == []


def test_classes_that_are_worse_beyond_chance() -> None:
    """Holm's correction counts every class: 6 lost examples of one class are beyond chance alone, and not among ten."""
    labels = np.repeat(np.arange(10), 20)
    before = Predictions(labels, labels)
    one = labels.copy()
    one[:6] = 9  # 2 / 2^6 = 0.031, times 10
    assert worse_classes([*"0123456789"], Predictions(labels, one), before) == []
    assert worse_classes(["0"], Predictions(labels[:20], one[:20]), Predictions(labels[:20], labels[:20])) == [
        WorseClass("0", 0.7, 1.0, 0.03125)
    ]
    one[6:12] = 9
    one[40:60] = 9  # the whole of class 2: 2 / 2^20, times 10; then class 0: 2 / 2^12, times 9
    found = worse_classes([*"0123456789"], Predictions(labels, one), before)
    assert found == [
        WorseClass("0", 0.4, 1.0, 9 * 2 / 2**12),
        WorseClass("2", 0.0, 1.0, 10 * 2 / 2**20),
    ]
    assert worse_classes([*"0123456789"], before, Predictions(labels, one)) == []


def test_classes_without_test_examples_and_other_lengths() -> None:
    """A class without examples is not worse; predictions of another number of examples are not compared."""
    labels = np.zeros(20, np.uint8)
    right, wrong = Predictions(labels, labels), Predictions(labels, labels + 1)
    assert worse_classes(["0", "1"], wrong, right) == [WorseClass("0", 0.0, 1.0, 4 / 2**20)]
    assert worse_classes(["0", "1"], wrong, Predictions(labels[:9], labels[:9])) == []
