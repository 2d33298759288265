"""A small synthetic dataset in MNIST's file format, which is learned in seconds."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from job.dataset import idx

if TYPE_CHECKING:
    from pathlib import Path

    from job.dataset.idx import Bytes

CLASSES = 10


class Digits(NamedTuple):
    """Images uint8 [count, 28, 28] and labels uint8 [count] of both splits."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes


def synthetic(train: int = 600, test: int = 200, seed: int = 0) -> Digits:
    """Ten random patterns, one for each class, with noise: linearly separable, and fixed by the seed."""
    random = np.random.RandomState(seed)
    patterns = np.kron(random.randint(0, 2, (CLASSES, 7, 7)), np.ones((4, 4))) * 160

    def split(count: int) -> tuple[Bytes, Bytes]:
        labels = random.permutation(np.arange(count) % CLASSES).astype(np.uint8)
        noise = random.randint(0, 96, (count, *idx.SHAPE))
        return (patterns[labels] + noise).astype(np.uint8), labels

    return Digits(*split(train), *split(test))


def write_idx(
    folder: Path, train_images: Bytes, train_labels: Bytes, test_images: Bytes, test_labels: Bytes
) -> dict[str, Path]:
    """Write the four raw IDX files under MNIST's names; returns the path of each file by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"train": (train_images, train_labels), "test": (test_images, test_labels)}
    paths = {}
    for split, names in idx.FILES.items():
        for name, array in zip(names, arrays[split], strict=True):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, idx.UNSIGNED_BYTE, array.ndim, *array.shape)
            paths[name] = folder / name
            paths[name].write_bytes(header + array.tobytes())
    return paths
