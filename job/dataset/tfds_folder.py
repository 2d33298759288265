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
from job.dataset.rows import DECODED
from job.error_table import errors_from, find_os_error, kind_of
from job.errors import Exit, JobError, first_line
from job.system.files import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from job.dataset.idx import Bytes

FORMAT = "array_record"  # of the example files that are written
VERSION = re.compile(r"\d+\.\d+\.\d+")
CHUNK = 1000  # records that are read at a time: one by one takes twice as long


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
            builder = tfds.builder(name, data_dir=data, file_format=FORMAT)
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
        builder(data_dir=data, file_format=FORMAT).download_and_prepare()


def write_fingerprint(folder: Path, name: str, out: Path) -> dict[str, Any]:
    """Read all rows of `folder`/NAME, and write them to `out` as arrays, and then fingerprint.json, which is returned.

    Rows are read and written in turn, so a dataset may be larger than memory.

    Raises:
        JobError: 65 if the dataset is damaged, is another one or has a label that is not a class; 75 or 66 if the file
            system does not let it be read.
        OSError: `out` cannot be written.
    """
    import tensorflow_datasets as tfds

    version = _newest(folder / name)
    with _damage(folder, name, version):
        builder = tfds.builder_from_directory(version)
        info = builder.info
        check_dataset_name(folder / name, name, info.name)
        fingerprint: dict[str, Any] = {
            "dataset": name,
            "version": version.name,
            "format": info.file_format.value,
            "classes": list(info.features["label"].names),
            "shape": list(info.features["image"].shape[:2]),
        }
        for split in SPLITS:
            files = [Path(path) for path in info.splits[split].filepaths]
            sums = {f"{version.name}/{file.name}": sha256(file) for file in files}
            fingerprint[split] = {"count": info.splits[split].num_examples, "sha256": "", "files": sums}
    (out / DECODED).mkdir()
    for split in SPLITS:
        rows = _read_rows(folder, name, builder, split, fingerprint)
        fingerprint[split]["sha256"] = _write_arrays(rows, split, fingerprint, out)
    (out / FINGERPRINT).write_text(json.dumps(fingerprint, indent=2) + "\n")
    return fingerprint


def _newest(place: Path) -> Path:
    """The newest finished version; unfinished ones have other names."""
    versions = [path.parent for path in place.glob("*/dataset_info.json") if VERSION.fullmatch(path.parent.name)]
    if not versions:
        message = f"{place} holds no dataset of TensorFlow Datasets"
        hint = "move it away, or choose another folder with --data"
        raise JobError(Exit.DATA_DAMAGED, "dataset-other", message, hint)
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])


@contextlib.contextmanager
def _damage(folder: Path, name: str, version: Path) -> Iterator[None]:
    """Raise JobError for an exception of reading the dataset; the body writes nothing."""
    try:
        with errors_from("dataset", version):
            yield
    except JobError:
        raise
    except Exception as error:  # tfds, array_record and Pillow raise exceptions of many kinds
        message = f"{version} cannot be read as a dataset ({first_line(error)})"
        raise damaged_dataset(folder, name, message) from error


def _write_arrays(rows: Iterator[tuple[Bytes, int]], split: str, fingerprint: Mapping[str, Any], out: Path) -> str:
    """Write the rows of a split to two .npy files; returns their SHA-256."""
    digest, labels = hashlib.sha256(), bytearray()
    shape = (fingerprint[split]["count"], *fingerprint["shape"])
    with (out / DECODED / f"{split}-images.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for image, label in rows:
            content = image.tobytes()
            digest.update(content)
            file.write(content)
            labels.append(label)
    digest.update(labels)
    np.save(out / DECODED / f"{split}-labels.npy", np.frombuffer(labels, np.uint8))
    return digest.hexdigest()


def _read_rows(
    folder: Path, name: str, builder: Any, split: str, fingerprint: Mapping[str, Any]
) -> Iterator[tuple[Bytes, int]]:
    """The images, uint8 [rows, columns], and labels of a split, in the order of its files, checked."""
    shape, classes = tuple(fingerprint["shape"]), len(fingerprint["classes"])
    read = _read_array_record if fingerprint["format"] == FORMAT else _read_other_format
    with _damage(folder, name, folder / name / fingerprint["version"]):
        count = 0
        for image, label in read(builder, split):
            if image.shape != shape:
                raise ValueError(f"a {split} image has the shape {image.shape}, not {shape}")
            if not 0 <= label < classes:
                raise ValueError(f"a {split} label is not below {classes}")
            yield image, label
            count += 1
        if count != fingerprint[split]["count"]:
            raise ValueError(f"{count} {split} examples instead of {fingerprint[split]['count']}")


def _read_array_record(builder: Any, split: str) -> Iterator[tuple[Bytes, int]]:
    """The rows of a split, raw: parsing them here is three times as fast as tfds's own deserialize_example_np."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    for first in range(0, len(source), CHUNK):
        for record in source.__getitems__(list(range(first, min(first + CHUNK, len(source))))):
            feature = tf_example_pb2.Example.FromString(record).features.feature
            with Image.open(io.BytesIO(feature["image"].bytes_list.value[0]), formats=["PNG"]) as image:
                yield np.asarray(image, np.uint8), feature["label"].int64_list.value[0]


def _read_other_format(builder: Any, split: str) -> Iterator[tuple[Bytes, int]]:
    """The rows of a split, one shard after another. This imports TensorFlow, which reads them."""
    import tensorflow_datasets as tfds

    config = tfds.ReadConfig(interleave_cycle_length=1)
    for example in tfds.as_numpy(builder.as_dataset(split, read_config=config)):
        yield example["image"][..., 0], int(example["label"])


@contextlib.contextmanager
def _tfds_output(*, progress: bool) -> Iterator[None]:
    """Hide what TensorFlow Datasets prints, which names temporary folders; show its progress bars if asked."""
    import tensorflow_datasets as tfds

    (tfds.enable_progress_bar if progress else tfds.disable_progress_bar)()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
