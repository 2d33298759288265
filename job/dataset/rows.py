"""A prepared dataset: its rows, in memory or on disk, verified against its fingerprint.

Below the data folder a dataset NAME is::

    NAME/fingerprint.json                     written last: a folder without it is not prepared
    NAME/decoded/{train,test}-{images,labels}.npy   the rows as arrays of bytes: what training reads
    NAME/<version>/...                        the standard TensorFlow Datasets folder, which only preparation reads
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from job.dataset.fingerprint import SPLITS, damaged_dataset, read_fingerprint, unprepared_dataset
from job.error_table import errors_from
from job.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from io import BufferedReader
    from pathlib import Path

DECODED = "decoded"

# Both splits' rows, in bytes: MNIST's are 55 MB. All trainers of a fork server share them in memory. Images of a larger
# dataset stay on disk.
MEMORY_LIMIT = 1 << 30

# Bytes that are read and hashed at a time: they are still in the processor's cache.
BLOCK = 1 << 20

# TensorFlow can use an array without a copy only if the array's address is a multiple of this number of bytes.
TENSOR_ALIGNMENT = 64

Images: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.int32]
Indices: TypeAlias = NDArray[np.integer[Any]]


class ImagesOnDisk:
    """The images of a split in a file: uint8 [count, rows, columns], each read when it is asked for.

    The file is not mapped into memory, where a failing disk would end the process with SIGBUS.

    Args:
        path: the file's.
        descriptor: the open file, which is closed with this object.
        start: where the first image begins.
        shape: count, rows, columns.
    """

    def __init__(self, path: Path, descriptor: int, start: int, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._path, self._descriptor, self._start = path, descriptor, start
        weakref.finalize(self, os.close, descriptor)

    def __getitem__(self, indices: Indices) -> Images:
        """The images at the given indices, as an array would give them. Any thread may call it.

        Raises:
            JobError: 75 or 66, the file system fails.
        """
        size = math.prod(self.shape[1:])
        offsets = (self._start + size * indices.astype(np.int64)).tolist()
        with errors_from("dataset", self._path):
            # With this advice, the disk reads many images at once: 100 took 1.3 ms instead of 5 ms. Images that the
            # kernel holds in its page cache take 0.18 ms, 0.05 ms of which is for the advice.
            if hasattr(os, "posix_fadvise"):  # macOS lacks it
                for offset in offsets:
                    os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)
            content = b"".join([os.pread(self._descriptor, size, offset) for offset in offsets])
            if len(content) != size * len(offsets):
                raise OSError(errno.EIO, "the file has become shorter")
        return np.frombuffer(content, np.uint8).reshape(len(offsets), *self.shape[1:])


@dataclass(frozen=True)
class Rows:
    """The examples of one split.

    Attributes:
        images: uint8 [count, rows, columns]; from memory and from disk, an array of indices gives the same images.
        labels: int32 [count].
    """

    images: Images | ImagesOnDisk
    labels: Labels

    @property
    def count(self) -> int:
        """The number of examples."""
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels of an image: rows, columns."""
        _, rows, columns = self.images.shape
        return rows, columns

    def take(self, indices: Indices) -> tuple[Images, Labels]:
        """The examples at the given indices, in that order: uint8 [n, rows, columns] and int32 [n].

        Any thread may call it. An index is at least 0 and below count, and may be repeated.
        """
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, verified.

    classes are the names of the classes, in the order of their labels; fingerprint is the content of fingerprint.json.
    """

    classes: tuple[str, ...]
    fingerprint: dict[str, Any]
    train: Rows
    test: Rows


_held: dict[tuple[Path, str], Dataset] = {}


def hold_dataset(folder: Path, name: str) -> None:
    """Load a dataset once for every load_dataset() of this process and of the processes forked from it.

    It does nothing if the images stay on disk: each process then loads the dataset and opens its files itself.

    Raises:
        JobError: as load_dataset().
    """
    with errors_from("dataset", folder / name):
        fits = decoded_bytes(read_fingerprint(folder, name)) <= MEMORY_LIMIT
    if fits:
        _held[folder, name] = load_dataset(folder, name)


def load_dataset(folder: Path, name: str, *, memory_limit: int = MEMORY_LIMIT) -> Dataset:
    """Open a prepared dataset and verify it against its fingerprint.

    All rows are read and hashed. Within the limit, those that were verified are kept in memory. Otherwise labels are
    kept, and images are read from the open file again.

    Args:
        folder: the data folder.
        name: TensorFlow Datasets' name of the dataset.
        memory_limit: the most bytes that the rows of both splits may take in memory.

    Raises:
        JobError: 66 if there is no dataset or it cannot be read, 64 if its name is unknown too; 65 if it was not
            prepared, is damaged or is another dataset; 75 if reading failed temporarily.
    """
    if held := _held.get((folder, name)):
        return held
    place = folder / name
    try:
        with errors_from("dataset", place):
            fingerprint = read_fingerprint(folder, name)
            if not (place / DECODED).is_dir():
                message = f"{place} was prepared without decoded arrays"
                raise unprepared_dataset(folder, name, message, ", which adds them without a download")
            keep = decoded_bytes(fingerprint) <= memory_limit
            with ThreadPoolExecutor(len(SPLITS)) as pool:  # hashing and reading release the GIL
                train, test = pool.map(lambda split: _load_rows(folder, name, fingerprint, split, keep=keep), SPLITS)
    except FileNotFoundError as error:
        raise damaged_dataset(folder, name, f"{error.filename} is missing") from error
    return Dataset(tuple(fingerprint["classes"]), fingerprint, train, test)


def decoded_bytes(fingerprint: Mapping[str, Any]) -> int:
    """The size of the rows of both splits, in bytes."""
    rows, columns = fingerprint["shape"]
    return sum(int(fingerprint[split]["count"]) * (rows * columns + 1) for split in SPLITS)


def _load_rows(folder: Path, name: str, fingerprint: Mapping[str, Any], split: str, *, keep: bool) -> Rows:
    expected = fingerprint[split]
    digest = hashlib.sha256()
    decoded = folder / name / DECODED
    shape = (expected["count"], *fingerprint["shape"])
    try:
        images = (_read_npy if keep else _open_images)(decoded / f"{split}-images.npy", shape, digest.update)
        labels = _read_npy(decoded / f"{split}-labels.npy", shape[:1], digest.update)
    except (ValueError, SyntaxError, TokenError) as error:  # NumPy reads a header with Python's tokenizer
        raise damaged_dataset(
            folder, name, f"the {split} arrays in {decoded} are damaged ({first_line(error)})"
        ) from error
    if digest.hexdigest() != expected["sha256"]:
        message = f"the {split} arrays in {decoded} have the SHA-256 {digest.hexdigest()}, not {expected['sha256']}"
        raise damaged_dataset(folder, name, message)
    return Rows(images, labels.astype(np.int32))


def _read_npy(path: Path, shape: tuple[int, ...], update_digest: Callable[[memoryview], None]) -> Images:
    """The array of a .npy file, uint8 of that shape; update_digest is called with each block as it is read."""
    array = aligned(math.prod(shape))
    with _open_npy(path, shape) as stream:
        for first in range(0, array.size, BLOCK):
            _read_block(stream, array[first : first + BLOCK].data, update_digest)
    return array.reshape(shape)


def aligned(size: int) -> NDArray[np.uint8]:
    """A new array of this many bytes, not initialised, that TensorFlow can use without a copy."""
    room = np.empty(size + TENSOR_ALIGNMENT, np.uint8)
    start = -room.ctypes.data % TENSOR_ALIGNMENT
    return room[start : start + size]


def _open_images(path: Path, shape: tuple[int, ...], update_digest: Callable[[memoryview], None]) -> ImagesOnDisk:
    """The same array, left in the file."""
    block, size = np.empty(BLOCK, np.uint8), math.prod(shape)
    with _open_npy(path, shape) as stream:
        start = stream.tell()
        for first in range(0, size, BLOCK):
            _read_block(stream, block[: size - first].data, update_digest)
        return ImagesOnDisk(path, os.dup(stream.fileno()), start, shape)


@contextlib.contextmanager
def _open_npy(path: Path, shape: tuple[int, ...]) -> Iterator[BufferedReader]:
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        if np.lib.format.read_array_header_1_0(stream) != (shape, False, np.dtype(np.uint8)):
            raise ValueError(f"{path.name} is not an array of {' x '.join(map(str, shape))} bytes")
        yield stream


def _read_block(stream: BufferedReader, block: memoryview, update_digest: Callable[[memoryview], None]) -> None:
    if stream.readinto(block) != len(block):
        raise ValueError(f"{PurePath(stream.name).name} is truncated")
    update_digest(block)
