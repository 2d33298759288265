"""Figures and their bars, as a Markdown table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.tables import MET, markdown

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Figure:
    """One value for each round, and a bar, which is an upper bound on their median, or on their maximum if `worst`.

    With `at_least`, the bar is a lower bound.
    """

    name: str
    unit: str
    values: list[float]
    bar: float | None = None
    worst: bool = False
    at_least: bool = False

    @property
    def value(self) -> float:
        """The value that the bar applies to."""
        return max(self.values) if self.worst else median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without a bar."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def table(figures: Sequence[Figure]) -> str:
    """The figures in Markdown."""
    rows = [
        [
            each.name,
            f"{median(each.values):.2f} {each.unit}",
            ", ".join(f"{value:.2f}" for value in each.values),
            "" if each.bar is None else f"{'≥' if each.at_least else '≤'} {each.bar:.2f} {each.unit}",
            MET[each.met],
        ]
        for each in figures
    ]
    return markdown(["measured", "median", "all", "bar", "met"], rows)


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures with their values and whether their bars are met."""
    return [{**asdict(each), "value": each.value, "met": each.met} for each in figures]
