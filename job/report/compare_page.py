"""A Comparison as one self-contained page: accuracy over time, the figures of each run, and learning curves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from job.config import flag_word
from job.report import plots, rendering
from job.report.comparison import comparison_notes, differing_settings, reference_role, worse_class_lines

if TYPE_CHECKING:
    from job.report.comparison import Comparison
    from job.report.published_run import PublishedRun

CURVES = 20  # of the newest runs; more could not be told apart


def render_comparison(comparison: Comparison) -> str:
    """The page. Names come from other people: they are escaped, and no script runs."""
    runs = comparison.runs
    return (
        rendering.html_templates()
        .get_template("compare.html")
        .render(
            reference=comparison.reference,
            role=reference_role(comparison),
            scale=rendering.interval_scale(*comparison.reference.interval),
            runs=runs,
            differences=comparison.differences,
            settings=differing_settings(runs),
            flag_word=flag_word,
            datasets=len({(run.train_sha256, run.test_sha256) for run in runs}) > 1,
            notes=[*worse_class_lines(comparison), *comparison_notes(comparison)],
            value=_setting,
            over_time=_plot_over_time(comparison),
            curves=_plot_curves(comparison),
            drawn=min(CURVES, len(runs)),
        )
    )


def _setting(run: PublishedRun, key: str) -> str:
    return json.dumps(run.settings[key]).strip('"') if key in run.settings else "-"


def _plot_over_time(comparison: Comparison) -> str:
    """The plot of accuracies by the time at which the runs began."""
    oldest_first = list(reversed(comparison.runs))
    points = [
        (run.started_at, run.accuracy, run.interval, "other" if run.name in comparison.not_comparable else run.verdict)
        for run in oldest_first
    ]
    latest = next((index for index, run in enumerate(oldest_first) if run.latest), None)
    return plots.accuracy_over_time(points, latest)


def _plot_curves(comparison: Comparison) -> list[dict[str, Any]]:
    """The plots of the newest runs' learning curves, those of the newest and the latest run on top."""
    newest = comparison.runs[0]
    shown = [run for run in comparison.runs if run.latest or run in comparison.runs[:CURVES]]
    bottom_first = sorted(shown, key=lambda run: (run.latest, run is newest))
    drawn = []
    for quantity, (title, _) in plots.QUANTITIES.items():
        curves = [
            ("latest" if run.latest else "newest" if run is newest else "", points)
            for run in bottom_first
            if (points := plots.curve_points(run.curve, quantity))
        ]
        if curves:
            drawn.append({"title": title, "svg": plots.curves_together(quantity, curves)})
    return drawn
