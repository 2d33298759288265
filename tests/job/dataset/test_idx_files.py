"""Tests of finding the four IDX files under the names that they have in practice, and of the errors."""

from __future__ import annotations

import gzip
import os
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from job.config import Config
from job.dataset import idx, published
from job.dataset.idx_files import COUNTS
from job.dataset.prepare import prepare_dataset
from job.errors import Exit, JobError
from job.system.files import sha256
from tests.fixtures import Digits, synthetic, write_idx

if TYPE_CHECKING:
    from pathlib import Path

DIGITS = synthetic(20, 10)
OTHERS = synthetic(20, 10, seed=1)
NO_IDX = "is not an IDX file of bytes in 3 dimension(s): it begins with"
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (name for names in idx.FILES.values() for name in names)


@pytest.fixture
def contents(tmp_path: Path) -> dict[str, bytes]:
    """The four files' content by their published names."""
    return {name: path.read_bytes() for name, path in write_idx(tmp_path / "published", *DIGITS).items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that --from-idx names."""
    return tmp_path / "downloaded"


def put(path: Path, content: bytes) -> None:
    """Write a file, and make its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def is_read(folder: Path, digits: Digits = DIGITS) -> bool:
    """Whether these digits are found in a folder."""
    found = idx.read_idx(folder)
    arrays = [*found["train"], *found["test"]]
    return all(np.array_equal(array, expected) for array, expected in zip(arrays, digits, strict=True))


def refusal(folder: Path) -> JobError:
    """Why a folder is refused."""
    with pytest.raises(JobError) as caught:
        idx.read_idx(folder)
    return caught.value


@pytest.mark.parametrize(
    "form",
    [
        "{name}",
        "{name}.gz",
        "{dotted}",
        "{dotted}.gz",
        "{name}/{name}",
        "{dotted}/{dotted}",
        "{name}/{dotted}",
        "archive/MNIST/raw/{name}",
        "{upper}",
        "{upper}.GZ",
        "mnist_{name} (1)",
        "latest-{name}.bin",
        "{split}/{kind}",
        "{split}ing set/{kind}.idx",
        "{split}/latest/{kind}.idx",
        "{number}.idx/{split}_{number}",
    ],
)
@pytest.mark.parametrize("packed", [0, 1, 2])
def test_names_in_practice(form: str, packed: int, folder: Path, contents: dict[str, bytes]) -> None:
    """Dots for dashes, folders with the files' names, capitals; compressed or not, whatever the suffix."""
    for number, (name, content) in enumerate(contents.items()):
        dotted = name.replace("-idx", ".idx")
        split, kind, *_ = name.replace("t10k", "test").split("-")
        for _ in range(packed):
            content = gzip.compress(content)  # noqa: PLW2901 - packed again
        path = form.format(name=name, dotted=dotted, upper=name.upper(), split=split, kind=kind, number=number)
        put(folder / path, content)
    assert is_read(folder)


def test_the_counts_of_the_published_files_say_the_split(folder: Path) -> None:
    """If names do not tell the split, 60,000 examples are for training and 10,000 for the test."""
    digits = synthetic(*COUNTS)
    for name, path in write_idx(folder, *digits).items():
        path.rename(folder / f"{'ab'['t10k' in name]}-{name.split('-')[1]}")
    assert is_read(folder, digits)


def test_the_same_file_may_be_there_twice(folder: Path, contents: dict[str, bytes]) -> None:
    """Compressed and uncompressed, as a link, beside a damaged one, and beside files of another kind."""
    for name, content in contents.items():
        put(folder / name, content)
        put(folder / f"{name}.gz", gzip.compress(content))
        (folder / f"link-{name}").symlink_to(folder / name)
    put(folder / f"again-{TRAIN_IMAGES}.gz", gzip.compress(contents[TRAIN_IMAGES])[:-9])
    put(folder / f"again-{TEST_LABELS}", contents[TEST_LABELS][:-1])
    put(folder / f"._{TRAIN_IMAGES}", b"\0\5\x16\7")
    put(folder / f"{TRAIN_IMAGES}.md5", b"6bbc9ace898e44ae57da46a324031adb")
    put(folder / "mnist_train.csv", b"5,0,0")
    os.mkfifo(folder / "train-pipe")
    (folder / "train-nothing").symlink_to(folder / "nowhere")
    (folder / "train-itself").symlink_to(folder / "train-itself")
    assert is_read(folder)


def test_files_in_the_folder_come_before_those_below(folder: Path, contents: dict[str, bytes]) -> None:
    """Another dataset in a subfolder is not read."""
    write_idx(folder / "other", *OTHERS)
    for name, content in contents.items():
        put(folder / name, content)
    assert is_read(folder)


def test_folders_whose_links_form_a_loop_are_searched_once(folder: Path, contents: dict[str, bytes]) -> None:
    """A part that is not in the folder itself is found in a subfolder."""
    for name, content in contents.items():
        put(folder / ("below" if name == TRAIN_IMAGES else ".") / name, content)
    (folder / "below" / "circle").symlink_to(folder)
    assert is_read(folder)


def test_two_datasets_are_not_mixed(folder: Path) -> None:
    """Both files are named, with 64."""
    write_idx(folder / "MNIST" / "raw", *DIGITS)
    write_idx(folder / "FashionMNIST" / "raw", *OTHERS)
    error = refusal(folder)
    assert (error.code, error.reason) == (Exit.USAGE, "idx-ambiguous")
    assert error.message == (
        f"{folder}/FashionMNIST/raw/{TRAIN_IMAGES} and {folder}/MNIST/raw/{TRAIN_IMAGES} could both be the same part "
        "of the dataset, but they differ"
    )
    assert is_read(folder / "MNIST")


def test_what_is_there_is_named_if_a_part_is_missing(folder: Path, contents: dict[str, bytes]) -> None:
    """66, with the parts that are missing and the files that are there."""
    folder.mkdir()
    everything = "training images, training labels, test images, test labels"
    assert refusal(folder).message == f"{folder} has no {everything}: it has no files"
    put(folder / "archive.zip", b"PK")
    assert refusal(folder).message == f"{folder} has no {everything}: it has archive.zip"
    put(folder / "raw" / "train-images.idx3-ubyte", contents[TRAIN_IMAGES])
    put(folder / "raw" / "images", contents[TEST_IMAGES])
    error = refusal(folder)
    assert (error.code, error.reason) == (Exit.DATA_MISSING, "idx-missing")
    missing = "training labels, test images, test labels"
    assert error.message == (f"{folder} has no {missing}: it has archive.zip, raw/images, raw/train-images.idx3-ubyte")
    assert "extract archives" in error.hint
    for number in range(20):
        put(folder / f"{number:02}", b"")
    assert refusal(folder).message.endswith(": it has 00, 01, 02, 03, 04, 05, 06, 07 and 15 more")
    error = refusal(folder / "archive.zip")
    assert (error.code, error.message) == (Exit.DATA_MISSING, f"{folder}/archive.zip is not a folder")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is truncated: its 0 bytes are less than a header"),
        (b"version https://git-lfs", f"{NO_IDX} 76657273"),
        (struct.pack(">HBB4I", 0, 13, 3, 1, 1, 1, 0), f"{NO_IDX} 00000d03"),
        (struct.pack(">HBB4I", 0, 8, 2, 1, 1, 1, 0), f"{NO_IDX} 00000802"),
        (
            b"\x1f\x8b\x08\x00",
            "is truncated or damaged: Compressed file ended before the end-of-stream marker was reached",
        ),
    ],
)
def test_a_file_whose_name_alone_fits_is_named(
    content: bytes, fault: str, folder: Path, contents: dict[str, bytes]
) -> None:
    """65, with what it holds instead: a page, a pointer, nothing, or another kind of IDX file."""
    for name in (TRAIN_LABELS, TEST_IMAGES, TEST_LABELS):
        put(folder / name, contents[name])
    put(folder / "train-images.idx3-ubyte", content)
    error = refusal(folder)
    assert (error.code, error.message) == (Exit.DATA_DAMAGED, f"{folder}/train-images.idx3-ubyte {fault}")


