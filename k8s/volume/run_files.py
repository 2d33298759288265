"""A run's own files on the volume, beside its model: its workers' logs, its events, TensorBoard's scalars."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from job.output.layout import CHECKSUMS, LOGS
from k8s.api.errors import failed
from k8s.state.names import OUTPUT
from k8s.volume.checksums import is_safe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.volume.pod import VolumePod

RUN = "run"  # the folder, beside a fetched model, for the run's files
UNFINISHED = f".{CHECKSUMS}.part"  # in a folder while `fetch` fills it
PARTS = (LOGS, "events.jsonl", "tensorboard")
# tar's exit code where a file changed while it was read: of a growing one, it sends what was there at first.
CHANGED = 1


def list_run_files(pod: VolumePod, name: str) -> list[str]:
    """The paths of PARTS' files in a run's folder; empty if there are none."""
    code, content, errors = pod.output(["find", f"{OUTPUT}/runs/{name}", "-type", "f", "-printf", r"%P\0"])
    if code and "No such file" not in errors:
        raise failed(f"runs/{name} cannot be read on the claim {pod.claim}: {errors}", "check the volume")
    paths = content.decode(errors="replace").split("\0")[:-1]
    return sorted(path for path in paths if path.partition("/")[0] in PARTS and is_safe(path))


def copy_run_files(pod: VolumePod, name: str, paths: Iterable[str], folder: Path) -> None:
    """Copy files of a run's folder, or folders with all that they hold, into a folder here.

    Raises:
        LauncherError: 1, they cannot be read or written; 3, the connection keeps breaking.
        OSError: from the file system here.
    """
    with tempfile.TemporaryFile() as archive:
        command = ["tar", "--create", "--gzip", "--file=-", f"--directory={OUTPUT}/runs/{name}", "--", *paths]

        def restart() -> None:
            archive.seek(0)
            archive.truncate()

        code, errors = pod.run(command, archive.write, restart)
        if code not in (0, CHANGED):
            raise failed(f"runs/{name} cannot be read on the claim {pod.claim}: {errors}", "check the volume")
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="r:gz") as files:
            for file in files:
                content = files.extractfile(file) if file.isreg() and is_safe(file.name) else None
                if content:  # a link could lead anywhere
                    target = folder / file.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as copy:
                        shutil.copyfileobj(content, copy)


def copy_logs(pod: VolumePod, name: str, ranks: set[int], folder: Path) -> None:
    """Copy the logs that some ranks have into a folder here; see copy_run_files()."""
    wanted = {f"{LOGS}/rank-{rank}.log" for rank in ranks}
    if paths := [path for path in list_run_files(pod, name) if path in wanted]:
        copy_run_files(pod, name, paths, folder)


def refuse_other(folder: Path) -> None:
    """Refuse a folder that `fetch` did not make: the volume decides which files are written, and could replace others.

    Raises:
        LauncherError: 1.
        OSError: the folder cannot be read.
    """
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir() if not path.name.startswith((f".{RUN}.", ".DS_Store"))}
    if not names or names & {CHECKSUMS, UNFINISHED}:
        return
    if names == {RUN} and {path.name for path in (folder / RUN).iterdir()} <= {*PARTS, ".DS_Store"}:
        return
    message = f"{folder} exists, and does not look like a folder that `fetch` made"
    raise failed(message, "choose another DIR, or move that folder away")


def replace_run_files(pod: VolumePod, name: str, folder: Path) -> int:
    """Make a folder here hold the files of PARTS as they are now; returns how many there are.

    Raises:
        LauncherError: as copy_run_files() does, or the folder cannot be written.
    """
    paths = list_run_files(pod, name)
    if not paths:
        return 0
    if folder.parent.is_symlink() or folder.is_symlink() or folder.is_file():
        raise failed(f"{folder} is a symbolic link or a file, and `fetch` does not replace it", "remove it")
    try:
        refuse_other(folder.parent)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            new = Path(temporary, "new")
            copy_run_files(pod, name, sorted({path.partition("/")[0] for path in paths}), new)
            if folder.exists():
                folder.rename(Path(temporary, "old"))
            new.rename(folder)
    except OSError as error:
        place = error.filename or folder
        raise failed(f"{place} cannot be written: {error.strerror or error}", "choose another DIR") from None
    return len(paths)


def ends_in_log(pod: VolumePod, name: str) -> list[str]:
    """The lines of all ranks' logs in which a worker says how it ended."""
    words = ["grep", "--recursive", "--no-filename", "--text", "-e", " phase=failed ", "-e", " phase=published "]
    return _lines(pod.output([*words, f"{OUTPUT}/runs/{name}/{LOGS}"])[1])


def lines_of_pod(pod: VolumePod, name: str, rank: int, source: str) -> list[str]:
    """The lines in a rank's log that a worker's pod wrote, without their times and its name."""
    path = f"{OUTPUT}/runs/{name}/{LOGS}/rank-{rank}.log"
    lines = _lines(pod.output(["grep", "--text", "--fixed-strings", "-e", f" {source} ", path])[1])
    words = [line.split(" ", 2) for line in lines]
    return [text for _, pod_name, text in words if pod_name == source]


def _lines(content: bytes) -> list[str]:
    return content.decode(errors="replace").split("\n")[:-1]  # what follows the last line end is torn
