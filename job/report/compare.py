"""`python -m job compare`: published runs side by side, as a table, as JSON or as a page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from job.config import flag_word
from job.error_table import errors_from
from job.errors import Exit, JobError
from job.report.comparison import as_json as comparison_json
from job.report.comparison import (
    compare_runs,
    comparison_notes,
    differing_settings,
    reference_role,
    worse_class_lines,
)
from job.report.published_run import read_published_runs
from job.system import files, process
from job.system.console import table_console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from job.report.comparison import Comparison
    from job.report.published_run import PublishedRun

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_LENGTH = 10  # blocks of a learning curve, at most


def run(output: Path, *, as_json: bool = False, html: Path | None = None) -> None:
    """Print the comparison of an output folder's published runs, as a table or as JSON (see Comparison).

    Args:
        output: the folder.
        as_json: print JSON.
        html: the file in which to write the page as well.

    Raises:
        JobError: 66 if there is no published run; 73 or 75 if the file system refuses to read, or if the page or
            standard output cannot be written; 65 if a run is damaged, after everything else is printed.
    """
    compared = compare_folder(output)
    if html:
        from job.report import compare_page  # noqa: PLC0415 - matplotlib takes 0.5 s

        page = compare_page.render_comparison(compared).encode()
        with errors_from("page", html):
            files.write(html, page)
    with process.standard_output():
        if as_json:
            print(json.dumps(comparison_json(compared), indent=2, ensure_ascii=False))
        else:
            print_comparison(compared)
    if compared.damaged:
        name, reason = next(iter(compared.damaged.items()))
        more = f" (and {len(compared.damaged) - 1} more)" if len(compared.damaged) > 1 else ""
        raise JobError(Exit.DATA_DAMAGED, "run-damaged", f"the published run {name} is damaged: {reason}{more}")


def compare_folder(output: Path) -> Comparison:
    """Read an output folder's published runs and compare them.

    Raises:
        JobError: 66 if there is no published run; 65 if all are damaged; 73 or 75 from the file system.
    """
    with errors_from("published runs", output):
        published = read_published_runs(output)
    if published.runs:
        return compare_runs(published)
    if published.damaged:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in published.damaged.items())
        raise JobError(Exit.DATA_DAMAGED, "run-damaged", f"no published run in {output} can be read ({reasons})")
    begun = f"; started but not published: {', '.join(published.unpublished)}" if published.unpublished else ""
    message = f"there is no published run in {output}{begun}"
    raise JobError(Exit.DATA_MISSING, "no-runs", message, "`python -m job train` publishes one")


def print_comparison(comparison: Comparison) -> None:
    """Print it."""
    console = table_console()
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
        table.add_column(flag_word(key), justify="right")
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
    """Which differences are statistically significant, in words."""
    if not comparison.differences:
        return []
    reference = comparison.reference.name
    beyond = "* is significant (McNemar's exact test, Holm, 5%)"
    lines = [f"Compared with {reference} ({reference_role(comparison)}), in percentage points; {beyond}:"]
    lines += [
        f"  {one.run} is {'better' if one.difference > 0 else 'worse'}: it alone classifies {one.only_run} examples "
        f"correctly, {reference} alone {one.only_reference} (p = {one.p_value:.2g})"
        for one in comparison.differences.values()
        if one.beyond_chance
    ]
    lines += [f"  {line}" for line in worse_class_lines(comparison)]
    within = [f"{one.run} (p = {one.p_value:.2g})" for one in comparison.differences.values() if not one.beyond_chance]
    return [*lines, f"  no significant difference: {', '.join(within)}"] if within else lines
