"""fingerprint.json, which describes a prepared dataset; with it each worker verifies that it has the same rows.

NAME/fingerprint.json holds `dataset`, `version`, `format` (of the example files), `classes` (names, in the order of
their labels), `shape` (pixels of an image: [rows, columns]) and, for each of `train` and `test`: `count`, `sha256`
and `files` (the SHA-256 of each example file, by its path below NAME, in order). `sha256` is over all images
(uint8 [count, rows, columns], C order), then all labels (uint8 [count]), in the order of the example files.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from job.error_table import errors_from
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = ("mnist", "fashion_mnist", "kmnist")  # TensorFlow Datasets' names of what `python -m job data` can prepare
SPLITS = ("train", "test")
FINGERPRINT = "fingerprint.json"


def read_fingerprint(folder: Path, name: str) -> dict[str, Any]:
    """The fingerprint of a prepared dataset; its rows are not read.

    Args:
        folder: the data folder.
        name: TensorFlow Datasets' name of the dataset.

    Raises:
        JobError: 66 if there is no dataset or it cannot be read, 64 if its name is unknown too; 65 if it was not
            prepared, is damaged or is another dataset; 75 if reading failed temporarily.
    """
    place = folder / name
    path = place / FINGERPRINT
    try:
        with errors_from("dataset", place):
            if not place.is_dir():
                raise _missing_dataset(folder, name)
            content = path.read_bytes()
        fingerprint: dict[str, Any] = json.loads(content)
        if fingerprint["dataset"] == name:
            _check_values(fingerprint)
    except FileNotFoundError:
        raise unprepared_dataset(folder, name, f"{place} has no {FINGERPRINT}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged_dataset(folder, name, f"{path} is damaged") from error
    check_dataset_name(place, name, fingerprint["dataset"])
    return fingerprint


def _missing_dataset(folder: Path, name: str) -> JobError:
    if name not in KNOWN:
        return unknown_dataset(name)
    message = f"there is no dataset {name} in {folder}"
    return JobError(Exit.DATA_MISSING, "dataset-missing", message, f"run `{prepare_command(folder, name)}`")


def _check_values(fingerprint: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError if a value is missing or of the wrong type."""
    rows, columns = fingerprint["shape"]
    counts = [fingerprint[split]["count"] for split in SPLITS]
    texts = [fingerprint["version"], fingerprint["format"], *fingerprint["classes"]]
    for split in SPLITS:
        texts += [fingerprint[split]["sha256"], *fingerprint[split]["files"], *fingerprint[split]["files"].values()]
    if not all(isinstance(number, int) and number > 0 for number in (rows, columns, *counts)):
        raise ValueError("a size is not a whole number above 0")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name or SHA-256 is not text")


def prepare_command(folder: Path, name: str) -> str:
    """The command that prepares the dataset."""
    return f"python -m job data --data {shlex.quote(str(folder))} --dataset {name}"


def unknown_dataset(name: str) -> JobError:
    """The error of a dataset that cannot be prepared."""
    return JobError(Exit.USAGE, "usage", f"--dataset must be one of {', '.join(KNOWN)}, not {name!r}")


def unprepared_dataset(folder: Path, name: str, message: str, effect: str = "") -> JobError:
    """The error of a folder that `python -m job data` has not prepared; effect says what that will do."""
    hint = f"run `{prepare_command(folder, name)}`{effect}"
    return JobError(Exit.DATA_DAMAGED, "dataset-unprepared", message, hint)


def damaged_dataset(folder: Path, name: str, message: str) -> JobError:
    """The error of a dataset that has changed since it was prepared."""
    hint = f"move {folder / name} away and run `{prepare_command(folder, name)}`"
    return JobError(Exit.DATA_DAMAGED, "dataset-damaged", message, hint)


def check_dataset_name(place: Path, name: str, actual: str) -> None:
    """Refuse, with 65, a folder that holds another dataset than its name says."""
    if actual != name:
        message = f"{place} holds the dataset {actual!r}, not {name!r}"
        raise JobError(
            Exit.DATA_DAMAGED, "dataset-other", message, "move it away, or choose another folder with --data"
        )
