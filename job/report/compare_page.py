"""A Comparison -> one page that needs nothing else: accuracy over time, every run's figures, and learning curves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from job.report import compare_text, page, plots

if TYPE_CHECKING:
    from job.report.compare import Comparison, Published

CURVES = 20  # of the newest runs; of more, none could be told from the others


def render(found: Comparison) -> str:
    """The page. Names are other people's words: they are escaped, and no script runs."""
    reference = next(one for one in found.runs if one.name == found.reference)
    settings = compare_text.differing(found.runs)
    datasets = len({(one.train_sha256, one.test_sha256) for one in found.runs}) > 1
    return (
        page.environment()
        .get_template("compare.html")
        .render(
            reference=reference,
            standing=compare_text.standing(found),
            scale=page.scale(*reference.interval),
            runs=found.runs,
            differences=found.differences,
            settings=settings,
            datasets=datasets,
            notes=compare_text.notes(found),
            value=lambda one, key: json.dumps(one.settings[key]).strip('"') if key in one.settings else "-",
            over_time=_over_time(found),
            curves=_curves(found),
            drawn=min(CURVES, len(found.runs)),
        )
    )


def _over_time(found: Comparison) -> str:
    """The plot of accuracies by the time at which the runs began."""
    runs = list(reversed(found.runs))
    other = set(found.not_comparable)
    told = [(_began(one), one.accuracy, one.interval, "other" if one.name in other else one.verdict) for one in runs]
    return plots.over_time(told, next((place for place, one in enumerate(runs) if one.latest), None))


def _began(one: Published) -> datetime:
    at = datetime.fromisoformat(one.started)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _curves(found: Comparison) -> list[dict[str, Any]]:
    """The plots of the newest runs' learning curves, the latest's and the newest's on top."""
    newest = found.runs[0]
    shown = [one for one in found.runs if one.latest or one in found.runs[:CURVES]]
    order = sorted(shown, key=lambda one: (one.latest, one is newest))
    made = []
    for key, (title, _) in plots.MEASURED.items():
        courses = [
            ("latest" if one.latest else "newest" if one is newest else "", points)
            for one in order
            if (points := plots.points_of(one.curve, key))
        ]
        if courses:
            made.append({"title": title, "svg": plots.together(key, courses)})
    return made
