"""report.json, predictions and layers -> report.html: one file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from job.predict import digit
from job.report import plots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A dense layer: weights float32 [in, out], bias float32 [out], and the name of its activation.
Layer = tuple[NDArray[np.float32], NDArray[np.float32], str]

# What page.js can compute; softmax is applied to the last layer's output in any case.
ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid")
MISTAKES = 24
CONFUSIONS = 5
# The two signs of a weight; zero is transparent, so that they stand on a light page and on a dark one.
FOR, AGAINST = (46, 111, 216), (214, 106, 24)


def render(
    report: Mapping[str, Any],
    labels: NDArray[np.int32],
    probabilities: NDArray[np.float32],
    images: NDArray[np.uint8],
    layers: Sequence[Layer] | None,
) -> str:
    """The page.

    Args:
        report: the content of report.json. Its names are other people's words: they are escaped, and no script but
            the page's own may run (Content-Security-Policy with the script's hash).
        labels: true classes of the test set [n].
        probabilities: the model's, float32 [n, classes].
        images: the test images, uint8 [n, height, width].
        layers: the dense layers that take pixels / 255, row by row, to the classes' logits; the canvas runs them.
            None, or layers of another shape or with an activation not in ACTIVATIONS: no canvas. Weight images are
            shown where the first layer is [pixels, classes].
    """
    names = report["dataset"]["classes"]
    shown = _mistakes(names, labels, probabilities, images)
    drawable = layers is not None and _drawable(layers, images[0].size, len(names)) and _is_field(images)
    templates = environment()
    script = templates.get_template("page.js").render()
    return templates.get_template("page.html").render(
        report=report,
        test=report["test"],
        names=names,
        long_names=max(map(len, names)) > 2,
        digits=names == [str(number) for number in range(10)],
        scale=scale(*report["test"]["accuracy_interval"]),
        plots=plots.learning_curves(report["curve"]),
        moments=[point for point in report["curve"] if point["accuracy"] is not None],
        largest=max(_off_diagonal(report["test"]["confusion"]).max(), 1),
        confusions=_confusions(report["test"]["confusion"]),
        mistakes=shown,
        weights=_weight_images(layers, images.shape[1:], len(names)),
        model=_model(layers, names, shown) if layers is not None and drawable else None,
        facts=_facts(report),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def environment() -> Environment:
    """The templates, with what writes figures in them."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "seconds": seconds, "moment": moment, "number": "{:,}".format}
    return made


def percent(share: float, digits: int = 2) -> str:
    """A share as a percentage; only a whole one reads 100%."""
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text}%"


def seconds(duration: float) -> str:
    """A duration, as short as it can be read."""
    if duration < 120:
        return f"{duration:.1f} s"
    minutes = round(duration / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def moment(started: str) -> str:
    """An ISO 8601 time in UTC as a reader writes it; what is none, as it is."""
    try:
        return f"{datetime.fromisoformat(started):%-d %B %Y, %H:%M} UTC"
    except ValueError:
        return started


def scale(low: float, high: float) -> tuple[float, float]:
    """The ends of the bar that shows an interval: the whole twentieths around it."""
    return math.floor(20 * low) / 20, math.ceil(20 * high) / 20


def _facts(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """What tells how the run was made, in groups of names and values."""
    data, timing = report["dataset"], report["timing"]
    return [
        ("Settings", list(report["settings"].items())),
        (
            "Course",
            [
                ("workers", report["workers"]),
                ("replicas in sync", report["replicas"]),
                ("device", report["device"]),
                ("start-up", seconds(timing["startup_s"])),
                ("training", seconds(timing["training_s"])),
                ("peak memory of the chief", f"{timing['peak_rss_mb']:,.0f} MB"),
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
                ("SHA-256 of the parameters", report["parameters_sha256"]),
            ],
        ),
    ]


def _is_field(images: NDArray[np.uint8]) -> bool:
    return images.shape[1:] == (digit.SIDE, digit.SIDE)


def _drawable(layers: Sequence[Layer], pixels: int, classes: int) -> bool:
    """Whether page.js can run them: each takes what the one before gives, from pixels to classes."""
    sizes = [pixels, *(weights.shape[-1] for weights, _, _ in layers)]
    return sizes[-1] == classes and all(
        weights.shape == (before, bias.size) and activation in ACTIVATIONS
        for before, (weights, bias, activation) in zip(sizes, layers, strict=False)
    )


def _model(layers: Sequence[Layer], names: Sequence[str], shown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What page.js reads; numbers are little-endian float32 in base64, weights row by row."""
    return {
        "field": {"side": digit.SIDE, "box": digit.BOX, "slack": digit.SLACK},
        "classes": names,
        "layers": [
            {"weights": _float32(weights), "bias": _float32(bias), "activation": activation}
            for weights, bias, activation in layers
        ],
        "pictures": [mistake["pixels"] for mistake in shown],
    }


def _float32(values: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def _mistakes(
    names: Sequence[str], labels: NDArray[np.int32], probabilities: NDArray[np.float32], images: NDArray[np.uint8]
) -> list[dict[str, Any]]:
    """The examples that the model gets wrong with the most confidence, surest first."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return [
        {
            "index": int(index),
            "true": names[labels[index]],
            "said": names[predicted[index]],
            "confidence": float(confidence[index]),
            "png": _png(images[index]),
            "pixels": base64.b64encode(images[index].tobytes()).decode(),
        }
        for index in surest
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
    return [(int(true), int(said), int(counts[true, said])) for true, said in pairs if counts[true, said]]


def _weight_images(layers: Sequence[Layer] | None, shape: tuple[int, ...], classes: int) -> list[str]:
    """A picture of each class's weights on one scale, where the first layer is [pixels, classes]; else none."""
    if not layers or layers[0][0].shape != (int(np.prod(shape)), classes):
        return []
    weights = layers[0][0]
    # The few largest weights would leave all others pale.
    strength = np.clip(np.abs(weights) / max(float(np.quantile(np.abs(weights), 0.995)), 1e-12), 0, 1)
    colour = np.where((weights > 0)[..., None], np.array(FOR), np.array(AGAINST))
    rgba = np.concatenate([colour, np.rint(255 * strength)[..., None]], axis=-1).astype(np.uint8)
    return [_png(rgba[:, index].reshape(*shape, 4)) for index in range(classes)]


def _png(pixels: NDArray[np.uint8]) -> str:
    """A data URL of a grey [h, w] or RGBA [h, w, 4] picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
