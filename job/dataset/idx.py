"""Reading the four IDX files in which MNIST and its relatives are published.

An IDX file is a big-endian header (two zero bytes, the type, the number of dimensions, then each dimension as a
32-bit integer) and the values. See http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from job.error_table import errors_from
from job.errors import Exit, JobError

if TYPE_CHECKING:
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

    Each file may be plain, or gzip with `.gz` after its name. The files may hold any number of examples on which they
    agree, so that a part of a dataset can be prepared too.

    Raises:
        JobError: 66 if the folder or a file is missing or may not be read; 65 if a file is not an IDX file of
            that kind, is truncated or too long, if the numbers of images and labels differ, or a label is not a class.
    """
    return {split: _read_split(folder, *names) for split, names in FILES.items()}


def _read_split(folder: Path, images_name: str, labels_name: str) -> tuple[Bytes, Bytes]:
    images_path, images = _read_array(folder, images_name, dimensions=3)
    labels_path, labels = _read_array(folder, labels_name, dimensions=1)
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


def _read_array(folder: Path, name: str, dimensions: int) -> tuple[Path, Bytes]:
    path, content = _read_file(folder, name)
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
    return path, np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_file(folder: Path, name: str) -> tuple[Path, bytes]:
    plain, packed = folder / name, folder / f"{name}.gz"
    try:
        with errors_from("raw files", folder):
            if plain.exists():
                return plain, plain.read_bytes()
            if packed.exists():
                return packed, gzip.decompress(packed.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged_file(f"{packed} is truncated or not gzip: {error}") from error
    if not folder.is_dir():
        raise JobError(Exit.DATA_MISSING, "idx-missing", f"there is no folder {folder}")
    raise JobError(Exit.DATA_MISSING, "idx-missing", f"neither {name} nor {name}.gz is in {folder}")


def _damaged_file(message: str) -> JobError:
    return JobError(Exit.DATA_DAMAGED, "idx-damaged", message, "get the four files again")
