"""A prepared dataset: its rows, in memory or on disk, verified against its fingerprint.

Below the data folder a dataset NAME is::

    NAME/fingerprint.json                     written last: a folder without it is not prepared
    NAME/<version>/...                        the standard TensorFlow Datasets folder, examples in array_record files
    NAME/decoded/{train,test}-{images,labels}.npy   the same rows as arrays, if they fit MEMORY_LIMIT
"""

from __future__ import annotations

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from job.dataset.fingerprint import SPLITS, damaged_dataset, read_fingerprint
from job.error_table import errors_from
from job.errors import JobError
from job.system import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

DECODED = "decoded"
RANDOM_ACCESS = "array_record"  # the one format whose rows can be read from disk in any order

# Both splits' decoded rows, in bytes: MNIST's are 55 MB. Each worker holds them in its own memory.
MEMORY_LIMIT = 1 << 30

# Bytes that are read and hashed at a time: they are still in the processor's cache.
BLOCK = 1 << 20

# Hold this while TensorFlow is imported. When tensorflow_datasets is imported or first used, it replaces Python's
# import function for a moment, also for other threads. Modules that these import meanwhile lack parts.
IMPORTING = threading.Lock()

Images: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.int32]
Indices: TypeAlias = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Rows:
    """The examples of one split. Memory and disk give the same rows for the same indices.

    Attributes:
        count: the number of examples.
        shape: pixels of an image: rows, columns.
        reader: what take() does.
        images: uint8 [count, rows, columns] if they are in memory, else None.
        labels: int32 [count] if they are in memory, else None.
    """

    count: int
    shape: tuple[int, int]
    reader: Callable[[Indices], tuple[Images, Labels]]
    images: Images | None = None
    labels: Labels | None = None

    def take(self, indices: Indices) -> tuple[Images, Labels]:
        """The examples at the given indices, in that order: uint8 [n, rows, columns] and int32 [n].

        Any thread may call it. An index is at least 0 and below count, and may be repeated.
        """
        return self.reader(indices)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, verified.

    name is TensorFlow Datasets'; classes has their names, in the order of their labels; fingerprint is the content of
    fingerprint.json.
    """

    name: str
    classes: tuple[str, ...]
    fingerprint: dict[str, Any]
    train: Rows
    test: Rows


_held: dict[tuple[Path, str], Dataset] = {}


def hold_dataset(folder: Path, name: str) -> None:
    """Load a dataset once for every load_dataset() of this process, and of those forked from it.

    A dataset whose rows stay on disk is left to them: a reader of files cannot be shared.

    Raises:
        JobError: as load_dataset().
    """
    with errors_from("dataset", folder / name):
        in_memory = is_in_memory(folder, name, read_fingerprint(folder, name))
    if in_memory:
        _held[folder, name] = load_dataset(folder, name)


def load_dataset(folder: Path, name: str, *, memory_limit: int = MEMORY_LIMIT) -> Dataset:
    """Open a prepared dataset and verify it against its fingerprint.

    Rows come from memory if there are decoded arrays within the limit; the arrays that are used are the ones that were
    verified, and only NumPy is needed. Otherwise rows come from the example files, which are verified by their SHA-256
    and then read at random.

    Args:
        folder: the data folder.
        name: TensorFlow Datasets' name of the dataset.
        memory_limit: the most bytes that the decoded rows of both splits may take in memory.

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
            in_memory = is_in_memory(folder, name, fingerprint, memory_limit)
            if not in_memory and fingerprint["format"] != RANDOM_ACCESS:
                raise damaged_dataset(
                    folder, name, f"{place} has {fingerprint['format']} files, which have no random access"
                )
            source = _load_into_memory if in_memory else _open_on_disk
            with ThreadPoolExecutor(len(SPLITS)) as pool:  # hashing and reading release the GIL
                train, test = pool.map(lambda split: source(folder, name, fingerprint, split), SPLITS)
    except FileNotFoundError as error:
        raise damaged_dataset(folder, name, f"{error.filename} is missing") from error
    return Dataset(name, tuple(fingerprint["classes"]), fingerprint, train, test)


def is_in_memory(folder: Path, name: str, fingerprint: Mapping[str, Any], memory_limit: int = MEMORY_LIMIT) -> bool:
    """Whether the rows are to come from memory: there are decoded arrays within the limit."""
    return (folder / name / DECODED).is_dir() and decoded_bytes(fingerprint) <= memory_limit


def decoded_bytes(fingerprint: Mapping[str, Any]) -> int:
    """The size of the decoded rows of both splits, in bytes."""
    rows, columns = fingerprint["shape"]
    return sum(int(fingerprint[split]["count"]) * (rows * columns + 1) for split in SPLITS)


