"""A prepared dataset on disk: its rows, in memory or not, and the proof that they are the prepared ones.

Below the data folder a dataset NAME is::

    NAME/fingerprint.json                     written last: what has none is not a prepared dataset
    NAME/<version>/...                        the standard TensorFlow Datasets folder, examples in array_record files
    NAME/decoded/{train,test}-{images,labels}.npy   the same rows as arrays, where they are below MEMORY_LIMIT
"""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from job.dataset.fingerprint import SPLITS, damaged, read_fingerprint, unreadable
from job.system import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

DECODED = "decoded"
RANDOM_ACCESS = "array_record"  # the one format whose rows can be read from disk in any order

# Both splits' decoded rows, in bytes: MNIST's are 55 MB. Each worker holds them in its own memory.
MEMORY_LIMIT = 1 << 30

# Hashed while still in the processor's cache.
BLOCK = 1 << 20

Images: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.int32]
Indices: TypeAlias = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Rows:
    """The examples of one split. Both sources give the same rows for the same indices.

    Attributes:
        count: the number of examples.
        shape: pixels of an image: rows, columns.
        reader: what take() does.
        images: uint8 [count, rows, columns] where they are in memory, else None.
        labels: int32 [count] where they are in memory, else None.
    """

    count: int
    shape: tuple[int, int]
    reader: Callable[[Indices], tuple[Images, Labels]]
    images: Images | None = None
    labels: Labels | None = None

    def take(self, indices: Indices) -> tuple[Images, Labels]:
        """The examples at the given places, in that order: uint8 [n, rows, columns] and int32 [n].

        Any thread may call it. Every index is at least 0 and below count; one may stand there more than once.
        """
        return self.reader(indices)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, verified.

    Attributes:
        name: TensorFlow Datasets' name of it.
        classes: the names of the classes, in the order of their labels.
        fingerprint: the content of fingerprint.json.
        train: the training examples.
        test: the test examples.
    """

    name: str
    classes: tuple[str, ...]
    fingerprint: dict[str, Any]
    train: Rows
    test: Rows


def load_dataset(folder: Path, name: str, *, memory_limit: int = MEMORY_LIMIT) -> Dataset:
    """Open a prepared dataset and verify it against its fingerprint.

    Rows come from memory where the decoded arrays are there and not above the limit; what is verified is what is
    then used. Else they come from the example files, whose own SHA-256 are verified and which are then read at
    random. The first needs nothing but NumPy.

    Args:
        folder: the data folder.
        name: TensorFlow Datasets' name of the dataset.
        memory_limit: the most bytes that the decoded rows of both splits may take in memory.

    Raises:
        JobError: 64 when nothing is there and the name is unknown, 66 when nothing is there or it may not be read,
            65 when it was not prepared, is damaged or is another dataset, 75 when reading it failed.
    """
    place = folder / name
    try:
        fingerprint = read_fingerprint(folder, name)
        in_memory = (place / DECODED).is_dir() and decoded_bytes(fingerprint) <= memory_limit
        if not in_memory and fingerprint["format"] != RANDOM_ACCESS:
            raise damaged(folder, name, f"{place} has {fingerprint['format']} files, which have no random access")
        source = _from_memory if in_memory else _from_disk
        with ThreadPoolExecutor(len(SPLITS)) as pool:  # hashlib and reading leave the interpreter free
            train, test = pool.map(lambda split: source(folder, name, fingerprint, split), SPLITS)
    except FileNotFoundError as error:
        raise damaged(folder, name, f"{error.filename} is missing") from error
    except OSError as error:
        raise unreadable(place, error) from error
    return Dataset(name, tuple(fingerprint["classes"]), fingerprint, train, test)


def decoded_bytes(fingerprint: Mapping[str, Any]) -> int:
    """What the decoded rows of both splits take, in bytes."""
    rows, columns = fingerprint["shape"]
    return sum(int(fingerprint[split]["count"]) * (rows * columns + 1) for split in SPLITS)


def on_disk(version: Path, split: str, count: int, shape: tuple[int, int]) -> Rows:
    """The rows of a split, read at random from TensorFlow Datasets' array_record files, decoded one by one.

    Args:
        version: the folder NAME/<version>.
        split: train or test.
        count: the number of examples.
        shape: pixels of an image.
    """
    # Here, for it takes 0.3 s and only rows on disk need it. None of it imports TensorFlow.
    import tensorflow_datasets as tfds  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415
    from tensorflow_datasets.proto import tf_example_pb2  # noqa: PLC0415

    # The record as it is: taking it apart here is three times as fast as tfds's own deserialize_example_np.
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = tfds.builder_from_directory(version).as_data_source(split, deserialize_method=raw)
    if len(source) != count:
        raise ValueError(f"{len(source)} {split} examples instead of {count}")

    def read(indices: Indices) -> tuple[Images, Labels]:
        images = np.empty((len(indices), *shape), np.uint8)
        labels = np.empty(len(indices), np.int32)
        for row, record in enumerate(source.__getitems__(indices.tolist())):
            feature = tf_example_pb2.Example.FromString(record).features.feature
            with Image.open(io.BytesIO(feature["image"].bytes_list.value[0]), formats=["PNG"]) as image:
                images[row] = np.asarray(image)
            labels[row] = feature["label"].int64_list.value[0]
        return images, labels

    return Rows(count, shape, read)


def in_memory(images: Images, labels: Labels) -> Rows:
    """The rows of a split from arrays: images uint8 [count, rows, columns], labels int32 [count]."""

    def read(indices: Indices) -> tuple[Images, Labels]:
        return images[indices], labels[indices]

    count, rows, columns = images.shape
    return Rows(count, (rows, columns), read, images, labels)


def _from_memory(folder: Path, name: str, fingerprint: Mapping[str, Any], split: str) -> Rows:
    expected = fingerprint[split]
    digest = hashlib.sha256()
    decoded = folder / name / DECODED
    try:
        # Read, not mapped: a file that changes later cannot change what was verified, nor end the process by SIGBUS.
        images = _read_array(decoded / f"{split}-images.npy", (expected["count"], *fingerprint["shape"]), digest.update)
        labels = _read_array(decoded / f"{split}-labels.npy", (expected["count"],), digest.update)
    except ValueError as error:
        raise damaged(folder, name, f"the {split} arrays in {decoded} are damaged ({first_line(error)})") from error
    if digest.hexdigest() != expected["sha256"]:
        message = f"the {split} arrays in {decoded} have the SHA-256 {digest.hexdigest()}, not {expected['sha256']}"
        raise damaged(folder, name, message)
    return in_memory(images, labels.astype(np.int32))


def _read_array(path: Path, shape: tuple[int, ...], seen: Callable[[memoryview], None]) -> Images:
    """The array of a .npy file, uint8 of that shape; each block of it is handed on while it is read."""
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
            seen(rest[:size])
            rest = rest[size:]
    return array


def _from_disk(folder: Path, name: str, fingerprint: Mapping[str, Any], split: str) -> Rows:
    expected = fingerprint[split]
    for file, sha256 in expected["files"].items():
        found = files.sha256(folder / name / file)
        if found != sha256:
            raise damaged(folder, name, f"{folder / name / file} has the SHA-256 {found}, not {sha256}")
    version = folder / name / fingerprint["version"]
    rows, columns = fingerprint["shape"]
    try:
        return on_disk(version, split, expected["count"], (rows, columns))
    except Exception as error:  # tfds and array_record raise whatever their own parsers do
        raise damaged(folder, name, f"{version} cannot be read as a dataset ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """What an exception of another library says, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
