"""What a dataset is like: examples, classes, pixels, and images that are in both splits."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from job.dataset.fingerprint import SPLITS

if TYPE_CHECKING:
    from job.dataset.rows import Dataset, Rows

BLOCK = 1 << 20  # pixels at a time: they fit the processor's cache


def describe(dataset: Dataset) -> dict[str, Any]:
    """A description of a dataset, as JSON values. It reads every row once.

    Returns:
        `classes`, their names; for each of `train` and `test`: `count`, `classes` (the number of examples of each
        class), `mean` and `spread` (the mean and the standard deviation of all pixels, 0 to 255); and `shared`, the
        number of test images that are training images too, by BLAKE2b of their pixels.
    """
    seen: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    splits = {split: _describe_rows(getattr(dataset, split), len(dataset.classes), seen[split]) for split in SPLITS}
    trained = set(seen["train"])
    shared = sum(digest in trained for digest in seen["test"])
    return {"classes": list(dataset.classes), **splits, "shared": shared}


def _describe_rows(rows: Rows, classes: int, seen: list[bytes]) -> dict[str, Any]:
    """The description of a split; the hashes of its images are appended to `seen`."""
    counts = np.zeros(classes, np.int64)
    total = squares = 0.0
    block = max(1, BLOCK // (rows.shape[0] * rows.shape[1]))
    for first in range(0, rows.count, block):
        images, labels = rows.take(np.arange(first, min(first + block, rows.count)))
        counts += np.bincount(labels, minlength=classes)
        pixels = images.reshape(-1).astype(np.float32)
        total += float(pixels.sum(dtype=np.float64))
        squares += float(pixels @ pixels)
        seen += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
    size = rows.count * rows.shape[0] * rows.shape[1]
    mean = total / size
    spread = max(0.0, squares / size - mean**2) ** 0.5
    return {"count": rows.count, "classes": counts.tolist(), "mean": mean, "spread": spread}
