"""A Comparison in words: a table of the runs, which differences are beyond chance, and what else there is to know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from job.report.compare import Comparison, Published

BLOCKS = "▁▂▃▄▅▆▇█"
LETTERS = 10  # of a learning curve, at most
# These say where and under what name a run was made, not what was trained.
NOT_COMPARED = ("name", "data", "output", "log_every", "evaluate_every", "promote", "min_accuracy")


def show(found: Comparison) -> None:
    """Print it."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    settings, courses = differing(found.runs), _courses(found.runs)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")
    table.add_column("started (UTC)")
    table.add_column("accuracy", justify="right")
    table.add_column("95% interval")
    table.add_column("difference", justify="right")
    table.add_column("by epoch")
    table.add_column("verdict")
    for key in settings:
        table.add_column(key, justify="right")
    for one in found.runs:
        table.add_row(
            escape(one.name) + (" [bold green]<- latest[/]" if one.latest else ""),
            escape(one.started[:16].replace("T", " ")),
            f"{100 * one.accuracy:.2f}%",
            f"{100 * one.interval[0]:.2f} to {100 * one.interval[1]:.2f}%",
            _points(found, one.name),
            courses[one.name],
            escape(one.verdict),
            *(escape(str(one.settings.get(key, "-"))) for key in settings),
        )
    console.print(table)
    console.print()
    for line in (*_differences_told(found), *notes(found)):
        console.print(line, soft_wrap=True, markup=False)


def _points(found: Comparison, name: str) -> str:
    if name == found.reference:
        return "[dim]reference[/]"
    if name not in found.differences:
        return "[dim]other data[/]"
    one = found.differences[name]
    return f"{'* ' if one.beyond_chance else ''}{100 * one.difference:+.2f}"


def _courses(runs: Sequence[Published]) -> dict[str, str]:
    """Each run's test accuracy after its epochs, all on one scale: a learning curve in a few letters."""
    measured = {
        one.name: [moment["accuracy"] for moment in one.curve if moment["accuracy"] is not None] for one in runs
    }
    everything = [accuracy for course in measured.values() for accuracy in course]
    low, high = min(everything, default=0.0), max(everything, default=1.0)
    last, height = len(BLOCKS) - 1, (high - low) or 1.0

    def letters(course: list[float]) -> str:
        stride = max(1, -(-len(course) // LETTERS))
        return "".join(BLOCKS[round(last * (accuracy - low) / height)] for accuracy in course[::-1][::stride][::-1])

    return {name: letters(course) for name, course in measured.items()}


def _differences_told(found: Comparison) -> list[str]:
    """Which differences are beyond chance, in words."""
    called = _called(found)
    beyond = [one for one in found.differences.values() if one.beyond_chance]
    within = [one for one in found.differences.values() if not one.beyond_chance]
    lines = []
    if found.differences:
        lines.append(f"Beside {called}, in percentage points; * is beyond chance (McNemar's exact test, Holm, 5%):")
    lines += [
        f"  {one.run} is {'better' if one.difference > 0 else 'worse'}: {one.only_run} examples only it gets right, "
        f"{one.only_reference} only {found.reference} (p = {one.p_value:.2g})"
        for one in beyond
    ]
    if within:
        told = ", ".join(f"{one.run} (p = {one.p_value:.2g})" for one in within)
        lines.append(f"  no difference beyond chance: {told}")
    return lines


def notes(found: Comparison) -> list[str]:
    """What else there is to know of the runs, in words."""
    called, newest = _called(found), found.runs[0]
    lines = [f"{name} is damaged, and left out: {message}" for name, message in found.damaged.items()]
    if newest.verdict in ("rejected", "kept"):
        lines.append(f"{newest.name}, the newest, was {newest.verdict}: {newest.reason}")
    if found.other_training:
        lines.append(f"Trained on other data than {called}: {', '.join(found.other_training)}")
    if found.not_comparable:
        lines.append(f"Tested on other data than {called}, so not comparable: {', '.join(found.not_comparable)}")
    if len(found.runs) == 1:
        lines.append(f"{called} is the only published run: there is nothing to compare it with.")
    if found.unpublished:
        lines.append(f"Begun and not published: {', '.join(found.unpublished)}")
    return lines


def _called(found: Comparison) -> str:
    return f"{found.reference} ({standing(found)})"


def standing(found: Comparison) -> str:
    """What makes the reference that: latest, or where there is none to compare with the most accurate."""
    if found.reference == found.latest:
        return "latest"
    why = f"latest leads to {found.latest}, which is damaged" if found.latest else "nothing is latest"
    return f"the most accurate; {why}"


def differing(runs: Sequence[Published]) -> list[str]:
    """The settings in which the runs are not all alike, in the order of the first that has them."""
    keys = dict.fromkeys(key for one in runs for key in one.settings if key not in NOT_COMPARED)
    return [key for key in keys if len({json.dumps(one.settings.get(key)) for one in runs}) > 1]
