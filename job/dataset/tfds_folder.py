"""The standard folder of TensorFlow Datasets: downloaded by it or written from arrays, then read and fingerprinted.

tensorflow_datasets is imported inside the functions: it takes 0.3 s, and a dataset that is prepared does without it.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from job.dataset.download import UnavailableError
from job.dataset.fingerprint import FINGERPRINT, SPLITS, check_dataset_name, damaged_dataset
from job.dataset.rows import (
    DECODED,
    MEMORY_LIMIT,
    RANDOM_ACCESS,
    decoded_bytes,
    first_line,
    rows_in_memory,
    rows_on_disk,
)
from job.error_table import errors_from, find_os_error, kind_of
from job.errors import Exit, JobError
from job.system.files import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from job.dataset.idx import Bytes
    from job.dataset.rows import Rows

VERSION = re.compile(r"\d+\.\d+\.\d+")
CHUNK = 1000  # rows that are decoded, hashed and copied at a time


def download_address(name: str) -> str:
    """The URL of one of the files that TensorFlow Datasets would download for a dataset."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls(name)
    first: str = min(url for url in builder.url_infos if url.startswith(builder.URL))
    return first


def download_dataset(name: str, data: Path, raw: Path) -> None:
    """Let TensorFlow Datasets download into `raw` and prepare `data`/NAME; its progress bars go to a terminal.

    Raises:
        UnavailableError: the download failed.
        JobError: 65 if the files are not those that TensorFlow Datasets expects.
        OSError: the folder cannot be written.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    host = urlsplit(download_address(name)).netloc
    try:
        with _tfds_output(progress=sys.stderr.isatty()):
            builder = tfds.builder(name, data_dir=data, file_format=RANDOM_ACCESS)
            builder.download_and_prepare(download_dir=raw)
    except NonMatchingChecksumError as error:
        message = f"the download of {name} from {host} does not have the SHA-256 that TensorFlow Datasets expects"
        hint = "give the four raw files with --from-idx FOLDER"
        raise JobError(Exit.DATA_DAMAGED, "download-damaged", message, hint) from error
    except Exception as error:
        if (found := find_os_error(error)) and kind_of(found) in {"passing", "unwritable"}:
            raise found from error
        raise UnavailableError(f"the download from {host} failed ({first_line(error)})") from error


def write_dataset(name: str, splits: Mapping[str, tuple[Bytes, Bytes]], data: Path) -> None:
    """Prepare `data`/NAME as TensorFlow Datasets does after its download: same features, same order.

    Args:
        name: TensorFlow Datasets' name of the dataset, of MNIST's family.
        splits: for `train` and `test`, images uint8 [count, 28, 28] and labels uint8 [count].
        data: the folder to make NAME in.

    Raises:
        OSError: the folder cannot be written.
        RuntimeError: the same, in the words of array_record.
    """
    import tensorflow_datasets as tfds

    def examples(images: Bytes, labels: Bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        # With the keys of the published builder: TensorFlow Datasets orders examples by the hash of their keys.
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            # Encoded here: TensorFlow Datasets would import TensorFlow to encode an array.
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png")
            yield key, {"image": png.getvalue(), "label": int(label)}

    def split_generators(_self: object, _download: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: examples(*arrays) for split, arrays in splits.items()}

    published = tfds.builder_cls(name)
    with tfds.core.registered.skip_registration():  # the published builder, with another source of rows
        builder = type(published.__name__, (published,), {"name": name, "_split_generators": split_generators})
    with _tfds_output(progress=False):
        builder(data_dir=data, file_format=RANDOM_ACCESS).download_and_prepare()


def write_fingerprint(folder: Path, name: str, out: Path) -> None:
    """Read all rows of `folder`/NAME, and write fingerprint.json and, within the limit, the decoded arrays to `out`.

    Raises:
        JobError: 65 if the dataset is damaged, is another one, has a label that is not a class, or is too large to be
            decoded and in a format without random access; 75 or 66 if the file system does not let it be read.
        OSError: `out` cannot be written.
    """
    import tensorflow_datasets as tfds

    version = _newest(folder / name)
    try:
        with errors_from("dataset", version):
            builder = tfds.builder_from_directory(version)
            info = builder.info
            check_dataset_name(folder / name, name, info.name)
            fingerprint: dict[str, Any] = {
                "dataset": name,
                "version": version.name,
                "format": info.file_format.value,
                "classes": list(info.features["label"].names),
                "shape": list(info.features["image"].shape[:2]),
                **{split: {"count": info.splits[split].num_examples} for split in SPLITS},
            }
            keep = decoded_bytes(fingerprint) <= MEMORY_LIMIT
            arrays: dict[str, Bytes] = {}
            for split in SPLITS:
                rows = _open_rows(builder, version, split, fingerprint)
                rows_sha256, images, labels = _hash_rows(rows, split, len(fingerprint["classes"]), keep=keep)
                files = [Path(path) for path in info.splits[split].filepaths]
                fingerprint[split]["sha256"] = rows_sha256
                fingerprint[split]["files"] = {f"{version.name}/{file.name}": sha256(file) for file in files}
                arrays |= {f"{split}-images.npy": images, f"{split}-labels.npy": labels}
    except JobError:
        raise
    except Exception as error:  # tfds, array_record and Pillow raise exceptions of many kinds
        message = f"{version} cannot be read as a dataset ({first_line(error)})"
        raise damaged_dataset(folder, name, message) from error
    if keep:
        (out / DECODED).mkdir()
        for file_name, array in arrays.items():
            np.save(out / DECODED / file_name, array)
    (out / FINGERPRINT).write_text(json.dumps(fingerprint, indent=2) + "\n")


def _newest(place: Path) -> Path:
    """The newest finished version; unfinished ones have other names."""
    versions = [path.parent for path in place.glob("*/dataset_info.json") if VERSION.fullmatch(path.parent.name)]
    if not versions:
        message = f"{place} holds no dataset of TensorFlow Datasets"
        hint = "move it away, or choose another folder with --data"
        raise JobError(Exit.DATA_DAMAGED, "dataset-other", message, hint)
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def _open_rows(builder: Any, version: Path, split: str, fingerprint: Mapping[str, Any]) -> Rows:
    import tensorflow_datasets as tfds

    rows, columns = fingerprint["shape"]
    count = fingerprint[split]["count"]
    if fingerprint["format"] == RANDOM_ACCESS:
        return rows_on_disk(version, split, count, (rows, columns))
    if decoded_bytes(fingerprint) > MEMORY_LIMIT:
        raise ValueError(f"its {fingerprint['format']} files have no random access, and it is too large for memory")
    # One shard after another, as in random access. This imports TensorFlow: nothing else reads TFRecord files.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    images, labels = np.empty((count, rows, columns), np.uint8), np.empty(count, np.int32)
    read = -1
    for read, example in enumerate(tfds.as_numpy(builder.as_dataset(split, read_config=config))):
        images[read], labels[read] = example["image"][..., 0], example["label"]
    if read + 1 != count:
        raise ValueError(f"{read + 1} {split} examples instead of {count}")
    return rows_in_memory(images, labels)


def _hash_rows(rows: Rows, split: str, classes: int, *, keep: bool) -> tuple[str, Bytes, Bytes]:
    """Read all rows of a split: their SHA-256, images and labels, both uint8; images only with `keep`."""
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
    """Hide what TensorFlow Datasets prints, which names temporary folders; show its progress bars if asked."""
    import tensorflow_datasets as tfds

    (tfds.enable_progress_bar if progress else tfds.disable_progress_bar)()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
