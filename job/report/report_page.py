"""report.html: one self-contained file, made from report.json, the predictions and the model's layers."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job.config import flag_word
from job.output.promotion import classes_below
from job.predict import digit
from job.report.data_changes import findings
from job.report.rendering import duration, html_templates, interval_scale, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from job.dataset.rows import Rows

# A dense layer: weights float32 [in, out], bias float32 [out], and the name of its activation.
Layer = tuple[NDArray[np.float32], NDArray[np.float32], str]

# The activations that page.js can compute; it applies softmax to the last layer's output in any case.
ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid")
MISTAKES = 24
CONFUSIONS = 5
# Positive and negative weights; zero is transparent, for light and dark pages.
FOR, AGAINST = (46, 111, 216), (214, 106, 24)


def render_report(
    report: Mapping[str, Any],
    labels: NDArray[np.int32],
    probabilities: NDArray[np.float32],
    test: Rows,
    layers: Sequence[Layer] | None,
) -> str:
    """The page.

    Args:
        report: the content of report.json. Names come from other people: they are escaped, and only the page's own
            script may run (Content-Security-Policy with its hash).
        labels: true classes of the test set [n].
        probabilities: the model's output, float32 [n, classes].
        test: the test set; only the images that the page shows are read.
        layers: the dense layers from pixels / 255, row by row, to the logits of the classes; the drawing pad runs them.
            There is no pad without layers, or if their shapes or activations do not fit. Weight images are shown if
            the first layer is [pixels, classes].
    """
    from job.report import plots  # noqa: PLC0415 - matplotlib takes 0.4 s, and a trainer needs it only here

    names = report["dataset"]["classes"]
    mistakes = _mistakes(names, labels, probabilities, test)
    fits_pad = test.shape == (digit.SIDE, digit.SIDE)
    drawable = layers is not None and fits_pad and _page_can_run(layers, math.prod(test.shape), len(names))
    templates = html_templates()
    script = templates.get_template("page.js").render()
    return templates.get_template("report.html").render(
        report=report,
        test=report["test"],
        names=names,
        long_names=max(map(len, names)) > 2,
        digits=names == [str(number) for number in range(10)],
        scale=interval_scale(*report["test"]["accuracy_interval"]),
        plots=plots.plot_curve(report["curve"]),
        measured=[point for point in report["curve"] if point["accuracy"] is not None],
        largest=max(_off_diagonal(report["test"]["confusion"]).max(), 1),
        confusions=_confusions(report["test"]["confusion"]),
        mistakes=mistakes,
        weights=_weight_images(layers, test.shape, len(names)),
        model=_pad_model(layers, names, mistakes) if layers is not None and drawable else None,
        facts=_facts(report),
        below=classes_below(
            {each["name"]: each["recall"] for each in report["test"]["classes"] if each["support"]},
            report["gate"]["min_class_accuracy"],
        ),
        beside=report.get("beside_latest") or {"run": "", "worse_classes": [], "data": None, "data_changes": []},
        findings=findings(report["data"]) if "data" in report else [],
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _sizes(sizes: Sequence[Mapping[str, int]]) -> str:
    """The number of workers, and the step of each change."""
    first, *later = sizes
    return "; ".join([str(first["workers"]), *(f"{size['workers']} from step {size['step']:,}" for size in later)])


def _facts(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """How the run was made, in groups of names and values."""
    data, timing = report["dataset"], report["timing"]
    return [
        ("Settings", [(flag_word(name), value) for name, value in report["settings"].items() if value is not None]),
        (
            "Execution",
            [
                ("workers", _sizes(report["sizes"])),
                ("replicas in sync", report["replicas"]),
                ("device", report["device"]),
                ("start-up", duration(timing["startup_s"])),
                ("training", duration(timing["training_s"])),
                ("peak memory of rank 0", f"{timing['peak_rss_mb']:,.0f} MB"),
            ],
        ),
        (
            "Time of rank 0",
            [
                *((part, duration(seconds)) for part, seconds in timing["spent_s"].items()),
                ("goodput", percent(timing["goodput"], 1)),
                ("core-seconds of all workers", f"{timing['core_seconds']:,.0f}"),
            ],
        ),
        ("Versions", list(report["versions"].items())),
        (
            "Identity",
            [
                ("job UID", report["run"]["job_uid"]),
                ("training images", f"{data['train']['count']:,}"),
                ("their SHA-256", data["train"]["sha256"]),
                ("test images", f"{data['test']['count']:,}"),
                ("their SHA-256", data["test"]["sha256"]),
                ("settings hash", report["settings_hash"]),
                ("SHA-256 of model.py", report["model_sha256"]),
                ("SHA-256 of the parameters", report["parameters_sha256"]),
            ],
        ),
    ]


def _page_can_run(layers: Sequence[Layer], pixels: int, classes: int) -> bool:
    """Whether page.js can run the layers: their shapes lead from pixels to classes, and it knows the activations."""
    sizes = [pixels, *(weights.shape[-1] for weights, _, _ in layers)]
    return sizes[-1] == classes and all(
        weights.shape == (before, bias.size) and activation in ACTIVATIONS
        for before, (weights, bias, activation) in zip(sizes, layers, strict=False)
    )


def _pad_model(layers: Sequence[Layer], names: Sequence[str], mistakes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What page.js reads; numbers are little-endian float32 in base64, weights row by row."""
    return {
        "field": {"side": digit.SIDE, "box": digit.BOX, "slack": digit.SLACK},
        "classes": names,
        "layers": [
            {"weights": _float32(weights), "bias": _float32(bias), "activation": activation}
            for weights, bias, activation in layers
        ],
        "pictures": [mistake["pixels"] for mistake in mistakes],
    }


