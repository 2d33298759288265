"""Tests of a prepared dataset: memory and disk give the same rows, and damaged or other data is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.data_sources.array_record import ArrayRecordDataSource

from job.dataset.rows import IMPORTING, decoded_bytes, load_dataset
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
    assert (memory.name, memory.classes, memory.fingerprint) == (disk.name, disk.classes, disk.fingerprint)


def test_rows_in_memory_are_arrays_too(prepared: Path) -> None:
    """Rows on disk have no arrays."""
    memory, disk = load_dataset(prepared, "mnist").train, load_dataset(prepared, "mnist", memory_limit=0).train
    assert memory.images is not None
    assert memory.labels is not None
    images, labels = memory.take(np.arange(600))
    np.testing.assert_array_equal(memory.images, images)
    np.testing.assert_array_equal(memory.labels, labels)
    assert (disk.images, disk.labels) == (None, None)


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
    assert [rows.images is not None for rows in (found.train, found.test)] == [in_memory] * 2


def test_rows_come_from_disk_if_none_are_decoded(copy: Path) -> None:
    """A dataset that was too large to be decoded is read from its example files."""
    shutil.rmtree(copy / "mnist/decoded")
    assert load_dataset(copy, "mnist").train.images is None


def test_decoded_rows_need_no_example_files(copy: Path) -> None:
    """The image has only the decoded arrays of a dataset."""
    shutil.rmtree(copy / "mnist/3.0.1")
    assert load_dataset(copy, "mnist").train.images is not None


def test_the_fingerprint_is_over_images_then_labels(prepared: Path) -> None:
    """The SHA-256 of a split is over the bytes of all images, then one byte for each label."""
    found = load_dataset(prepared, "mnist", memory_limit=0)
    for split in ("train", "test"):
        rows = getattr(found, split)
        images, labels = rows.take(np.arange(rows.count))
        expected = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
        assert found.fingerprint[split]["sha256"] == expected


def test_loading_into_memory_imports_neither_tensorflow_nor_tfds(prepared: Path) -> None:
    """The usual path of a start needs only NumPy."""
    program = (
        "import sys, pathlib, job.dataset.rows\n"
        f"job.dataset.rows.load_dataset(pathlib.Path({str(prepared)!r}), 'mnist')\n"
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


@pytest.mark.parametrize(
    ("damage", "file", "words"),
    [
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
def test_damaged_arrays_are_65(copy: Path, damage: Callable[[Path], None], file: str, words: str) -> None:
    """A changed bit, a missing byte, another array or a missing file is found and named."""
    place = copy / "mnist"
    damage(place / file)
    error = failure(copy)
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


def test_a_wrong_count_in_the_fingerprint_is_65(copy: Path) -> None:
    """It is found with rows in memory and on disk."""
    file = copy / "mnist/fingerprint.json"
    content = json.loads(file.read_bytes())
    change(content, "test/count", 199)
    file.write_text(json.dumps(content))
    memory, disk = failure(copy), failure(copy, memory_limit=0)
    assert (memory.code, disk.code) == (Exit.DATA_DAMAGED,) * 2
    assert memory.message.endswith("(test-images.npy is not an array of 199 x 28 x 28 bytes)")
    assert disk.message == f"{copy}/mnist/3.0.1 cannot be read as a dataset (200 test examples instead of 199)"


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_damaged_example_files_are_65(copy: Path, damage: Callable[[Path], None]) -> None:
    """For rows on disk, the example files are verified."""
    file = next((copy / "mnist/3.0.1").glob("mnist-train.array_record*"))
    damage(file)
    error = failure(copy, memory_limit=0)
    assert error.code == Exit.DATA_DAMAGED
    assert error.message.startswith(f"{file} ")


def test_damaged_metadata_is_65_for_rows_on_disk(copy: Path) -> None:
    """One sentence says that TensorFlow Datasets cannot open it."""
    (copy / "mnist/3.0.1/features.json").write_text("{")
    error = failure(copy, memory_limit=0)
    assert error.code == Exit.DATA_DAMAGED
    assert error.message.startswith(f"{copy}/mnist/3.0.1 cannot be read as a dataset (")


def test_files_without_random_access_are_65_for_rows_on_disk(copy: Path) -> None:
    """TFRecord files can be adopted, but only into memory."""
    file = copy / "mnist/fingerprint.json"
    file.write_text(file.read_text().replace('"format": "array_record"', '"format": "tfrecord"'))
    error = failure(copy, memory_limit=0)
    assert (error.code, error.message) == (
        Exit.DATA_DAMAGED,
        f"{copy}/mnist has tfrecord files, which have no random access",
    )


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


def test_rows_on_disk_are_not_opened_while_tensorflow_is_imported(prepared: Path) -> None:
    """tensorflow_datasets would remove parts of the modules that another thread imports."""
    with ThreadPoolExecutor(1) as pool:
        with IMPORTING:
            loading = pool.submit(load_dataset, prepared, "mnist", memory_limit=0)
            assert not wait([loading], 1.0).done
        assert loading.result().train.images is None


def failing(number: int, *, in_words: bool) -> Callable[..., Any]:
    """A function that fails as the system does, or as array_record repeats that."""

    def fail(*_: object, **__: object) -> None:
        words = os.strerror(number)
        raise RuntimeError(f"pread() failed: {words}; at byte 64") if in_words else OSError(number, words, "/file")

    return fail


@pytest.mark.parametrize("in_words", [False, True])
@pytest.mark.parametrize(("number", "code"), [(errno.EIO, Exit.TRY_AGAIN), (errno.EACCES, Exit.DATA_MISSING)])
@pytest.mark.parametrize("attribute", ["builder_from_directory", "as_data_source"])
def test_a_disk_that_fails_while_the_rows_are_opened_is_not_damage(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, number: int, code: Exit, *, in_words: bool
) -> None:
    """The files were not read, so their content may be intact."""
    owner = tfds if attribute == "builder_from_directory" else tfds.core.DatasetBuilder
    monkeypatch.setattr(owner, attribute, failing(number, in_words=in_words))
    error = failure(prepared, memory_limit=0)
    assert error.code == code
    assert error.reason == ("dataset-io" if code == Exit.TRY_AGAIN else "dataset-unreadable")


def test_a_lack_of_memory_is_not_damage(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset can be sound."""

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", refuse)
    error = failure(prepared, memory_limit=0)
    assert (error.code, error.message) == (Exit.OUT_OF_MEMORY, "memory ran out: MemoryError: Unable to allocate 3 GiB")


def test_a_disk_that_fails_while_rows_are_streamed_may_recover(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """array_record reads in native code, and repeats the system's error in words."""
    rows = load_dataset(prepared, "mnist", memory_limit=0).train
    monkeypatch.setattr(ArrayRecordDataSource, "__getitems__", failing(errno.EIO, in_words=True))
    with pytest.raises(JobError) as caught:
        rows.take(np.arange(3))
    assert (caught.value.code, caught.value.reason) == (Exit.TRY_AGAIN, "dataset-io")
    [version] = [path for path in (prepared / "mnist").iterdir() if path.name[0].isdigit()]
    assert str(caught.value) == f"{version} could not be read: Input/output error; start the run again"
