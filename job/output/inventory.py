"""What is on an output volume: the facts about each run from which retention.py decides what may be pruned."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.config import check_name
from job.error_table import kind_of
from job.errors import Exit, JobError
from job.output import layout, serving
from job.system.files import LOCK_IS_HELD, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KINDS = ("models", "runs")


@dataclass(frozen=True)
class StoredRun:
    """A run on the volume.

    started is UTC in ISO 8601; has_folder says whether runs/<run> exists, has_model and has_verdict whether it was
    published and judged; written is the time of the last write in seconds since 1970, as far as a look at a few files
    shows; lock says why the run cannot be locked, empty if it can.
    """

    name: str
    started: str
    has_folder: bool
    has_model: bool
    has_verdict: bool
    written: float
    lock: str


@dataclass(frozen=True)
class Inventory:
    """All runs, the oldest first; the runs in use and the entries that are not runs, each with the reason."""

    runs: Sequence[StoredRun]
    in_use: Mapping[str, str]
    not_runs: Mapping[str, str]


def take_inventory(output: Path) -> Inventory:
    """Look at each run of an output folder.

    Raises:
        JobError: 66 if the folder holds no runs; 73 if it is not safe to prune.
        OSError: from the file system.
    """
    in_use = runs_in_use(output)
    if not any((output / kind).is_dir() for kind in KINDS):
        message = f"{output} has neither runs nor models"
        raise JobError(Exit.DATA_MISSING, "no-runs", message, "use the --output folder of `train`")
    runs: list[StoredRun] = []
    not_runs: dict[str, str] = {}
    for name in sorted({path.name for kind in KINDS for path in _visible(output / kind)}):
        try:
            check_name(name, 1)
        except JobError:
            not_runs[name] = "it is not a run's name"
            continue
        if any(path.is_symlink() or path.is_file() for path in (output / kind / name for kind in KINDS)):
            not_runs[name] = "it is a symbolic link or a file"
            continue
        with contextlib.suppress(FileNotFoundError):  # another prune has just removed it
            runs.append(inspect_run(output, name))
    return Inventory(sorted(runs, key=lambda run: (run.started, run.name)), in_use, not_runs)


def runs_in_use(output: Path) -> dict[str, str]:
    """The runs whose models are in use, each with the reason: `latest` points to them, or serving/ has them.

    Raises:
        JobError: 73 if it is not safe to prune.
        OSError: from the file system.
    """
    in_use = {run: f"serving/{number} is its model" for number, run in serving.served_runs(output).items()}
    if latest := latest_run(output):
        in_use[latest] = "`latest` points to it"
    return in_use


def latest_run(output: Path) -> str | None:
    """The run that `latest` points to; None if there is no link.

    Raises:
        JobError: 73 if it points elsewhere, or a link could lead `prune` out of the folder.
    """
    for name in (*KINDS, layout.PRUNED):
        if (output / name).is_symlink():
            message = f"{output / name} is a symbolic link, and `prune` does not follow links"
            raise JobError(Exit.OUTPUT, "output-link", message, "remove it")
    link = output / "latest"
    if not os.path.lexists(link):
        return None
    with contextlib.suppress(RuntimeError):  # a link that points to itself
        if link.is_symlink() and (target := link.resolve()).parent == (output / "models").resolve():
            return target.name
    message = f"{link} does not point to a model in {output / 'models'}, so nothing was pruned"
    raise JobError(Exit.OUTPUT, "latest-elsewhere", message, "point it to a published run with `promote`")


def inspect_run(output: Path, name: str) -> StoredRun:
    """The facts about one run.

    Raises:
        FileNotFoundError: the run is gone.
    """
    model, folder = output / "models" / name, output / "runs" / name
    started = _started(output, name)
    return StoredRun(
        name=name,
        started=started,
        has_folder=folder.is_dir(),
        has_model=model.is_dir(),
        has_verdict=(folder / "verdict.json").exists(),
        written=max(map(_modified, (folder, folder / "events.jsonl", folder / "checkpoints", model))),
        lock=_lock_problem(folder / layout.LOCK),
    )


def run_parts(output: Path, name: str) -> list[Path]:
    """A run's model, its folder, and the unfinished files of its killed processes; empty if the run is gone."""
    parts = [path for kind in KINDS if (path := output / kind / name).is_dir() and not path.is_symlink()]
    if not parts:
        return []
    unfinished = (
        *layout.unfinished_models(output, name),
        *layout.unfinished_probes(output, name),
        layout.unfinished_link(output, name),
    )
    return parts + [path for path in unfinished if os.path.lexists(path)]


def unfinished_deletions(output: Path) -> list[Path]:
    """What an earlier prune had renamed away and not yet deleted when it was killed."""
    pruned = output / layout.PRUNED
    return [path for path in pruned.iterdir() if path.name != layout.LOCK] if pruned.is_dir() else []


def size_of(folder: Path) -> int:
    """The bytes of the files in a folder; 0 for a link."""
    size = 0
    for parent, _, files in os.walk(folder) if not folder.is_symlink() else ():
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(parent, file)).st_size  # noqa: PTH118 - os.walk gives text
    return size


def _visible(folder: Path) -> list[Path]:
    """The entries of a folder; a leading dot marks a publication in progress."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _started(output: Path, name: str) -> str:
    """When a run began, UTC in ISO 8601; if none of its files says it, when its folder last changed.

    Raises:
        FileNotFoundError: the run is gone.
        OSError: the file system failed, and may say it later.
    """
    for path, keys in (
        (output / "runs" / name / "config.json", ("started",)),
        (output / "models" / name / "report.json", ("run", "started")),
    ):
        try:
            value: Any = read_json(path)
            for key in keys:
                value = value[key]
            started = dt.datetime.fromisoformat(value)
            return _in_utc(started if started.tzinfo else started.replace(tzinfo=dt.UTC))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        except OSError as error:
            if kind_of(error) in {"passing", "network"}:
                raise
    folders = [path for kind in KINDS if (path := output / kind / name).is_dir()]
    if not folders:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return _in_utc(dt.datetime.fromtimestamp(max(path.stat().st_mtime for path in folders), dt.UTC))


def _in_utc(time: dt.datetime) -> str:
    return time.astimezone(dt.UTC).isoformat(timespec="microseconds")


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _lock_problem(path: Path) -> str:
    """Why a run cannot be locked; empty if it can, or has no lock."""
    try:
        # A shared lock needs only read access, also on network file systems: the volume may be mounted read-only.
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"its lock cannot be opened: {error.strerror}"
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except LOCK_IS_HELD:
        return "it is being trained"
    finally:
        os.close(lock)
    return ""
