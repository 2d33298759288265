"""The report of a run: report.json, as schema.py documents it, report.html and predictions.npz."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from job.report import report_page
from job.report import statistics as metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Evaluation:
    """The test set through the model, in the dataset's order: labels [n], probabilities float32 [n, classes]."""

    labels: NDArray[np.int32]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class RunFacts:
    """What the report says about a run besides its evaluation.

    settings are the fields of Config, fingerprint is the content of fingerprint.json; the rest is as in SCHEMA.
    """

    name: str
    job_uid: str
    started: str
    settings: Mapping[str, Any]
    settings_hash: str
    fingerprint: Mapping[str, Any]
    workers: int
    replicas: int
    device: str
    versions: Mapping[str, str]
    curve: Sequence[Mapping[str, Any]]
    timing: Mapping[str, float]
    parameters_sha256: str


def build_report(run: RunFacts, evaluation: Evaluation) -> dict[str, Any]:
    """The content of report.json, as in schema.SCHEMA."""
    names = list(run.fingerprint["classes"])
    labels, probabilities = evaluation.labels, evaluation.probabilities
    counts = metrics.confusion(labels, probabilities.argmax(axis=1), len(names))
    correct, examples = int(counts.trace()), int(labels.size)
    minimum = float(run.settings["min_accuracy"])
    return {
        "schema": 1,
        "run": {"name": run.name, "job_uid": run.job_uid, "started": run.started},
        "dataset": dict(run.fingerprint),
        "settings": {key: str(value) if isinstance(value, PurePath) else value for key, value in run.settings.items()},
        "settings_hash": run.settings_hash,
        "workers": run.workers,
        "replicas": run.replicas,
        "device": run.device,
        "versions": dict(run.versions),
        "curve": [dict(moment) for moment in run.curve],
        "test": {
            "examples": examples,
            "correct": correct,
            "accuracy": correct / examples,
            "accuracy_interval": list(metrics.wilson(correct, examples)),
            "loss": metrics.cross_entropy(labels, probabilities),
            "calibration_error": metrics.calibration_error(labels, probabilities),
            "classes": [
                {"name": name, **figures} for name, figures in zip(names, metrics.per_class(counts), strict=True)
            ],
            "confusion": counts.tolist(),
        },
        "gate": {"min_accuracy": minimum, "passed": correct / examples >= minimum},
        "timing": dict(run.timing),
        "parameters_sha256": run.parameters_sha256,
    }


def write_report(
    folder: Path,
    report: Mapping[str, Any],
    evaluation: Evaluation,
    images: NDArray[np.uint8],
    layers: Sequence[report_page.Layer] | None,
) -> None:
    """Write report.json, report.html and predictions.npz (labels, predicted; one byte each up to 256 classes).

    Args:
        folder: an existing folder.
        report: what build_report() returned.
        evaluation: the evaluation of that report.
        images: the test images, uint8 [n, height, width], in the evaluation's order.
        layers: see report_page.render_report().

    Raises:
        OSError: the folder cannot be written.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    html = report_page.render_report(report, evaluation.labels, evaluation.probabilities, images, layers)
    (folder / "report.html").write_text(html, encoding="utf-8")
    small = np.min_scalar_type(evaluation.probabilities.shape[1] - 1)
    np.savez(
        folder / "predictions.npz",
        labels=evaluation.labels.astype(small),
        predicted=evaluation.probabilities.argmax(axis=1).astype(small),
    )
