"""Tests of report.json and the files beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jsonschema
import numpy as np
import pytest

from job.report import report
from job.report import statistics as metrics
from job.report.schema import SCHEMA
from tests.job import report_samples as samples

if TYPE_CHECKING:
    from pathlib import Path

    from job.report.report_page import Layer


def test_report_holds_every_figure_of_the_run() -> None:
    """The whole report.json of four examples, calculated by hand."""
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3], [0.1, 0.9]], np.float32)
    run = samples.run(classes=["no", "yes"], settings={"min_accuracy": 0.8})
    built = report.build_report(run, report.Evaluation(np.array([0, 1, 1, 1], np.int32), probabilities))
    assert built.pop("test") == {
        "examples": 4,
        "correct": 3,
        "accuracy": 0.75,
        "accuracy_interval": list(metrics.wilson(3, 4)),
        "loss": pytest.approx(-np.log([0.8, 0.6, 0.3, 0.9]).mean(), rel=1e-6),
        "calibration_error": pytest.approx((0.2 + 0.4 + 0.7 + 0.1) / 4, abs=1e-6),
        "classes": [
            {"name": "no", "precision": 0.5, "recall": 1, "f1": 2 / 3, "support": 1},
            {"name": "yes", "precision": 1, "recall": 2 / 3, "f1": 0.8, "support": 3},
        ],
        "confusion": [[1, 0], [1, 2]],
    }
    assert built == {
        "schema": 1,
        "run": {"name": "mnist-a", "job_uid": "local", "started": "2026-11-23T06:54:00+00:00"},
        "dataset": run.manifest["fingerprint"],
        "settings": run.manifest["settings"],
        "settings_hash": "a" * 64,
        "model_sha256": "e" * 64,
        "workers": 2,
        "sizes": [{"step": 0, "workers": 2}],
        "replicas": 2,
        "device": "cpu",
        "versions": run.manifest["versions"],
        "curve": run.curve,
        "gate": {"min_accuracy": 0.8, "min_class_accuracy": 0.0, "passed": False},
        "timing": run.timing,
        "parameters_sha256": "d" * 64,
    }


@pytest.mark.parametrize(("minimum", "passed"), [(0.5, True), (0.51, False)])
def test_gate_looks_at_each_class(minimum: float, *, passed: bool) -> None:
    """The worst recall decides; a class without test examples has none."""
    probabilities = np.array([[0.8, 0.2, 0], [0.4, 0.6, 0], [0.7, 0.3, 0]], np.float32)
    run = samples.run(classes=["no", "yes", "absent"], settings={"min_class_accuracy": minimum})
    built = report.build_report(run, report.Evaluation(np.array([0, 1, 1], np.int32), probabilities))
    assert built["gate"] == {"min_accuracy": 0.0, "min_class_accuracy": minimum, "passed": passed}


@pytest.mark.parametrize("model", [None, samples.layers(784, 10), samples.layers(784, 16, 10)])
def test_written_report_follows_the_schema(tmp_path: Path, model: list[Layer] | None) -> None:
    """report.json on disk is what was built, and valid, for each kind of model."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    built = samples.write(tmp_path, samples.run(), model, samples.images(40))
    read = json.loads((tmp_path / "report.json").read_bytes())
    jsonschema.validate(read, SCHEMA, jsonschema.Draft202012Validator)
    assert read == built


def test_schema_refuses_a_report_with_something_missing_or_added() -> None:
    """The schema is closed: the validation above can fail."""
    built = report.build_report(samples.run(), samples.evaluation(samples.layers(784, 10), samples.images(9)))
    for broken in (built | {"extra": 1}, {k: v for k, v in built.items() if k != "timing"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA, jsonschema.Draft202012Validator)


def test_predictions_keep_each_test_example(tmp_path: Path) -> None:
    """predictions.npz has every label and predicted class, a byte each."""
    model, pictures = samples.layers(784, 10), samples.images(40)
    samples.write(tmp_path, samples.run(), model, pictures)
    expected = samples.evaluation(model, pictures)
    with np.load(tmp_path / "predictions.npz") as found:
        assert {key: found[key].dtype for key in found} == {"labels": np.uint8, "predicted": np.uint8}
        np.testing.assert_array_equal(found["labels"], expected.labels)
        np.testing.assert_array_equal(found["predicted"], expected.probabilities.argmax(axis=1))


def test_same_run_gives_the_same_files(tmp_path: Path) -> None:
    """Nothing in the report depends on the moment of writing."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        samples.write(tmp_path / name, samples.run(), samples.layers(784, 10), samples.images(40))
    for file in ("report.json", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
