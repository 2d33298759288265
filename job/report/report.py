"""The report of a run: report.json, as schema.py documents it, report.html and predictions.npz."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from job.report import report_page
from job.report import statistics as metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from job.dataset.rows import Rows


@dataclass(frozen=True)
class Evaluation:
    """The test set through the model, in the dataset's order: labels [n], probabilities float32 [n, classes]."""

    labels: NDArray[np.int32]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class RunFacts:
    """What the report says about a run besides its evaluation: the content of config.json, and fields as in SCHEMA."""

    manifest: Mapping[str, Any]
    sizes: Sequence[tuple[int, int]]
    replicas: int
    curve: Sequence[Mapping[str, Any]]
    timing: Mapping[str, Any]
    parameters_sha256: str
    data: Mapping[str, Any] | None = None
    beside_latest: Mapping[str, Any] | None = None


def build_report(run: RunFacts, evaluation: Evaluation) -> dict[str, Any]:
    """The content of report.json, as in schema.SCHEMA."""
    manifest, settings = run.manifest, run.manifest["settings"]
    names = list(manifest["fingerprint"]["classes"])
    labels, probabilities = evaluation.labels, evaluation.probabilities
    counts = metrics.confusion(labels, probabilities.argmax(axis=1), len(names))
    correct, examples = int(counts.trace()), int(labels.size)
    minimum, class_minimum = float(settings["min_accuracy"]), float(settings["min_class_accuracy"])
    classes = [{"name": name, **figures} for name, figures in zip(names, metrics.per_class(counts), strict=True)]
    recalls = [figures["recall"] for figures in classes if figures["support"]]
    optional = {"data": run.data, "beside_latest": run.beside_latest}
    return {
        "schema": 1,
        "run": {"name": manifest["run"], "job_uid": manifest["job_uid"], "started": manifest["started"]},
        "dataset": dict(manifest["fingerprint"]),
        "settings": dict(settings),
        "settings_hash": manifest["settings_hash"],
        "model_sha256": manifest["must_match"]["model"],
        "workers": settings["workers"],
        "sizes": [{"step": step, "workers": workers} for step, workers in run.sizes],
        "replicas": run.replicas,
        "device": settings["device"],
        "versions": dict(manifest["versions"]),
        "curve": [dict(point) for point in run.curve],
        "test": {
            "examples": examples,
            "correct": correct,
            "accuracy": correct / examples,
            "accuracy_interval": list(metrics.wilson(correct, examples)),
            "loss": metrics.cross_entropy(labels, probabilities),
            "calibration_error": metrics.calibration_error(labels, probabilities),
            "classes": classes,
            "confusion": counts.tolist(),
        },
        "gate": {
            "min_accuracy": minimum,
            "min_class_accuracy": class_minimum,
            "passed": correct / examples >= minimum and min(recalls) >= class_minimum,
        },
        "timing": dict(run.timing),
        "parameters_sha256": run.parameters_sha256,
        **{key: dict(value) for key, value in optional.items() if value},
    }


def write_report(
    folder: Path,
    report: Mapping[str, Any],
    evaluation: Evaluation,
    test: Rows,
    layers: Sequence[report_page.Layer] | None,
) -> None:
    """Write report.json, report.html and predictions.npz (labels, predicted; one byte each up to 256 classes).

    Args:
        folder: an existing folder.
        report: what build_report() returned.
        evaluation: the evaluation of that report.
        test: the test set, in the evaluation's order.
        layers: see report_page.render_report().

    Raises:
        OSError: the folder cannot be written.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    # File names may contain bytes that are not UTF-8. They are written as escape sequences, which JSON allows.
    (folder / "report.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    html = report_page.render_report(report, evaluation.labels, evaluation.probabilities, test, layers)
    (folder / "report.html").write_text(html, encoding="utf-8", errors="backslashreplace")
    small = np.min_scalar_type(evaluation.probabilities.shape[1] - 1)
    np.savez(
        folder / "predictions.npz",
        labels=evaluation.labels.astype(small),
        predicted=evaluation.probabilities.argmax(axis=1).astype(small),
    )
