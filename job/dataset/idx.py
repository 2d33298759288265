"""Reading the four IDX files in which MNIST and its relatives are published.

An IDX file is a big-endian header (two zero bytes, the type, the number of dimensions, then each dimension as a
32-bit integer) and the values. See http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from job.dataset import idx_files
from job.error_table import errors_from
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# The names of each split's images and labels, as published.
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SHAPE = (28, 28)
CLASSES = 10
UNSIGNED_BYTE = 0x08

Bytes: TypeAlias = NDArray[np.uint8]


def read_idx(folder: Path) -> dict[str, tuple[Bytes, Bytes]]:
    """The examples of each split: images uint8 [count, 28, 28] and labels uint8 [count], in the files' order.

    find_files() chooses the files. They may hold any number of examples, as long as images and labels agree, so that a
    part of a dataset can be prepared too.

    Raises:
        JobError: 66 if the folder or a file is missing or may not be read; 75 if reading failed temporarily; 64 if two
            different files could be the same part; 65 if a file is not an IDX file of that kind, is truncated or too
            long, if the numbers of images and labels differ, or a label is not a class.
    """
    found = idx_files.find_files(folder)
    return {split: _read_split(found[split, 3], found[split, 1]) for split in FILES}


def sha256(array: Bytes) -> str:
    """SHA-256 of the IDX file that holds an array, in hexadecimal."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, UNSIGNED_BYTE, array.ndim, *array.shape)
    return hashlib.sha256(header + array.tobytes()).hexdigest()


def _read_split(images_paths: Sequence[Path], labels_paths: Sequence[Path]) -> tuple[Bytes, Bytes]:
    images_path, images = _read_one(images_paths, dimensions=3)
    labels_path, labels = _read_one(labels_paths, dimensions=1)
    if images.shape[1:] != SHAPE:
        raise _damaged_file(f"{images_path} has images of {images.shape[1]} x {images.shape[2]} pixels, not 28 x 28")
    if len(images) != len(labels):
        raise _damaged_file(f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels")
    if not len(images):
        raise _damaged_file(f"{images_path} has no images")
    wrong = np.flatnonzero(labels >= CLASSES)
    if len(wrong):
        raise _damaged_file(
            f"{labels_path} has the label {labels[wrong[0]]} at {wrong[0]}; labels are 0 to {CLASSES - 1}"
        )
    return images, labels


def _read_one(paths: Sequence[Path], dimensions: int) -> tuple[Path, Bytes]:
    """The content of files with the same content, such as a compressed and an uncompressed one, and the first path."""
    faults, sound = [], []
    for path in paths:
        try:
            sound.append((path, _read_array(path, dimensions)))
        except JobError as error:
            faults.append(error)
    if not sound:
        raise faults[0]
    first, array = sound[0]
    for path, other in sound[1:]:
        if not np.array_equal(array, other):
            message = f"{first} and {path} could both be the same part of the dataset, but they differ"
            raise JobError(Exit.USAGE, "idx-ambiguous", message, "give --from-idx a folder with only one of them")
    return first, array


def _read_array(path: Path, dimensions: int) -> Bytes:
    try:
        with errors_from("raw files", path):
            content = idx_files.read_bytes(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged_file(f"{path} is truncated or damaged: {error}") from error
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise _damaged_file(f"{path} is truncated: its {len(content)} bytes are less than a header")
    if content[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]):
        raise _damaged_file(
            f"{path} is not an IDX file of bytes in {dimensions} dimension(s): it begins with {content[:4].hex()}"
        )
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    expected, actual = math.prod(shape), len(content) - start
    if actual != expected:
        fault = "truncated" if actual < expected else "too long"
        raise _damaged_file(f"{path} is {fault}: its header says {expected} bytes of values, but it has {actual}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _damaged_file(message: str) -> JobError:
    return JobError(Exit.DATA_DAMAGED, "idx-damaged", message, "get the four files again")
