"""The bars of this job, and how its measurements compare with them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import cases

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.cases import Case
    from benchmarks.rivals.common import Result

    # One Result of each case for each round.
    Samples = Mapping[Case, Sequence[Result]]


@dataclass(frozen=True)
class Bar:
    """A required ratio between this job and alternatives.

    Attributes:
        text: a description for readers.
        ours: name of this job's case.
        theirs: names of the alternatives' cases; the fastest of them counts.
        bound: minimum of theirs / ours, or maximum of ours / theirs if at_most.
        at_most: whether the bound is an upper one.
        field: the field of Result that is compared, us_per_step or whole_s.
    """

    text: str
    ours: str
    theirs: tuple[str, ...]
    bound: float
    at_most: bool = False
    field: str = "us_per_step"


BARS = (
    Bar("one worker over a session call a batch", cases.JOB, (cases.SESSION,), 4),
    Bar("one worker over Keras fit with 100", cases.JOB, (cases.KERAS_100,), 3),
    Bar("one worker over NumPy", cases.JOB, (cases.NUMPY,), 1.1),
    Bar("one worker over NumPy, classes first", cases.JOB, (cases.NUMPY_CLASSES_FIRST,), 1.2),
    Bar("a step over its two matrix products alone", cases.JOB, (cases.FLOOR,), 1.3, at_most=True),
    Bar("a step over the two, classes first", cases.JOB, (cases.FLOOR_CLASSES_FIRST,), 1.3, at_most=True),
    Bar("two workers over tf_keras under MWMS with 1", cases.JOB_2, (cases.TF_KERAS,), 10),
    Bar("two workers over tf_keras under MWMS with 100", cases.JOB_2, (cases.TF_KERAS_100,), 4),
    Bar("two workers over PyTorch DDP", cases.JOB_2, (cases.TORCH_DDP,), 5),
    Bar("--sync-every 100 over every step", cases.JOB_2_AVERAGED, (cases.JOB_2,), 5),
    Bar("CNN: one worker over Keras fit", cases.CNN, (cases.CNN_KERAS, cases.CNN_KERAS_XLA), 1),
    Bar("CNN: two workers over one", cases.CNN_2, (cases.CNN,), 1.6),
    Bar("CNN: two workers over tf_keras under MWMS", cases.CNN_2, (cases.CNN_TF_KERAS,), 2),
    Bar(
        "whole `train` command over tf_keras's whole script",
        cases.JOB_COMMAND,
        (cases.TF_KERAS, cases.TF_KERAS_100),
        4,
        field="whole_s",
    ),
)


@dataclass(frozen=True)
class Comparison:
    """The measurements for a bar: both medians, in microseconds a step or seconds; None if a program did not run.

    rival is the name of the alternative that counts.
    """

    bar: Bar
    ours: float | None
    theirs: float | None
    rival: str

    @property
    def ratio(self) -> float | None:
        """Theirs / ours, or ours / theirs if the bound is an upper one."""
        if self.ours is None or self.theirs is None:
            return None
        return self.ours / self.theirs if self.bar.at_most else self.theirs / self.ours

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None if it was not measured."""
        if self.ratio is None:
            return None
        return self.ratio <= self.bar.bound if self.bar.at_most else self.ratio >= self.bar.bound


def compare(samples: Samples, bars: Sequence[Bar] = BARS) -> list[Comparison]:
    """The comparison for every bar, by medians over the rounds."""
    comparisons = []
    for bar in bars:
        _, ours = fastest(samples, (bar.ours,), bar.field)
        rival, theirs = fastest(samples, bar.theirs, bar.field)
        comparisons.append(Comparison(bar, ours, theirs, rival))
    return comparisons


def fastest(samples: Samples, names: Sequence[str], field: str) -> tuple[str, float | None]:
    """The fastest median of these programs, each with the number of threads that suits it best, and its name."""
    medians = [
        (median(getattr(result, field) for result in results), case.name)
        for case, results in samples.items()
        if case.name in names and results
    ]
    if not medians:
        return names[0], None
    value, name = min(medians)
    return name, value
