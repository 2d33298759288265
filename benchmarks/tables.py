"""Measurements and bars as Markdown tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.bars import Comparison, Samples
    from benchmarks.cases import Case

MET = {True: "yes", False: "NO", None: ""}


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown after an empty line: the first column aligned left, the others right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(["", *(f"| {' | '.join(line)} |" for line in lines)])


def programs_table(samples: Samples) -> str:
    """The medians of each case over the rounds, for training steps only."""
    rows = []
    for case, results in samples.items():
        row = [case.name, f"{case.processes} x {case.threads}", f"{case.batch_size:,}"]
        if results:
            steps = [result.us_per_step for result in results]
            accuracies = [result.accuracy for result in results if result.accuracy is not None]
            row += [
                f"{median(steps):,.1f}",
                f"{min(steps):,.0f}-{max(steps):,.0f}",
                f"{median(result.examples_per_s for result in results):,.0f}",
                f"{median(accuracies):.4f}" if accuracies else "",
                f"{median(result.peak_rss_mb for result in results):,.0f}",
                f"{median(result.whole_s for result in results):.1f}",
            ]
        else:
            row += ["failed", *[""] * 5]
        rows.append(row)
    headings = ["program", "processes x threads", "batch", "us a step", "least-most"]
    return markdown([*headings, "examples/s", "accuracy", "MB", "whole, s"], rows)


def bars_table(comparisons: Sequence[Comparison]) -> str:
    """Each bar with both medians, their ratio and whether it is met."""
    rows = []
    for each in comparisons:
        bar = each.bar
        unit = "s" if bar.field == "whole_s" else "us"
        medians = ["" if value is None else f"{value:,.1f} {unit}" for value in (each.ours, each.theirs)]
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        rows.append([bar.text, *medians, ratio, f"{'<=' if bar.at_most else '>='} {bar.bound:g}", MET[each.met]])
    return markdown(["bar", "this job", "alternative", "ratio", "bound", "met"], rows)


def document(
    samples: Samples, failures: Mapping[Case, str], comparisons: Sequence[Comparison], context: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything as JSON: context (machine and settings), each bar, and each case with the results of all rounds."""
    return {
        **context,
        "bars": [
            {**asdict(c.bar), "ours_median": c.ours, "theirs_median": c.theirs, "ratio": c.ratio, "met": c.met}
            for c in comparisons
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
