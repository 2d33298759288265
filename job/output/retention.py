"""Which runs of an output folder may go, and which stay: what prune.py prunes.

The newest models stay, what `latest` leads to, what is being trained, by the run's lock, and what may yet be.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.config import check_name
from job.errors import Exit, JobError
from job.output.run_folder import half_published
from job.system.files import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KINDS = ("models", "runs")
PRUNED, LOCK = ".pruned", "lock"
# So long a run without a verdict may lie still, with its lock free, and yet go on: its workers wait for each other.
RESTING_S = 1200.0


@dataclass(frozen=True)
class Found:
    """A run on the volume: when it began, whether it has a model, and the bytes that both take up."""

    name: str
    started: str
    published: bool
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What is to be pruned, the oldest first.

    before is the time, UTC in ISO 8601, since which everything stays; None where there are too few models to prune any.
    kept has every other run, and why it stays; empty where that is its age, or that others are named.
    without_model are those of them that stay because --keep alone prunes no run without a model.
    unknown are names that were given and are no run's. left are the bytes that a prune which was killed has left; they
    go in any case.
    """

    before: str | None
    prune: Sequence[Found]
    kept: Mapping[str, str]
    without_model: Sequence[str]
    unknown: Sequence[str]
    left: int


def plan(output: Path, keep: int, older_than_s: int = 0, names: Sequence[str] = ()) -> Plan:
    """What of an output folder is to be pruned.

    The newest models stay, and all that began since the oldest of them, published or not. What has no model may be a
    run that is suspended, or waits for its workers, and so goes only where it is named or an age is given.

    Args:
        output: the folder.
        keep: how many models stay, at least 1; the one that `latest` leads to stays in any case.
        older_than_s: what began less than so many seconds ago stays too, and what is not over and was written to since.
        names: prune nothing but these; all that there is where none is given.

    Raises:
        JobError: 66 where the folder holds no runs; 73 where it is not one that it would be safe to prune.
    """
    latest = latest_run(output)
    if not any((output / kind).is_dir() for kind in KINDS):
        message = f"{output} has neither runs nor models"
        raise JobError(Exit.DATA_MISSING, "no-runs", message, "give the folder that `train` was given with --output")
    runs, kept = _runs(output)
    unknown = [name for name in names if name not in kept and all(name != run for _, run in runs)]
    models = [started for started, name in runs if (output / "models" / name).is_dir()]
    before = oldest = models[-keep] if len(models) >= keep else None
    if before:
        young = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=older_than_s)
        before = min(before, young.isoformat(timespec="microseconds"))
    prune, without_model = [], []
    for started, name in runs:
        if names and name not in names:
            kept[name] = ""
        elif before is None or started >= before:
            kept[name] = _young(started, oldest, keep) if names else ""
        elif name == latest:
            kept[name] = "latest leads to it"
        elif not (names or older_than_s or _published(output, name)):
            kept[name] = "it has no model, and --keep alone does not prune it"
            without_model.append(name)
        elif why := in_use(output, name, older_than_s):
            kept[name] = why
        elif parts := parts_of(output, name):
            prune.append(Found(name, started, parts[0].parent.name == "models", sum(map(_size, parts))))
    return Plan(before, prune, kept, without_model, unknown, sum(map(_size, left_over(output))))


def _young(started: str, oldest: str | None, keep: int) -> str:
    """Why a run is too young to be pruned, where oldest is when the oldest model that stays began."""
    if oldest is None:
        return f"there are fewer than {keep} models"
    return "it began within --older-than" if started < oldest else f"it began no earlier than the newest {keep} models"


def latest_run(output: Path) -> str | None:
    """The run that `latest` leads to."""
    for name in ("runs", "models", PRUNED):
        if (output / name).is_symlink():
            message = f"{output / name} is a symbolic link, and nothing is pruned through one"
            raise JobError(Exit.OUTPUT, "output-link", message, "remove it")
    link = output / "latest"
    if not os.path.lexists(link):
        return None
    with contextlib.suppress(OSError, RuntimeError):  # the second is a link that leads to itself
        if link.is_symlink() and (target := link.resolve()).parent == (output / "models").resolve():
            return target.name
    message = f"{link} does not lead to a model in {output / 'models'}, and so nothing is pruned"
    raise JobError(Exit.OUTPUT, "latest-elsewhere", message, "`promote RUN` moves it to one")