def test_labels_under_the_name_of_images_are_no_images(folder: Path, contents: dict[str, bytes]) -> None:
    """The content decides, not the name."""
    for name, content in contents.items():
        put(folder / name, contents[TRAIN_LABELS] if name == TRAIN_IMAGES else content)
    message = f"{folder}/{TRAIN_IMAGES} is not an IDX file of bytes in 3 dimension(s): it begins with 00000801"
    assert refusal(folder).message == message


def digests(digits: Digits) -> dict[str, str]:
    """The SHA-256 of each file that holds these digits, by its published name."""
    names = [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS]
    return {name: idx.sha256(array) for name, array in zip(names, digits, strict=True)}


@pytest.mark.parametrize(
    ("name", "digits", "difference"),
    [
        ("mnist", DIGITS, ""),
        ("fashion_mnist", OTHERS, ""),
        ("mnist", OTHERS, "the published ones of fashion_mnist, not of mnist"),
        ("kmnist", DIGITS, "the published ones of mnist, not of kmnist"),
        ("mnist", DIGITS._replace(test_labels=OTHERS.test_labels[::-1]), "not the published ones of mnist"),
        ("kmnist", synthetic(20, 10, seed=2), ""),
    ],
)
def test_a_warning_about_files_that_are_not_the_published_ones(
    name: str, digits: Digits, difference: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are prepared nevertheless. Two small datasets stand in for the published ones."""
    monkeypatch.setattr(published, "PUBLISHED", {"mnist": digests(DIGITS), "fashion_mnist": digests(OTHERS)})
    write_idx(folder, *digits)
    reported: list[str] = []
    prepare_dataset(Config(data=tmp_path / "data", dataset=name), folder, reported.append)
    consequence = f"training, reports and `predict` still treat them as {name}; if this is not what you "
    consequence += f"want, move {tmp_path}/data/{name} away"
    warnings = [line for line in reported if line.startswith("warning: ")]
    assert warnings == [
        f"warning: the files in {folder} are {difference}; {consequence}" for _ in range(bool(difference))
    ]


def test_the_sha_256_is_that_of_the_file(tmp_path: Path) -> None:
    """The file with its header, uncompressed."""
    files = write_idx(tmp_path, *DIGITS)
    assert digests(DIGITS) == {name: sha256(path) for name, path in files.items()}
