"""The standard TensorFlow Datasets folder: downloaded by it, or written from arrays, then read and fingerprinted.

tensorflow_datasets is imported where it is used: it takes 0.3 s, which a dataset that is prepared need not cost.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from job.dataset import rows as datasets
from job.dataset.download import UnavailableError
from job.dataset.fingerprint import FINGERPRINT, SPLITS, check_name, damaged
from job.errors import Exit, JobError
from job.system.files import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from job.dataset.idx import Bytes
    from job.dataset.rows import Rows

VERSION = re.compile(r"\d+\.\d+\.\d+")
CHUNK = 1000  # rows that are decoded, hashed and copied at a time


def address(name: str) -> str:
    """One of the files that TensorFlow Datasets would download for a dataset."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls(name)
    first: str = min(url for url in builder.url_infos if url.startswith(builder.URL))
    return first


def download(name: str, data: Path, raw: Path) -> None:
    """Let TensorFlow Datasets download into `raw` and prepare `data`/NAME; its progress bars go to a terminal.

    Raises:
        UnavailableError: the download failed.
        JobError: 65 when it brought something else than TensorFlow Datasets expects.
        OSError: the folder cannot be written.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    host = urlsplit(address(name)).netloc
    try:
        with _tfds_output(progress=sys.stderr.isatty()):
            builder = tfds.builder(name, data_dir=data, file_format=datasets.RANDOM_ACCESS)
            builder.download_and_prepare(download_dir=raw)
    except NonMatchingChecksumError as error:
        message = f"what {host} sent for {name} has another SHA-256 than TensorFlow Datasets expects"
        hint = "give the four raw files with --from-idx FOLDER"
        raise JobError(Exit.DATA_DAMAGED, "download-damaged", message, hint) from error
    except Exception as error:
        _raise_if_unwritable(error)
        raise UnavailableError(f"the download from {host} failed ({datasets.first_line(error)})") from error


def write(name: str, splits: Mapping[str, tuple[Bytes, Bytes]], data: Path) -> None:
    """Prepare `data`/NAME as TensorFlow Datasets does after its download: same features, same order.

    Args:
        name: TensorFlow Datasets' name of the dataset, of MNIST's family.
        splits: for `train` and `test`, images uint8 [count, 28, 28] and labels uint8 [count].
        data: the folder to make NAME in.

    Raises:
        OSError: the folder cannot be written.
    """
    import tensorflow_datasets as tfds

    def examples(images: Bytes, labels: Bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        # The published builder's keys: TensorFlow Datasets orders examples by the hash of their keys.
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            # A PNG already: to encode an array, TensorFlow would be imported.
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png")
            yield key, {"image": png.getvalue(), "label": int(label)}

    def split_generators(_self: object, _download: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: examples(*arrays) for split, arrays in splits.items()}

    published = tfds.builder_cls(name)
    with tfds.core.registered.skip_registration():  # it is the published builder but for where its rows are from
        builder = type(published.__name__, (published,), {"name": name, "_split_generators": split_generators})
    try:
        with _tfds_output(progress=False):
            builder(data_dir=data, file_format=datasets.RANDOM_ACCESS).download_and_prepare()
    except Exception as error:
        _raise_if_unwritable(error)
        raise


def describe(folder: Path, name: str, out: Path) -> None:
    """Read all rows of `folder`/NAME and write fingerprint.json and, below the limit, the decoded arrays into `out`.

    Raises:
        JobError: 65 when it cannot be read, is another dataset, has a label that is no class, or is too large to be
            decoded and in a format without random access.
        OSError: `out` cannot be written.
    """
    import tensorflow_datasets as tfds

    version = _newest(folder / name)
    try:
        builder = tfds.builder_from_directory(version)
        info = builder.info
        check_name(folder / name, name, info.name)
        fingerprint: dict[str, Any] = {
            "dataset": name,
            "version": version.name,
            "format": info.file_format.value,
            "classes": list(info.features["label"].names),
            "shape": list(info.features["image"].shape[:2]),
            **{split: {"count": info.splits[split].num_examples} for split in SPLITS},
        }
        keep = datasets.decoded_bytes(fingerprint) <= datasets.MEMORY_LIMIT
        arrays: dict[str, Bytes] = {}
        for split in SPLITS:
            rows = _rows(builder, version, split, fingerprint)
            rows_sha256, images, labels = _read_through(rows, split, len(fingerprint["classes"]), keep=keep)
            files = [Path(path) for path in info.splits[split].filepaths]
            fingerprint[split]["sha256"] = rows_sha256
            fingerprint[split]["files"] = {f"{version.name}/{file.name}": sha256(file) for file in files}
            arrays |= {f"{split}-images.npy": images, f"{split}-labels.npy": labels}
    except JobError:
        raise
    except Exception as error:  # tfds, array_record and Pillow raise whatever their parsers do
        message = f"{version} cannot be read as a dataset ({datasets.first_line(error)})"
        raise damaged(folder, name, message) from error
    if keep:
        (out / datasets.DECODED).mkdir()
        for file_name, array in arrays.items():
            np.save(out / datasets.DECODED / file_name, array)
    (out / FINGERPRINT).write_text(json.dumps(fingerprint, indent=2) + "\n")


def _newest(place: Path) -> Path:
    """The newest version that TensorFlow Datasets has finished; its unfinished ones have other names."""
    found = [path.parent for path in place.glob("*/dataset_info.json") if VERSION.fullmatch(path.parent.name)]
    if not found:
        message = f"{place} is there, but holds no dataset of TensorFlow Datasets"
        hint = "move it away, or name another folder with --data"
        raise JobError(Exit.DATA_DAMAGED, "dataset-other", message, hint)
    return max(found, key=lambda path: [int(part) for part in path.name.split(".")])


def _rows(builder: Any, version: Path, split: str, fingerprint: Mapping[str, Any]) -> Rows:
    import tensorflow_datasets as tfds

    rows, columns = fingerprint["shape"]
    count = fingerprint[split]["count"]
    if fingerprint["format"] == datasets.RANDOM_ACCESS:
        return datasets.on_disk(version, split, count, (rows, columns))
    if datasets.decoded_bytes(fingerprint) > datasets.MEMORY_LIMIT:
        raise ValueError(f"its {fingerprint['format']} files have no random access, and it is too large for memory")
    # Shard after shard, the order of random access too. This imports TensorFlow, which alone reads TFRecord files.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    images, labels = np.empty((count, rows, columns), np.uint8), np.empty(count, np.int32)
    found = -1
    for found, example in enumerate(tfds.as_numpy(builder.as_dataset(split, read_config=config))):
        images[found], labels[found] = example["image"][..., 0], example["label"]
    if found + 1 != count:
        raise ValueError(f"{found + 1} {split} examples instead of {count}")
    return datasets.in_memory(images, labels)


def _read_through(rows: Rows, split: str, classes: int, *, keep: bool) -> tuple[str, Bytes, Bytes]:
    """SHA-256, images and labels of a split's rows, both uint8; without `keep`, no images."""
    digest = hashlib.sha256()
    images = np.empty((rows.count if keep else 0, *rows.shape), np.uint8)
    labels = np.empty(rows.count, np.uint8)
    for start in range(0, rows.count, CHUNK):
        chunk = slice(start, min(start + CHUNK, rows.count))
        some_images, some_labels = rows.take(np.arange(chunk.start, chunk.stop))
        if some_labels.min() < 0 or some_labels.max() >= classes:
            raise ValueError(f"a {split} label is not below {classes}")
        digest.update(some_images.data)
        labels[chunk] = some_labels
        if keep:
            images[chunk] = some_images
    digest.update(labels.data)
    return digest.hexdigest(), images, labels


@contextlib.contextmanager
def _tfds_output(*, progress: bool) -> Iterator[None]:
    """Keep off the screen what TensorFlow Datasets prints, which names temporary folders; progress bars may stay."""
    import tensorflow_datasets as tfds

    (tfds.enable_progress_bar if progress else tfds.disable_progress_bar)()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _raise_if_unwritable(error: Exception) -> None:
    """Make an OSError of one that says so, or of array_record's RuntimeError with the system's words in it."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
        told = isinstance(error, RuntimeError) and os.strerror(number) in str(error)
        if getattr(error, "errno", None) == number or told:
            raise OSError(number, os.strerror(number)) from error
