"""The formulas of the report, each with its source."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # the normal distribution's 97.5% quantile
CALIBRATION_BINS = 15

Probabilities = NDArray[np.float32]
Labels = NDArray[np.integer[Any]]
Counts = NDArray[np.int64]


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share, without continuity correction.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209-212.
    """
    share, z2 = correct / total, Z_95**2
    centre = share + z2 / (2 * total)
    half = Z_95 * (share * (1 - share) / total + z2 / (4 * total**2)) ** 0.5
    return max(0.0, (centre - half) / (1 + z2 / total)), min(1.0, (centre + half) / (1 + z2 / total))


def cross_entropy(labels: Labels, probabilities: Probabilities) -> float:
    """The mean over examples of -ln(probability of the true class), in nats.

    A probability below float32's smallest normal number, 1.2e-38, counts as that number, so the loss is finite.
    """
    true = probabilities[np.arange(labels.size), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())


def confusion(labels: Labels, predicted: Labels, classes: int) -> Counts:
    """Counts [classes, classes]: row the true class, column the predicted one."""
    flat = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes**2)
    return flat.reshape(classes, classes).astype(np.int64)


def per_class(counts: Counts) -> list[dict[str, float | int]]:
    """Precision, recall, F1 and support (examples that truly are of the class) of each class.

    precision = tp / predicted, recall = tp / support, F1 = 2 tp / (predicted + support), their harmonic mean
    (C. J. van Rijsbergen, "Information Retrieval", 1979, ch. 7). 0/0 is 0, as in scikit-learn's zero_division=0: a
    class never predicted has precision 0, a class without examples recall 0.
    """

    def ratio(part: int, whole: int) -> float:
        return part / whole if whole else 0.0

    rows = zip(counts.diagonal().tolist(), counts.sum(axis=0).tolist(), counts.sum(axis=1).tolist(), strict=True)
    return [
        {
            "precision": ratio(hit, predicted),
            "recall": ratio(hit, support),
            "f1": ratio(2 * hit, predicted + support),
            "support": support,
        }
        for hit, predicted, support in rows
    ]


def calibration_error(labels: Labels, probabilities: Probabilities) -> float:
    """Expected calibration error: the mean distance, over examples, between confidence and accuracy.

    Confidence is the predicted class's probability; examples fall into CALIBRATION_BINS bins of equal width,
    ((m-1)/M, m/M]; the distance is that of a bin's mean confidence from its share of right answers. Equation 3 of
    C. Guo et al., "On calibration of modern neural networks", ICML 2017, with its M = 15.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    distance = np.bincount(bins, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(distance).sum() / labels.size)
