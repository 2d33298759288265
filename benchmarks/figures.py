"""Figures with their bars, as a table in Markdown and as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Figure:
    """What was measured in each round, or each part of one; the bar is for the median, for the most if worst."""

    name: str
    unit: str
    values: list[float]
    bar: float | None = None
    worst: bool = False

    @property
    def value(self) -> float:
        """What the bar is for."""
        return max(self.values) if self.worst else median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        return None if self.bar is None else self.value <= self.bar


def table(figures: Sequence[Figure]) -> str:
    """The figures in Markdown."""
    lines = ["", "| measured | median | all | bar | met |", "|---|---:|---|---:|---|"]
    for each in figures:
        values = ", ".join(f"{value:.2f}" for value in each.values)
        bar = "" if each.bar is None else f"{each.bar:.2f} {each.unit}"
        met = {True: "yes", False: "NO", None: ""}[each.met]
        lines.append(f"| {each.name} | {median(each.values):.2f} {each.unit} | {values} | {bar} | {met} |")
    return "\n".join(lines)


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures as they are kept."""
    return [{**asdict(each), "value": each.value, "met": each.met} for each in figures]
