"""serving/N, the promoted models as TensorFlow Serving loads them: the greatest N is the model of `latest`.

TensorFlow Serving lists the folder once a second and loads a number that it does not hold, so every promotion adds a
number, even a promotion of an earlier model. Names that are not numbers are ignored: .N is a version's temporary name.

A version is a folder with hard links to the files of models/<run>/saved_model/1, which never change. A symbolic link
would lead out of serving/, and a server that mounts only serving/ could not follow it; KServe mounts the path of a pvc://
address as a subPath. The files are copied if the volume has no hard links.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from typing import TYPE_CHECKING

from job.errors import Exit, JobError
from job.output.layout import serving_folder, unfinished_versions
from job.system.files import make_folder, sync, sync_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEEP = 3
RUN = "run"  # the file of a version that holds the run's name
# Errors of link(2) on a volume without hard links, or for files of another owner (fs.protected_hardlinks).
NO_HARD_LINKS = {errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV}


def served_runs(root: Path) -> dict[int, str]:
    """The run of each version, by the version's number, in ascending order; empty text if the version does not say it.

    Raises:
        OSError: from the file system.
    """
    return {number: _run_of(path) for number, path in _versions(root).items()}


@contextlib.contextmanager
def next_version(root: Path, run: str) -> Iterator[contextlib.ExitStack]:
    """Serve a published run: the next version is complete when the body begins, and appears by one rename at its end.

    The versions before the newest KEEP are then removed. The caller holds the promotion lock.

    Yields:
        a stack for callbacks that undo what the body does. They are called if the version cannot appear.

    Raises:
        OSError: from the file system.
    """
    folder = serving_folder(root)
    make_folder(folder)
    number = max(_versions(root), default=0) + 1
    temporary = folder / f".{number}"
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, temporary, ignore_errors=True)
        _fill(temporary, root / "models" / run / "saved_model" / "1")
        (temporary / RUN).write_text(f"{run}\n", encoding="utf-8")
        sync_tree(temporary)
        yield undo
        temporary.rename(folder / str(number))
        undo.pop_all()
    sync(folder)
    remove_old_versions(root)


def catch_up(root: Path, run: str | None) -> None:
    """Do what a killed promotion left undone: serve the model of `latest`, and remove what should be gone.

    The caller holds the promotion lock.

    Args:
        root: the output folder.
        run: the run that `latest` names; None if there is none.

    Raises:
        OSError: from the file system.
    """
    remove_old_versions(root)
    newest = next(reversed(served_runs(root).values()), None)
    if run and run != newest and (root / "models" / run / "saved_model" / "1").is_dir():
        with next_version(root, run):
            pass


def remove_old_versions(root: Path) -> None:
    """Remove all versions but the newest KEEP, and those that have a temporary name.

    A version gets a temporary name before it is removed, so that a server finds all of it or nothing.
    """
    for path in list(_versions(root).values())[:-KEEP]:
        path.rename(path.with_name(f".{path.name}"))
    for path in unfinished_versions(root):
        shutil.rmtree(path, ignore_errors=True)


def _versions(root: Path) -> dict[int, Path]:
    """The folder of each version, by its number, in ascending order."""
    return dict(sorted((int(path.name), path) for path in serving_folder(root).glob("*") if path.name.isdecimal()))


def _run_of(version: Path) -> str:
    try:
        return (version / RUN).read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _fill(folder: Path, model: Path) -> None:
    folder.mkdir()
    for path in sorted(model.iterdir()):
        served = folder / path.name
        if path.is_symlink():  # where hard links are missing, what it leads to would be copied to the volume
            message = f"{path} is a symbolic link, and is not served"
            raise JobError(Exit.OUTPUT, "output-link", message, "remove it")
        if path.is_dir():
            _fill(served, path)
            continue
        try:
            served.hardlink_to(path)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            shutil.copyfile(path, served)
