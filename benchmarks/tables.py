"""Measurements and bars as tables for a terminal, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.bars import Samples, Standing
    from benchmarks.cases import Case


def programs_table(samples: Samples) -> Table:
    """Each case's medians."""
    table = Table(title="Medians over the rounds, training steps only", title_justify="left")
    table.add_column("program")
    headings = ("processes x threads", "batch", "us a step", "least-most", "examples/s", "accuracy", "MB", "whole, s")
    for heading in headings:
        table.add_column(heading, justify="right")
    for case, results in samples.items():
        shape = (f"{case.processes} x {case.threads}", f"{case.batch_size:,}")
        if not results:
            table.add_row(case.name, *shape, "failed")
            continue
        steps = [result.us_per_step for result in results]
        learned = [result.accuracy for result in results if result.accuracy is not None]
        table.add_row(
            case.name,
            *shape,
            f"{median(steps):,.1f}",
            f"{min(steps):,.0f}-{max(steps):,.0f}",
            f"{median(result.examples_per_s for result in results):,.0f}",
            f"{median(learned):.4f}" if learned else "",
            f"{median(result.peak_rss_mb for result in results):,.0f}",
            f"{median(result.whole_s for result in results):.1f}",
        )
    return table


def bars_table(standings: Sequence[Standing]) -> Table:
    """Each bar, the two medians, their ratio, and whether it is met."""
    table = Table(title="Each program at the limit of threads that serves it best", title_justify="left")
    table.add_column("bar")
    for heading in ("this job", "the other", "ratio", "bar", "met"):
        table.add_column(heading, justify="right")
    for standing in standings:
        bar = standing.bar
        unit = "s" if bar.field == "whole_s" else "us"
        bound = f"{'<=' if bar.at_most else '>='} {bar.bound:g}"
        table.add_row(
            bar.text,
            "-" if standing.ours is None else f"{standing.ours:,.1f} {unit}",
            "-" if standing.theirs is None else f"{standing.theirs:,.1f} {unit}",
            "-" if standing.ratio is None else f"{standing.ratio:.2f}",
            bound,
            {True: "[green]yes[/]", False: "[red]NO[/]", None: "not measured"}[standing.met],
        )
    return table


def document(
    samples: Samples, failures: Mapping[Case, str], standings: Sequence[Standing], around: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything as JSON: `around` (machine and settings), each bar, and each case with every round's result."""
    return {
        **around,
        "bars": [
            {**asdict(s.bar), "ours_median": s.ours, "theirs_median": s.theirs, "ratio": s.ratio, "met": s.met}
            for s in standings
        ],
        "programs": [
            {
                "name": case.name,
                "processes": case.processes,
                "threads": case.threads,
                "batch_size": case.batch_size,
                "rounds": [asdict(result) for result in results],
                "failure": failures.get(case),
            }
            for case, results in samples.items()
        ],
    }
