"""Published runs side by side: which differences are significant, and what else distinguishes the runs."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from job.output.significance import SIGNIFICANCE, holm, mcnemar, shorten, worse_classes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from job.output.significance import WorseClass
    from job.report.published_run import PublishedRun, PublishedRuns

# What is not part of the JSON: the source of the model, and a value for each test example or class.
NOT_IN_JSON = {"source", "classes", "predictions"}
# Settings that do not change what is trained, but where a run is made, how it is watched, or what becomes of its model.
NOT_COMPARED = (
    *("name", "data", "output", "continue_", "log_every", "evaluate_every", "checkpoint_every"),
    *("join_timeout", "stall_timeout", "promote", "min_accuracy", "min_class_accuracy"),
)


@dataclass(frozen=True)
class Difference:
    """A run beside the reference, on the same test examples.

    difference is that of the accuracies; only_run and only_reference count the examples that only one of the two
    classifies correctly; p_value is McNemar's, with Holm's correction for the number of runs compared;
    worse_classes are the classes that are worse than the reference's, with Holm's correction for the number of classes.
    """

    run: str
    difference: float
    only_run: int
    only_reference: int
    p_value: float
    beyond_chance: bool
    worse_classes: Sequence[WorseClass]


@dataclass(frozen=True)
class Comparison:
    """All published runs, newest first, each compared with the reference: `latest`, or else the most accurate run.

    latest is the run that `latest` points to, even if it is damaged; not_comparable are the runs tested on other data
    than the reference; other_training those tested on the same data but trained on other data; other_models gives,
    for each run whose model.py is not the reference's, the first line that differs, None if not known; damaged has a
    sentence for each run that could not be read; unpublished are the runs without a model.
    """

    reference: PublishedRun
    latest: str | None
    runs: Sequence[PublishedRun]
    differences: Mapping[str, Difference]
    not_comparable: Sequence[str]
    other_training: Sequence[str]
    other_models: Mapping[str, int | None]
    damaged: Mapping[str, str]
    unpublished: Sequence[str]


def compare_runs(published: PublishedRuns) -> Comparison:
    """Compare the runs of an output folder; there must be at least one."""
    runs = sorted(published.runs, key=lambda run: (run.started, run.name), reverse=True)
    reference = next((run for run in runs if run.latest), max(runs, key=lambda run: run.accuracy))
    comparable = [run for run in runs if run is not reference and run.test_sha256 == reference.test_sha256]
    return Comparison(
        reference=reference,
        latest=published.latest,
        runs=runs,
        differences=_differences(reference, comparable),
        not_comparable=[run.name for run in runs if run.test_sha256 != reference.test_sha256],
        other_training=[run.name for run in comparable if run.train_sha256 != reference.train_sha256],
        other_models={
            run.name: _first_difference(run, reference)
            for run in runs
            if {"model"} <= run.settings.keys() & reference.settings.keys()
            and run.settings["model"] != reference.settings["model"]
        },
        damaged=published.damaged,
        unpublished=published.unpublished,
    )


def _differences(reference: PublishedRun, others: Sequence[PublishedRun]) -> dict[str, Difference]:
    right, corrects = reference.predictions.correct, [run.predictions.correct for run in others]
    only_run = [int((correct & ~right).sum()) for correct in corrects]
    only_reference = [int((right & ~correct).sum()) for correct in corrects]
    p_values = holm([mcnemar(*counts) for counts in zip(only_run, only_reference, strict=True)])
    return {
        run.name: Difference(
            run=run.name,
            difference=(gained - lost) / right.size,
            only_run=gained,
            only_reference=lost,
            p_value=p_value,
            beyond_chance=p_value < SIGNIFICANCE,
            worse_classes=worse_classes(run.classes, run.predictions, reference.predictions),
        )
        for run, gained, lost, p_value in zip(others, only_run, only_reference, p_values, strict=True)
    }


def _first_difference(run: PublishedRun, reference: PublishedRun) -> int | None:
    """The number of the first line in which the sources of two models differ; None if they are not there to compare."""
    if run.source is None or reference.source is None:
        return None
    lines = itertools.zip_longest(run.source.splitlines(keepends=True), reference.source.splitlines(keepends=True))
    return next((number for number, (own, other) in enumerate(lines, 1) if own != other), None)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """A Comparison as JSON values: everything but the predictions, and each run with its difference."""
    runs = []
    for run in comparison.runs:
        values = {key: value for key, value in vars(run).items() if key not in NOT_IN_JSON}
        difference = comparison.differences.get(run.name)
        runs.append(values | {"vs_reference": asdict(difference) if difference else None})
    plain = {key: value for key, value in vars(comparison).items() if key != "differences"}
    return plain | {"reference": comparison.reference.name, "runs": runs}


def differing_settings(runs: Sequence[PublishedRun]) -> list[str]:
    """The settings that are not the same for all runs, in the order of the first run that has them."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in NOT_COMPARED)
    return [key for key in keys if len({json.dumps(run.settings.get(key)) for run in runs}) > 1]


def reference_role(comparison: Comparison) -> str:
    """Why the reference is the reference: it is latest, or else the most accurate run."""
    if comparison.reference.latest:
        return "latest"
    reason = f"latest points to {comparison.latest}, which is damaged" if comparison.latest else "no run is latest"
    return f"the most accurate; {reason}"


def worse_class_lines(comparison: Comparison) -> list[str]:
    """The runs with classes that are worse than the reference's beyond chance, a sentence each."""
    return [
        f"{one.run} is worse for class {shorten(one.worse_classes)}"
        for one in comparison.differences.values()
        if one.worse_classes
    ]


def comparison_notes(comparison: Comparison) -> list[str]:
    """What else there is to know about the runs, in sentences."""
    newest = comparison.runs[0]
    reference = f"{comparison.reference.name} ({reference_role(comparison)})"
    notes = [f"{name} is damaged and left out: {reason}" for name, reason in comparison.damaged.items()]
    if newest.verdict in ("rejected", "kept"):
        notes.append(f"{newest.name}, the newest, was {newest.verdict}: {newest.reason}")
    if comparison.other_training:
        notes.append(f"Trained on other data than {reference}: {', '.join(comparison.other_training)}")
    if comparison.other_models:
        lines = {name: f" (from line {line} on)" if line else "" for name, line in comparison.other_models.items()}
        names = ", ".join(f"{name}{line}" for name, line in lines.items())
        notes.append(f"Trained with another model.py than {reference}: {names}")
    if comparison.not_comparable:
        names = ", ".join(comparison.not_comparable)
        notes.append(f"Tested on other data than {reference}, so not comparable: {names}")
    if len(comparison.runs) == 1:
        notes.append(f"{reference} is the only published run: there is nothing to compare it with.")
    if comparison.unpublished:
        notes.append(f"Started but not published: {', '.join(comparison.unpublished)}")
    return notes
