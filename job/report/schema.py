"""The JSON schema of report.json, which also documents it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_COUNT = {"type": "integer", "minimum": 0}
_AMOUNT = {"type": "number", "minimum": 0}
_TEXT = {"type": "string"}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def _object(
    description: str, properties: Mapping[str, Any], *, closed: bool = True, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": not closed,
    }


_SPLIT = _object(
    "a split of the dataset",
    {"sha256": _SHA256 | {"description": "over decoded images and labels, in order"}, "count": _COUNT},
    closed=False,
)

_DESCRIBED = _object(
    "a description of a split",
    {
        "count": _COUNT,
        "classes": {"type": "array", "items": _COUNT, "description": "examples of each class"},
        "mean": _AMOUNT | {"description": "of all pixels, 0 to 255"},
        "spread": _AMOUNT | {"description": "their standard deviation"},
    },
)
_DATA = _object(
    "a description of the data; reports of earlier versions, and on data that are read from disk, have none",
    {
        "classes": {"type": "array", "items": _TEXT},
        "train": _DESCRIBED,
        "test": _DESCRIBED,
        "shared": _COUNT | {"description": "test images that are training images too"},
    },
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
            "settings": {"type": "object", "description": "every setting of the run, named as in job/config.py"},
            "settings_hash": _SHA256 | {"description": "over data, model and settings that must match for a resume"},
            "model_sha256": _SHA256 | {"description": "of model.py; reports of earlier versions have none"},
            "workers": {"type": "integer", "minimum": 1},
            "sizes": {
                "type": "array",
                "description": "each change of the number of workers; reports of earlier versions have none",
                "items": _object("how many workers trained from this step on", {"step": _COUNT, "workers": _COUNT}),
            },
            "replicas": {"type": "integer", "minimum": 1, "description": "replicas in sync, over all workers"},
            "device": {"type": "string", "description": "cpu or gpu"},
            "versions": {"type": "object", "additionalProperties": _TEXT, "description": "of Python and libraries"},
            "curve": {
                "type": "array",
                "description": "the learning curve, by step",
                "items": _object(
                    "one point",
                    {
                        "epoch": _COUNT,
                        "step": _COUNT,
                        "loss": {"type": ["number", "null"], "description": "training loss since the point before"},
                        "accuracy": {
                            "type": ["number", "null"],
                            "description": "test accuracy if it was measured; only for display, it selects nothing",
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
                            "a class; 0/0 is 0",
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
                "the minimums that were required",
                {
                    "min_accuracy": _SHARE,
                    "min_class_accuracy": _SHARE | {"description": "for each class's recall"},
                    "passed": {"type": "boolean"},
                },
                optional=("min_class_accuracy",),
            ),
            "timing": _object(
                "how long it took",
                {
                    "startup_s": _AMOUNT
                    | {"description": "seconds from the start of rank 0's trainer to the end of its first block"},
                    "training_s": _AMOUNT
                    | {"description": "seconds of all blocks of steps, including the compilation in the first"},
                    "steps": _COUNT,
                    "examples_per_s": _AMOUNT | {"description": "over all workers"},
                    "us_per_step": _AMOUNT | {"description": "microseconds a step"},
                    "peak_rss_mb": _AMOUNT | {"description": "peak memory of rank 0's trainer, 10^6 bytes"},
                    "spent_s": {
                        "type": "object",
                        "additionalProperties": _AMOUNT,
                        "description": "seconds of rank 0 until the report was written, by what they were spent on: "
                        "importing, gathering, compiling, training, evaluating, publishing, recovering (from a "
                        "restart until a new step), and replacing (from the end of a pod to the next one)",
                    },
                    "goodput": _SHARE | {"description": "the share of these seconds that was spent on training"},
                    "core_seconds": _AMOUNT
                    | {"description": "these seconds without replacing, times CPUs per worker, times workers"},
                },
                optional=("spent_s", "goodput", "core_seconds"),
            ),
            "parameters_sha256": _SHA256 | {"description": "over name, dtype, shape and bytes of each, by sorted name"},
            "data": _DATA,
            "beside_latest": _object(
                "a comparison with the model that was latest when this one was published",
                {
                    "run": _TEXT,
                    "worse_classes": {
                        "type": ["array", "null"],
                        "description": "classes that became worse beyond chance; null if it was tested on other data",
                        "items": _object(
                            "a class; p_value by McNemar's exact test, with Holm's correction",
                            {"name": _TEXT, "recall": _SHARE, "recall_before": _SHARE, "p_value": _SHARE},
                        ),
                    },
                    "data": {
                        "description": "of latest; null if they are the same, or its report does not describe them",
                        "anyOf": [_DATA, {"type": "null"}],
                    },
                    "data_changes": {
                        "type": ["array", "null"],
                        "items": _TEXT,
                        "description": "unusual differences of the data, a sentence each",
                    },
                },
            ),
        },
        optional=("model_sha256", "data", "beside_latest", "sizes"),
    ),
}
