"""Tests of a prepared dataset: memory and disk give the same rows, and damaged or other data is refused."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from job.dataset.rows import TENSOR_ALIGNMENT, ImagesOnDisk, decoded_bytes, load_dataset
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = (600 + 200) * (28 * 28 + 1)


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the data folder, to be damaged."""
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data"


def failure(folder: Path, name: str = "mnist", **options: int) -> JobError:
    """The error of loading."""
    with pytest.raises(JobError) as caught:
        load_dataset(folder, name, **options)
    return caught.value


def test_both_sources_give_the_same_rows(prepared: Path) -> None:
    """In any order, some rows twice: the same uint8 images and int32 labels from memory and from disk."""
    memory, disk = load_dataset(prepared, "mnist"), load_dataset(prepared, "mnist", memory_limit=0)
    for split, count in (("train", 600), ("test", 200)):
        indices = np.random.RandomState(1).randint(0, count, 2 * count)
        one, two = getattr(memory, split), getattr(disk, split)
        assert (one.count, one.shape, two.count, two.shape) == (count, (28, 28)) * 2
        for left, right, kind in zip(one.take(indices), two.take(indices), (np.uint8, np.int32), strict=True):
            assert left.dtype == right.dtype == kind
            np.testing.assert_array_equal(left, right)
    assert (memory.classes, memory.fingerprint) == (disk.classes, disk.fingerprint)


def test_taking_no_rows_gives_no_rows(prepared: Path) -> None:
    """An empty list of indices gives arrays of length 0 from both sources."""
    for limit in (SIZE, 0):
        images, labels = load_dataset(prepared, "mnist", memory_limit=limit).train.take(np.arange(0))
        assert (images.shape, labels.shape) == ((0, 28, 28), (0,))


@pytest.mark.parametrize(("limit", "in_memory"), [(SIZE, True), (SIZE - 1, False)])
def test_the_limit_decides_where_rows_come_from(prepared: Path, limit: int, in_memory: bool) -> None:
    """Rows are held in memory if those of both splits together fit the limit."""
    found = load_dataset(prepared, "mnist", memory_limit=limit)
    assert decoded_bytes(found.fingerprint) == SIZE
    assert [isinstance(rows.images, np.ndarray) for rows in (found.train, found.test)] == [in_memory] * 2


def test_images_in_memory_can_be_shared_with_tensorflow(prepared: Path) -> None:
    """They begin where TensorFlow can use them without a copy."""
    found = load_dataset(prepared, "mnist")
    for rows in (found.train, found.test):
        assert isinstance(rows.images, np.ndarray)
        assert rows.images.ctypes.data % TENSOR_ALIGNMENT == 0


def test_a_dataset_without_decoded_arrays_is_65_with_the_remedy(copy: Path) -> None:
    """Earlier versions left out those of a dataset beyond the limit."""
    shutil.rmtree(copy / "mnist/decoded")
    error = failure(copy)
    assert (error.code, error.reason, str(error)) == (
        Exit.DATA_DAMAGED,
        "dataset-unprepared",
        (
            f"{copy}/mnist was prepared without decoded arrays; "
            f"run `python -m job data --data {copy} --dataset mnist`, which adds them without a download"
        ),
    )


def test_rows_need_no_example_files(copy: Path) -> None:
    """The image has only the decoded arrays of a dataset."""
    shutil.rmtree(copy / "mnist/3.0.1")
    for limit in (SIZE, 0):
        assert load_dataset(copy, "mnist", memory_limit=limit).train.count == 600


def test_the_fingerprint_is_over_images_then_labels(prepared: Path) -> None:
    """The SHA-256 of a split is over the bytes of all images, then one byte for each label."""
    found = load_dataset(prepared, "mnist", memory_limit=0)
    for split in ("train", "test"):
        rows = getattr(found, split)
        images, labels = rows.take(np.arange(rows.count))
        expected = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
        assert found.fingerprint[split]["sha256"] == expected


