"""A Comparison on the terminal: a table of the runs, and sentences about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from job.report.comparison import comparison_notes, differing_settings, reference_role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from job.report.comparison import Comparison
    from job.report.published_run import PublishedRun

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_LENGTH = 10  # blocks of a learning curve, at most


def print_comparison(comparison: Comparison) -> None:
    """Print it."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    settings, curves = differing_settings(comparison.runs), block_curves(comparison.runs)
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
    for run in comparison.runs:
        table.add_row(
            escape(run.name) + (" [bold green]<- latest[/]" if run.latest else ""),
            escape(run.started[:16].replace("T", " ")),
            f"{100 * run.accuracy:.2f}%",
            f"{100 * run.interval[0]:.2f} to {100 * run.interval[1]:.2f}%",
            _difference_cell(comparison, run),
            curves[run.name],
            escape(run.verdict),
            *(escape(str(run.settings.get(key, "-"))) for key in settings),
        )
    console.print(table)
    console.print()
    for line in (*_difference_lines(comparison), *comparison_notes(comparison)):
        console.print(line, soft_wrap=True, markup=False)


def block_curves(runs: Sequence[PublishedRun]) -> dict[str, str]:
    """Each run's test accuracy after its epochs as a few block characters, all on one scale."""
    measured = {run.name: [point["accuracy"] for point in run.curve if point["accuracy"] is not None] for run in runs}
    accuracies = [accuracy for curve in measured.values() for accuracy in curve]
    low, high = min(accuracies, default=0.0), max(accuracies, default=1.0)
    last, height = len(BLOCKS) - 1, (high - low) or 1.0

    def blocks(curve: list[float]) -> str:
        stride = max(1, -(-len(curve) // CURVE_LENGTH))
        return "".join(BLOCKS[round(last * (accuracy - low) / height)] for accuracy in curve[::-1][::stride][::-1])

    return {name: blocks(curve) for name, curve in measured.items()}


def _difference_cell(comparison: Comparison, run: PublishedRun) -> str:
    if run is comparison.reference:
        return "[dim]reference[/]"
    if run.name not in comparison.differences:
        return "[dim]other data[/]"
    difference = comparison.differences[run.name]
    return f"{'* ' if difference.beyond_chance else ''}{100 * difference.difference:+.2f}"


def _difference_lines(comparison: Comparison) -> list[str]:
    """Which differences are beyond chance, in words."""
    if not comparison.differences:
        return []
    reference = comparison.reference.name
    beyond = "* is beyond chance (McNemar's exact test, Holm, 5%)"
    lines = [f"Compared with {reference} ({reference_role(comparison)}), in percentage points; {beyond}:"]
    lines += [
        f"  {one.run} is {'better' if one.difference > 0 else 'worse'}: it alone classifies {one.only_run} examples "
        f"correctly, {reference} alone {one.only_reference} (p = {one.p_value:.2g})"
        for one in comparison.differences.values()
        if one.beyond_chance
    ]
    within = [f"{one.run} (p = {one.p_value:.2g})" for one in comparison.differences.values() if not one.beyond_chance]
    return [*lines, f"  no difference beyond chance: {', '.join(within)}"] if within else lines