def _float32(values: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def _mistakes(
    names: Sequence[str], labels: NDArray[np.int32], probabilities: NDArray[np.float32], test: Rows
) -> list[dict[str, Any]]:
    """The examples that the model misclassifies with the most confidence, the most confident first."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return [
        {
            "index": int(index),
            "true": names[labels[index]],
            "predicted": names[predicted[index]],
            "confidence": float(confidence[index]),
            "png": _png(image),
            "pixels": base64.b64encode(image.tobytes()).decode(),
        }
        for index, image in zip(worst, test.take(worst)[0], strict=True)
    ]


def _off_diagonal(confusion: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    counts = np.array(confusion, np.int64)
    np.fill_diagonal(counts, 0)
    return counts


def _confusions(confusion: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """The most frequent confusions: true class, predicted class, count."""
    counts = _off_diagonal(confusion)
    order = np.argsort(-counts, axis=None, kind="stable")[:CONFUSIONS]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [(int(row), int(column), int(counts[row, column])) for row, column in pairs if counts[row, column]]


def _weight_images(layers: Sequence[Layer] | None, shape: tuple[int, ...], classes: int) -> list[str]:
    """A picture of each class's weights, all on one scale; none unless the first layer is [pixels, classes]."""
    if not layers or layers[0][0].shape != (int(np.prod(shape)), classes):
        return []
    weights = layers[0][0]
    # Scaled by a quantile: the few largest weights would make all others pale.
    strength = np.clip(np.abs(weights) / max(float(np.quantile(np.abs(weights), 0.995)), 1e-12), 0, 1)
    colour = np.where((weights > 0)[..., None], np.array(FOR), np.array(AGAINST))
    rgba = np.concatenate([colour, np.rint(255 * strength)[..., None]], axis=-1).astype(np.uint8)
    return [_png(rgba[:, index].reshape(*shape, 4)) for index in range(classes)]


def _png(pixels: NDArray[np.uint8]) -> str:
    """A data URL of a grey [h, w] or RGBA [h, w, 4] picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