@pytest.mark.parametrize("limit", [SIZE, 0])
def test_loading_imports_neither_tensorflow_nor_tfds(prepared: Path, limit: int) -> None:
    """A start needs only NumPy."""
    program = (
        "import sys, pathlib, job.dataset.rows\n"
        f"job.dataset.rows.load_dataset(pathlib.Path({str(prepared)!r}), 'mnist', memory_limit={limit})\n"
        "print({'tensorflow', 'tensorflow_datasets', 'array_record', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_missing_dataset_is_66_with_the_remedy(tmp_path: Path) -> None:
    """The sentence names the folder and the command that prepares the dataset."""
    error = failure(tmp_path / "my data", "kmnist")
    assert (error.code, str(error)) == (
        Exit.DATA_MISSING,
        (
            f"there is no dataset kmnist in {tmp_path}/my data; "
            f"run `python -m job data --data '{tmp_path}/my data' --dataset kmnist`"
        ),
    )


def test_a_missing_dataset_that_nothing_can_prepare_is_64(prepared: Path) -> None:
    """The name is a wrong flag; the known ones are listed."""
    error = failure(prepared, "mnits")
    assert (error.code, str(error)) == (
        Exit.USAGE,
        "--dataset must be one of mnist, fashion_mnist, kmnist, not 'mnits'",
    )


def test_a_folder_without_fingerprint_is_65_with_the_remedy(copy: Path) -> None:
    """A folder of TensorFlow Datasets is refused until it is fingerprinted."""
    (copy / "mnist/fingerprint.json").unlink()
    error = failure(copy)
    assert (error.code, str(error)) == (
        Exit.DATA_DAMAGED,
        f"{copy}/mnist has no fingerprint.json; run `python -m job data --data {copy} --dataset mnist`",
    )


def test_another_dataset_in_the_place_is_65(copy: Path) -> None:
    """A renamed folder does not count as the dataset of its new name."""
    (copy / "mnist").rename(copy / "kmnist")
    error = failure(copy, "kmnist")
    assert (error.code, error.message) == (Exit.DATA_DAMAGED, f"{copy}/kmnist holds the dataset 'mnist', not 'kmnist'")


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Remove the last byte of a file."""
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    """Empty a file."""
    path.write_bytes(b"")


def longer(path: Path) -> None:
    """Replace an array by one of another shape."""
    np.save(path, np.zeros((601, 28, 28), np.uint8))


def objects(path: Path) -> None:
    """Replace an array by one of Python objects, which could run code."""
    np.save(path, np.array([{}] * 600), allow_pickle=True)


def header(path: Path) -> None:
    """Change a bracket of an array's header, which Python's tokenizer reads."""
    path.write_bytes(path.read_bytes().replace(b"(600,", b"[600,", 1))


@pytest.mark.parametrize("limit", [SIZE, 0])
@pytest.mark.parametrize(
    ("damage", "file", "words"),
    [
        (header, "decoded/train-images.npy", "the train arrays in {decoded} are damaged ("),
        (flip, "decoded/train-images.npy", "the train arrays in {decoded} have the SHA-256 "),
        (flip, "decoded/test-labels.npy", "the test arrays in {decoded} have the SHA-256 "),
        (cut, "decoded/train-images.npy", "the train arrays in {decoded} are damaged (train-images.npy is truncated)"),
        (empty, "decoded/train-labels.npy", "the train arrays in {decoded} are damaged ("),
        (
            longer,
            "decoded/train-images.npy",
            "the train arrays in {decoded} are damaged (train-images.npy is not an array of 600 x 28 x 28 bytes)",
        ),
        (
            objects,
            "decoded/train-labels.npy",
            "the train arrays in {decoded} are damaged (train-labels.npy is not an array of 600 bytes)",
        ),
        (Path.unlink, "decoded/test-images.npy", "{decoded}/test-images.npy is missing"),
        (empty, "fingerprint.json", "{place}/fingerprint.json is damaged"),
    ],
)
def test_damaged_arrays_are_65(copy: Path, damage: Callable[[Path], None], file: str, words: str, limit: int) -> None:
    """A changed bit, a missing byte, another array or a missing file is found and named, in memory and on disk."""
    place = copy / "mnist"
    damage(place / file)
    error = failure(copy, memory_limit=limit)
    assert error.code == Exit.DATA_DAMAGED
    assert error.message.startswith(words.format(decoded=place / "decoded", place=place))
    assert error.hint == f"move {place} away and run `python -m job data --data {copy} --dataset mnist`"


def change(content: dict[str, Any], path: str, value: object) -> None:
    """Set, or with None remove, the value at a path like train/count."""
    *parents, last = path.split("/")
    for parent in parents:
        content = content[parent]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dataset", None),
        ("version", 3),
        ("classes", [0, 1]),
        ("shape", [28]),
        ("shape", [28, "28"]),
        ("train", None),
        ("train/count", "600"),
        ("train/count", 0),
        ("test/sha256", None),
        ("test/files", ["a"]),
    ],
)
def test_a_damaged_fingerprint_is_65(copy: Path, path: str, value: object) -> None:
    """A missing value, or one of the wrong type, is found on reading."""
    file = copy / "mnist/fingerprint.json"
    content = json.loads(file.read_bytes())
    change(content, path, value)
    file.write_text(json.dumps(content))
    error = failure(copy)
    assert (error.code, error.message) == (Exit.DATA_DAMAGED, f"{file} is damaged")


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (errno.EACCES, Exit.DATA_MISSING, "{file} cannot be read: Permission denied"),
        (errno.ENOTDIR, Exit.DATA_MISSING, "{file} cannot be read: Not a directory"),
        (errno.EIO, Exit.TRY_AGAIN, "{file} could not be read: Input/output error"),
        (errno.ESTALE, Exit.TRY_AGAIN, "{file} could not be read: Stale file handle"),
        (errno.ENOTCONN, Exit.TRY_AGAIN, "{file} could not be read: Transport endpoint is not connected"),
    ],
)
def test_refusals_of_the_system_have_their_own_codes(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: Exit, message: str
) -> None:
    """A file that may not be read is 66; a failing volume is 75, since it may recover."""

    def refuse(path: Path) -> bytes:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    error = failure(prepared)
    assert (error.code, error.message) == (code, message.format(file=prepared / "mnist/fingerprint.json"))


def test_a_lack_of_memory_is_not_damage(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset can be sound."""

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr(np.lib.format, "read_magic", refuse)
    error = failure(prepared)
    assert (error.code, error.message) == (Exit.OUT_OF_MEMORY, "memory ran out: MemoryError: Unable to allocate 3 GiB")


@pytest.mark.parametrize(
    ("number", "code", "reason", "sentence"),
    [
        (errno.EIO, Exit.TRY_AGAIN, "dataset-io", "{} could not be read: Input/output error; start the run again"),
        (errno.EACCES, Exit.DATA_MISSING, "dataset-unreadable", "{} cannot be read: Permission denied; "),
    ],
)
def test_a_disk_that_fails_while_images_are_read(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: Exit, reason: str, sentence: str
) -> None:
    """A failing disk may recover; the file is named."""
    rows = load_dataset(prepared, "mnist", memory_limit=0).train

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(JobError) as caught:
        rows.take(np.arange(3))
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert str(caught.value).startswith(sentence.format(prepared / "mnist/decoded/train-images.npy"))


def test_a_file_that_becomes_shorter_while_it_is_read(copy: Path) -> None:
    """The worker leaves with 75, and its next start finds the damage; a memory map would end it with SIGBUS."""
    file = copy / "mnist/decoded/train-images.npy"
    rows = load_dataset(copy, "mnist", memory_limit=0).train
    cut(file)
    assert rows.take(np.arange(599))[0].shape == (599, 28, 28)
    with pytest.raises(JobError) as caught:
        rows.take(np.arange(600))
    assert (caught.value.code, str(caught.value)) == (
        Exit.TRY_AGAIN,
        f"{file} could not be read: the file has become shorter; start the run again",
    )
    assert failure(copy, memory_limit=0).code == Exit.DATA_DAMAGED


def test_images_beyond_4_gib_of_a_file(tmp_path: Path) -> None:
    """Indices may be narrower than positions in a file. The file has a hole, so it takes no space on the disk."""
    shape, last = (1 << 23, 28, 28), (1 << 23) - 1
    file = tmp_path / "images.npy"
    with file.open("wb") as stream:
        stream.seek(64 + last * 784)
        stream.write(bytes([7]) * 784)
    images = ImagesOnDisk(file, os.open(file, os.O_RDONLY), 64, shape)
    found = images[np.array([last, 0, last], np.int32)]
    assert found.reshape(3, -1).max(axis=1).tolist() == found.reshape(3, -1).min(axis=1).tolist() == [7, 0, 7]


def test_the_file_is_closed_with_its_images(prepared: Path) -> None:
    """A process that loads many datasets does not run out of descriptors."""
    file = prepared / "mnist/decoded/train-images.npy"
    descriptor = os.open(file, os.O_RDONLY)
    images = ImagesOnDisk(file, descriptor, 128, (600, 28, 28))
    del images
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
