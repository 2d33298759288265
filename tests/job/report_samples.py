"""Small synthetic runs, models and images for the tests of reports."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from job.config import Config
from job.dataset.rows import Rows
from job.predict import digit
from job.report import report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from job.report.report_page import Layer

DIGITS = [str(number) for number in range(10)]
LONG_NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random strokes, normalised like a dataset, uint8 [count, 28, 28]."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ink = np.zeros((60, 60))
        for _ in range(3):
            top, left = random.integers(0, 45, 2)
            high, wide = random.integers(4, 15, 2)
            ink[top : top + high, left : left + wide] = random.uniform(0.4, 1)
        made.append(digit.normalise(ink))
    return np.stack(made)


def layers(*sizes: int, activation: str = "relu", seed: int = 1) -> list[Layer]:
    """Dense layers with random weights and those numbers of units; the last is linear."""
    random = np.random.default_rng(seed)
    last = len(sizes) - 2
    return [
        (
            random.normal(0, 2 / before**0.5, (before, after)).astype(np.float32),
            random.normal(0, 0.1, after).astype(np.float32),
            "linear" if index == last else activation,
        )
        for index, (before, after) in enumerate(itertools.pairwise(sizes))
    ]


def forward(model: Sequence[Layer], pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's probabilities of uint8 [n, 28, 28] in NumPy: float32 [n, classes]."""
    activations: dict[str, Any] = {
        "softplus": lambda x: np.logaddexp(x, 0),  # an activation that the page does not know
        "linear": lambda x: x,
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }
    values = pictures.reshape(len(pictures), -1).astype(np.float32) / np.float32(255)
    for weights, bias, activation in model:
        values = activations[activation](values @ weights + bias)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def run(name: str = "mnist-a", classes: Sequence[str] = DIGITS, **changes: Any) -> report.RunFacts:
    """The facts about a run; changes are fields of RunFacts or of its manifest, or of Config under `settings`."""
    settings = dataclasses.asdict(Config(workers=2, **changes.pop("settings", {})))
    manifest: dict[str, Any] = {
        "run": name,
        "job_uid": "local",
        "started": "2026-11-23T06:54:00+00:00",
        "settings": settings | {"data": "data", "output": "output"},
        "settings_hash": "a" * 64,
        "must_match": {"model": "e" * 64},
        "fingerprint": {
            "dataset": "mnist",
            "version": "3.0.1",
            "classes": list(classes),
            "train": {"sha256": "b" * 64, "count": 60000},
            "test": {"sha256": "c" * 64, "count": 40},
        },
        "versions": {"python": "3.11.4", "tensorflow": "2.21.0"},
    }
    manifest |= {key: changes.pop(key) for key in manifest.keys() & changes.keys()}
    values: dict[str, Any] = {
        "manifest": manifest,
        "sizes": ((0, 2),),
        "replicas": 2,
        "curve": [
            {"epoch": 1, "step": 100, "loss": 0.8, "accuracy": None},
            {"epoch": 1, "step": 200, "loss": 0.4, "accuracy": 0.91},
            {"epoch": 2, "step": 400, "loss": 0.3, "accuracy": 0.92},
        ],
        "timing": {
            "startup_s": 6.1,
            "training_s": 11.2,
            "steps": 400,
            "examples_per_s": 53571.4,
            "us_per_step": 1866.2,
            "peak_rss_mb": 612.3,
            "spent_s": {"importing": 3.5, "training": 11.5, "publishing": 1.0},
            "goodput": 0.71875,
            "core_seconds": 32.0,
        },
        "parameters_sha256": "d" * 64,
    }
    return report.RunFacts(**values | changes)


def evaluation(model: Sequence[Layer], pictures: NDArray[np.uint8]) -> report.Evaluation:
    """The evaluation of a model, with labels that make it correct in two of three cases."""
    probabilities = forward(model, pictures)
    labels = probabilities.argmax(axis=1)
    labels[::3] = (labels[::3] + 1) % probabilities.shape[1]
    return report.Evaluation(labels.astype(np.int32), probabilities)


def write(
    folder: Path, facts: report.RunFacts, model: Sequence[Layer] | None, pictures: NDArray[np.uint8]
) -> dict[str, Any]:
    """Write a report on the model (a softmax model for None); returns the content of report.json."""
    classes = len(facts.manifest["fingerprint"]["classes"])
    evaluated = evaluation(model or layers(784, classes), pictures)
    built = report.build_report(facts, evaluated)
    report.write_report(folder, built, evaluated, Rows(pictures, evaluated.labels), model)
    return built


def publish(
    output: Path,
    name: str,
    right: NDArray[np.bool_],
    verdict: str = "promoted",
    **changes: Any,
) -> Path:
    """A published run of two classes that is correct on those test examples; it has no model and no page."""
    folder = output / "models" / name
    folder.mkdir(parents=True)
    probabilities = np.where(np.column_stack([right, ~right]), 0.9, 0.1).astype(np.float32)
    evaluated = report.Evaluation(np.zeros(right.size, np.int32), probabilities)
    built = report.build_report(run(name, classes=["no", "yes"], **changes), evaluated)
    (folder / "report.json").write_text(json.dumps(built))
    predicted = probabilities.argmax(axis=1).astype(np.uint8)
    np.savez(folder / "predictions.npz", labels=evaluated.labels.astype(np.uint8), predicted=predicted)
    (output / "runs" / name).mkdir(parents=True)
    (output / "runs" / name / "verdict.json").write_text(json.dumps({"verdict": verdict, "reason": f"it is {verdict}"}))
    return folder
