"""A run's evaluation -> report.json, report.html and predictions.npz; SCHEMA documents report.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from job.report import page
from job.report import statistics as metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_COUNT = {"type": "integer", "minimum": 0}
_AMOUNT = {"type": "number", "minimum": 0}
_TEXT = {"type": "string"}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def _object(description: str, properties: Mapping[str, Any], *, closed: bool = True) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": not closed,
    }


_SPLIT = _object(
    "one split of the dataset",
    {"sha256": _SHA256 | {"description": "over decoded images and labels, in order"}, "count": _COUNT},
    closed=False,
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "report.json",
    **_object(
        "One published run: what was trained, on what, how fast, and how good it is on the test set.",
        {
            "schema": {"const": 1, "description": "version of this schema"},
            "run": _object(
                "identity",
                {
                    "name": _TEXT,
                    "job_uid": _TEXT | {"description": "the Kubernetes Job's UID; `local` without a cluster"},
                    "started": _TEXT | {"format": "date-time", "description": "UTC, ISO 8601"},
                },
            ),
            "dataset": _object(
                "the dataset's fingerprint",
                {
                    "dataset": _TEXT,
                    "version": _TEXT,
                    "classes": {"type": "array", "items": _TEXT, "minItems": 2, "description": "names, in order"},
                    "train": _SPLIT,
                    "test": _SPLIT,
                },
                closed=False,
            ),
            "settings": {"type": "object", "description": "every setting of the run, as job/config.py names them"},
            "settings_hash": _SHA256 | {"description": "over those that must match for a resume"},
            "workers": {"type": "integer", "minimum": 1},
            "replicas": {"type": "integer", "minimum": 1, "description": "replicas in sync, over all workers"},
            "device": {"type": "string", "description": "what trained: cpu or gpu"},
            "versions": {"type": "object", "additionalProperties": _TEXT, "description": "of Python and libraries"},
            "curve": {
                "type": "array",
                "description": "the run's course, by step",
                "items": _object(
                    "one moment",
                    {
                        "epoch": _COUNT,
                        "step": _COUNT,
                        "loss": {"type": ["number", "null"], "description": "training loss since the moment before"},
                        "accuracy": {
                            "type": ["number", "null"],
                            "description": "test accuracy, where it was measured; for display, it selects nothing",
                        },
                    },
                ),
            },
            "test": _object(
                "the evaluation, over every test example once",
                {
                    "examples": _COUNT,
                    "correct": _COUNT,
                    "accuracy": _SHARE,
                    "accuracy_interval": {
                        "type": "array",
                        "items": _SHARE,
                        "minItems": 2,
                        "maxItems": 2,
                        "description": "95% Wilson score interval",
                    },
                    "loss": _AMOUNT | {"description": "mean cross-entropy, in nats"},
                    "calibration_error": _SHARE | {"description": "expected calibration error, 15 bins of equal width"},
                    "classes": {
                        "type": "array",
                        "items": _object(
                            "one class; 0/0 is 0",
                            {"name": _TEXT, "precision": _SHARE, "recall": _SHARE, "f1": _SHARE, "support": _COUNT},
                        ),
                    },
                    "confusion": {
                        "type": "array",
                        "items": {"type": "array", "items": _COUNT},
                        "description": "counts: row the true class, column the predicted one",
                    },
                },
            ),
            "gate": _object(
                "what was asked of the model",
                {"min_accuracy": _SHARE, "passed": {"type": "boolean"}},
            ),
            "timing": _object(
                "how long it took",
                {
                    "startup_s": _AMOUNT
                    | {"description": "seconds from the chief's start to the end of its first block of steps"},
                    "training_s": _AMOUNT
                    | {"description": "seconds of all blocks of steps, the first with its compilation included"},
                    "steps": _COUNT,
                    "examples_per_s": _AMOUNT | {"description": "over all workers"},
                    "us_per_step": _AMOUNT | {"description": "microseconds a step"},
                    "peak_rss_mb": _AMOUNT | {"description": "the chief trainer's peak memory, 10^6 bytes"},
                },
            ),
            "parameters_sha256": _SHA256 | {"description": "over name, dtype, shape, bytes of each, by sorted name"},
        },
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """The test set through the model, in the dataset's order: labels [n], probabilities float32 [n, classes]."""

    labels: NDArray[np.int32]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class RunFacts:
    """What the report tells of a run besides its evaluation; the fields are those of SCHEMA.

    settings are Config's fields, fingerprint is fingerprint.json's content, curve and timing as in SCHEMA.
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
    """The content of report.json; it follows SCHEMA."""
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
    layers: Sequence[page.Layer] | None,
) -> None:
    """Write report.json, report.html and predictions.npz (labels, predicted; one byte each up to 256 classes).

    Args:
        folder: an existing folder.
        report: what build_report() gave.
        evaluation: what it gave it from.
        images: the test images, uint8 [n, height, width], in the evaluation's order.
        layers: see page.render.

    Raises:
        OSError: the folder cannot be written.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    html = page.render(report, evaluation.labels, evaluation.probabilities, images, layers)
    (folder / "report.html").write_text(html, encoding="utf-8")
    small = np.min_scalar_type(evaluation.probabilities.shape[1] - 1)
    np.savez(
        folder / "predictions.npz",
        labels=evaluation.labels.astype(small),
        predicted=evaluation.probabilities.argmax(axis=1).astype(small),
    )