def rows_on_disk(version: Path, split: str, count: int, shape: tuple[int, int]) -> Rows:
    """The rows of a split, read at random from TensorFlow Datasets' array_record files, decoded one by one.

    Their reader raises JobError, 75 or 66, if the file system fails.

    Args:
        version: the folder NAME/<version>.
        split: train or test.
        count: the number of examples.
        shape: pixels of an image.
    """
    with IMPORTING:
        # Imported here: it takes 0.3 s, and only rows on disk need it. None of it imports TensorFlow.
        import tensorflow_datasets as tfds  # noqa: PLC0415
        from PIL import Image  # noqa: PLC0415
        from tensorflow_datasets.proto import tf_example_pb2  # noqa: PLC0415

        # Raw records: parsing them here is three times as fast as tfds's own deserialize_example_np.
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = tfds.builder_from_directory(version).as_data_source(split, deserialize_method=raw)
    if len(source) != count:
        raise ValueError(f"{len(source)} {split} examples instead of {count}")

    def read(indices: Indices) -> tuple[Images, Labels]:
        images = np.empty((len(indices), *shape), np.uint8)
        labels = np.empty(len(indices), np.int32)
        with errors_from("dataset", version):  # array_record reads in native code, and reports errors only in words
            records = source.__getitems__(indices.tolist())
        for row, record in enumerate(records):
            feature = tf_example_pb2.Example.FromString(record).features.feature
            with Image.open(io.BytesIO(feature["image"].bytes_list.value[0]), formats=["PNG"]) as image:
                images[row] = np.asarray(image)
            labels[row] = feature["label"].int64_list.value[0]
        return images, labels

    return Rows(count, shape, read)


def rows_in_memory(images: Images, labels: Labels) -> Rows:
    """The rows of a split from arrays: images uint8 [count, rows, columns], labels int32 [count]."""

    def read(indices: Indices) -> tuple[Images, Labels]:
        return images[indices], labels[indices]

    count, rows, columns = images.shape
    return Rows(count, (rows, columns), read, images, labels)


def _load_into_memory(folder: Path, name: str, fingerprint: Mapping[str, Any], split: str) -> Rows:
    expected = fingerprint[split]
    digest = hashlib.sha256()
    decoded = folder / name / DECODED
    try:
        # Read, not mapped: if the file changes later, what was verified stays, and no SIGBUS ends the process.
        images = _read_npy(decoded / f"{split}-images.npy", (expected["count"], *fingerprint["shape"]), digest.update)
        labels = _read_npy(decoded / f"{split}-labels.npy", (expected["count"],), digest.update)
    except ValueError as error:
        raise damaged_dataset(
            folder, name, f"the {split} arrays in {decoded} are damaged ({first_line(error)})"
        ) from error
    if digest.hexdigest() != expected["sha256"]:
        message = f"the {split} arrays in {decoded} have the SHA-256 {digest.hexdigest()}, not {expected['sha256']}"
        raise damaged_dataset(folder, name, message)
    return rows_in_memory(images, labels.astype(np.int32))


def _read_npy(path: Path, shape: tuple[int, ...], update_digest: Callable[[memoryview], None]) -> Images:
    """The array of a .npy file, uint8 of that shape; update_digest is called with each block as it is read."""
    with path.open("rb", buffering=0) as stream:
        np.lib.format.read_magic(stream)
        if np.lib.format.read_array_header_1_0(stream) != (shape, False, np.dtype(np.uint8)):
            raise ValueError(f"{path.name} is not an array of {' x '.join(map(str, shape))} bytes")
        array = np.empty(shape, np.uint8)
        rest = array.reshape(-1).data
        while rest:
            size = stream.readinto(rest[:BLOCK])
            if not size:
                raise ValueError(f"{path.name} is truncated")
            update_digest(rest[:size])
            rest = rest[size:]
    return array


def _open_on_disk(folder: Path, name: str, fingerprint: Mapping[str, Any], split: str) -> Rows:
    expected = fingerprint[split]
    for file, sha256 in expected["files"].items():
        actual = files.sha256(folder / name / file)
        if actual != sha256:
            raise damaged_dataset(folder, name, f"{folder / name / file} has the SHA-256 {actual}, not {sha256}")
    version = folder / name / fingerprint["version"]
    rows, columns = fingerprint["shape"]
    try:
        with errors_from("dataset", version):
            return rows_on_disk(version, split, expected["count"], (rows, columns))
    except JobError:
        raise
    except Exception as error:  # tfds and array_record raise exceptions of many kinds
        raise damaged_dataset(folder, name, f"{version} cannot be read as a dataset ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """The message of another library's exception, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
