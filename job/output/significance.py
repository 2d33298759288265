"""Whether two models that were tested on the same examples differ by more than chance, over all or class by class."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SIGNIFICANCE = 0.05
# What read_predictions() raises. NumPy reads the header of an array with Python's tokenizer.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error)
NAMED = 5  # classes in a sentence


@dataclass(frozen=True)
class WorseClass:
    """A class of which a model classifies fewer test examples correctly than an earlier model did, beyond chance.

    recall and recall_before are the shares of its test examples that the two models classify correctly; p_value is
    McNemar's, with Holm's correction for the number of classes.
    """

    name: str
    recall: float
    recall_before: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.name} (recall {self.recall:.4f} after {self.recall_before:.4f}, p = {self.p_value:.2g})"


@dataclass(frozen=True)
class Predictions:
    """A model on the test set: labels and predicted, both whole numbers [n], in the order of the dataset."""

    labels: NDArray[Any]
    predicted: NDArray[Any]

    @property
    def correct(self) -> NDArray[Any]:
        """Whether the model classifies each example correctly, bool [n]."""
        correct: NDArray[Any] = self.labels == self.predicted
        return correct


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test.

    It is the probability that two equally good models split the examples that only one of them classifies correctly at
    least as unevenly as this. Q. McNemar, Psychometrika 12 (1947), 153-157; the exact binomial form, min(1, 2 P[X <=
    the smaller]) with X ~ Binomial(n, 1/2), in A. Agresti, "Categorical data analysis", 2nd ed. 2002, section 10.1.
    Summed in whole numbers: exact for any n.
    """
    discordant = only_first + only_second
    term = tail = 1
    for k in range(min(only_first, only_second)):
        term = term * (discordant - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << discordant))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple comparisons, in the order given.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979), 65-70.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def worse_classes(names: Sequence[str], new: Predictions, before: Predictions) -> list[WorseClass]:
    """The classes that are worse than before beyond chance, in the order of their labels.

    Args:
        names: of the classes, in the order of their labels.
        new: the model's predictions.
        before: those of the earlier model, on the same test examples.
    """
    if new.labels.shape != before.labels.shape:
        return []  # the predictions of one of the two are damaged: compare says which
    right, right_before = new.correct, before.correct
    members = [(name, new.labels == label) for label, name in enumerate(names)]
    counts = [
        (int((right & ~right_before & of_class).sum()), int((right_before & ~right & of_class).sum()))
        for _, of_class in members
    ]
    # A class with no difference has p = 1; like any other, it counts for the correction.
    p_values = holm([mcnemar(gained, lost) for gained, lost in counts])
    return [
        WorseClass(name, float(right[of_class].mean()), float(right_before[of_class].mean()), p_value)
        for (name, of_class), (gained, lost), p_value in zip(members, counts, p_values, strict=True)
        if lost > gained and p_value < SIGNIFICANCE
    ]


def shorten(classes: Sequence[object]) -> str:
    """Classes as part of a sentence, at most NAMED of them by name."""
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    return ", ".join(map(str, classes[:NAMED])) + more


def read_predictions(model: Path) -> Predictions:
    """The predictions of a published model.

    Args:
        model: models/<run>.

    Raises:
        OSError: from the file system.
        ValueError, KeyError, EOFError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error: the file is damaged.
    """
    import numpy as np  # noqa: PLC0415 - 0.1 s, and most starts compare nothing

    # Opened here: np.load leaves a file open if it is not in one of its formats.
    with (model / "predictions.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Predictions(arrays["labels"], arrays["predicted"])