def _runs(output: Path) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """When each run began and its name, the oldest first; and what lies there besides, with what is wrong with it."""
    runs, strange = [], {}
    for name in {path.name for kind in KINDS for path in _entries(output / kind)}:
        try:
            check_name(name, 1)
        except JobError:
            strange[name] = "it is no run's name"
            continue
        if any(path.is_symlink() or path.is_file() for path in (output / kind / name for kind in KINDS)):
            strange[name] = "it is a symbolic link or a file"
            continue
        with contextlib.suppress(FileNotFoundError):  # another prune has just taken it
            runs.append((_started(output, name), name))
    return sorted(runs), dict(sorted(strange.items()))


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; a name with a dot in front is a publication under way."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _started(output: Path, name: str) -> str:
    """When a run began, UTC in ISO 8601; when its folder last changed, where neither of its files says it.

    Raises:
        FileNotFoundError: it is gone.
    """
    for path, keys in (
        (output / "runs" / name / "config.json", ()),
        (output / "models" / name / "report.json", ("run",)),
    ):
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            said: Any = read_json(path)
            for key in (*keys, "started"):
                said = said[key]
            at = dt.datetime.fromisoformat(said)
            return (
                (at if at.tzinfo else at.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).isoformat(timespec="microseconds")
            )
    there = [path for kind in KINDS if (path := output / kind / name).is_dir()]
    if not there:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    changed = max(path.stat().st_mtime for path in there)
    return dt.datetime.fromtimestamp(changed, dt.UTC).isoformat(timespec="microseconds")


def _published(output: Path, name: str) -> bool:
    """Whether a run has, or had, a model: a prune that was killed may have taken that alone."""
    return (output / "models" / name).is_dir() or (output / "runs" / name / "verdict.json").exists()


def in_use(output: Path, name: str, older_than_s: float = 0) -> str:
    """Why a run may still be trained, or promoted, or is too young to tell; empty where it is not."""
    model, folder = output / "models" / name, output / "runs" / name
    try:
        # Shared, for which a network file system lets the file be open for reading alone: it may be mounted so.
        lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"its lock cannot be opened: {error.strerror}"
    else:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return "it is being trained"
        finally:
            os.close(lock)
    if not folder.is_dir() or (model.is_dir() and (folder / "verdict.json").exists()):
        return ""
    written = 0.0
    for path in (folder, folder / "events.jsonl", folder / "checkpoints", model):
        with contextlib.suppress(FileNotFoundError):
            written = max(written, path.lstat().st_mtime)
    if time.time() - written < RESTING_S:
        return f"it was written to within the last {RESTING_S / 60:.0f} min, and may be about to go on"
    return "it was written to within --older-than" if time.time() - written < older_than_s else ""


def parts_of(output: Path, name: str) -> list[Path]:
    """A run's model and folder, and what its processes that were killed have left beside them; empty if it is gone."""
    parts = [path for kind in KINDS if (path := output / kind / name).is_dir() and not path.is_symlink()]
    if not parts:
        return []
    # Half-published models, the folders of probes, and the link that was about to be `latest`.
    left = (*half_published(output, name), *output.glob(f".probe.{name}.*"), output / f".latest.{name}")
    return parts + [path for path in left if os.path.lexists(path)]


def left_over(output: Path) -> list[Path]:
    """What prunes that were killed have left."""
    pruned = output / PRUNED
    return [path for path in pruned.iterdir() if path.name != LOCK] if pruned.is_dir() else []


def _size(folder: Path) -> int:
    """The bytes of the files in a folder; nothing where it is a link."""
    found = 0
    for at, _, files in os.walk(folder) if not folder.is_symlink() else ():
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                found += os.lstat(os.path.join(at, file)).st_size  # noqa: PTH118 - os.walk gives text
    return found
