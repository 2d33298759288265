"""`python -m job prune`: remove old runs with their models, after saying which they are and what that frees.

A run goes by two renames into .pruned/, and only there is it deleted: what a prune that was killed has left there, the
next one deletes. What `latest` leads to stays, and what is being trained, by the run's lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config import check_name, seconds, usage
from job.errors import Exit, JobError
from job.files import make_folder, read_json, sync
from job.latest import alone, descriptor
from job.publish import output_errors

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

PRUNED, LOCK = ".pruned", "lock"
# So long an unpublished run may lie still and its lock be free, and yet it goes on: its workers wait for each other.
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
    kept says of each other run why it stays, where that is not its age alone.
    left are the bytes that a prune which was killed has left; they go in any case.
    """

    before: str | None
    prune: Sequence[Found]
    kept: Mapping[str, str]
    left: int


def plan(output: Path, keep: int, older_than_s: int = 0, names: Sequence[str] = ()) -> Plan:
    """What of an output folder is to be pruned.

    The newest models stay, and all that began since the oldest of them, published or not.

    Args:
        output: the folder.
        keep: how many models stay, at least 1; the one that `latest` leads to stays in any case.
        older_than_s: what began less than so many seconds ago stays too.
        names: prune nothing but these; all that there is where none is given.

    Raises:
        JobError: 73 where the folder is not one that it would be safe to prune.
    """
    latest, kept, runs = _latest(output), {}, []
    left = sum(map(_size, _left(output)))
    there = {path.name: path for kind in ("models", "runs") for path in _entries(output / kind)}
    for name in sorted(there):
        try:
            check_name(name, 1)
        except JobError:
            kept[name] = "it is no run's name"
            continue
        parts = [path for kind in ("models", "runs") if (path := output / kind / name).is_symlink() or path.exists()]
        if any(path.is_symlink() or not path.is_dir() for path in parts):
            kept[name] = "it is a symbolic link or a file"
        else:
            runs.append((_started(output, name), name))
    runs.sort()
    models = [started for started, name in runs if (output / "models" / name).is_dir()]
    if len(models) < keep:
        return Plan(None, [], kept, left)
    young = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=older_than_s)
    before = min(models[-keep], young.isoformat(timespec="microseconds"))
    prune = []
    for started, name in runs:
        if started >= before or (names and name not in names):
            kept[name] = ""
        elif why := "latest leads to it" if name == latest else _in_use(output, name):
            kept[name] = why
        else:
            parts = [output / kind / name for kind in ("models", "runs")]
            prune.append(Found(name, started, parts[0].is_dir(), sum(map(_size, parts))))
    return Plan(before, prune, kept, left)


def prune(output: Path, planned: Plan) -> list[str]:
    """Remove what is planned, and what an earlier prune has left; gives the names of the runs that are gone.

    What has become `latest`, or is trained, since it was planned stays.

    Raises:
        JobError: 73 or 75 from the file system.
    """
    gone: list[str] = []
    if not (planned.prune or _left(output)):
        return gone
    with output_errors(output), _locked(output) as pruned:
        for left in _left(output):
            _delete(left)
        for found in planned.prune:
            away = _rename_away(output, pruned, found.name)
            if away:
                _delete(away)
                gone.append(found.name)
    return gone


def run(output: Path, arguments: argparse.Namespace) -> None:
    """Say what would be pruned and, after a yes, prune it.

    Args:
        output: the folder.
        arguments: the command's: those of config.add_prune_flags(), names and json.

    Raises:
        JobError: 64, a flag is wrong or nobody can be asked; 73 or 75 from the file system.
    """
    older_than_s = check(arguments, as_json=arguments.json)
    with output_errors(output):
        planned = plan(output, arguments.keep, older_than_s, arguments.names)
    if arguments.json:
        gone = [] if arguments.dry_run else prune(output, planned)
        print(json.dumps(dataclasses.asdict(planned) | {"pruned": gone}))
        return
    print("\n".join(told(dataclasses.asdict(planned))))
    if arguments.dry_run or not (arguments.yes or not planned.prune or agreed()):
        return
    gone = prune(output, planned)
    if planned.prune:
        print(f"pruned {len(gone)} run{'s' * (len(gone) != 1)}")


def check(arguments: argparse.Namespace, *, as_json: bool) -> int:
    """Check the flags of config.add_prune_flags(); gives --older-than in seconds.

    Raises:
        JobError: 64, also without --yes and --dry-run where there is nobody to ask.
    """
    if arguments.keep < 1:
        raise usage(f"--keep must be at least 1, not {arguments.keep}")
    if not (arguments.dry_run or arguments.yes) and (as_json or not sys.stdin.isatty()):
        message = "nothing is pruned unasked, and there is no terminal to ask on"
        raise usage(message, "--dry-run shows what would be pruned, --yes prunes it")
    return seconds(arguments.older_than) if arguments.older_than else 0


def told(planned: Mapping[str, Any]) -> list[str]:
    """A Plan as JSON has it, in lines for a person."""
    runs = planned["prune"]
    lines = [f"nothing of {name!r} is touched: {why}" for name, why in planned["kept"].items() if why]
    if planned.get("left"):
        lines.append(f"an earlier prune that was killed has left {planned['left'] / 1e6:.1f} MB, which goes")
    if not runs:
        return [*lines, "there is nothing to prune"]
    width = max(len(found["name"]) for found in runs)
    size = sum(found["bytes"] for found in runs) / 1e6
    lines.append(f"to prune, {len(runs)} run{'s' * (len(runs) != 1)}, which frees {size:.1f} MB:")
    for found in runs:
        what = "model and run" if found["published"] else "unpublished"
        began = found["started"][:16].replace("T", " ")
        lines.append(f"  {found['name']:<{width}}  {began} UTC  {found['bytes'] / 1e6:8.1f} MB  {what}")
    return lines


def agreed() -> bool:
    """Ask on the terminal whether to prune."""
    try:
        answer = input("prune them? [y/N] ").strip().lower()
    except EOFError:
        answer = ""
    if answer not in ("y", "yes"):
        print("nothing is pruned")
        return False
    return True


def _latest(output: Path) -> str | None:
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


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; a name with a dot in front is a publication under way."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _started(output: Path, name: str) -> str:
    """When a run began, UTC in ISO 8601; when its folder last changed, where neither of its files says it."""
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
    changed = max(path.stat().st_mtime for kind in ("models", "runs") if (path := output / kind / name).is_dir())
    return dt.datetime.fromtimestamp(changed, dt.UTC).isoformat(timespec="microseconds")


def _in_use(output: Path, name: str) -> str:
    """Why a run may still be trained; empty where it is not."""
    folder = output / "runs" / name
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
    if (output / "models" / name).is_dir() or not folder.is_dir():
        return ""
    written = max(p.lstat().st_mtime for p in (folder, folder / "events.jsonl", folder / "checkpoints") if p.exists())
    if time.time() - written < RESTING_S:
        return f"it was written to within the last {RESTING_S / 60:.0f} min, and may be about to go on"
    return ""


def _left(output: Path) -> list[Path]:
    """What prunes that were killed have left."""
    pruned = output / PRUNED
    return [path for path in pruned.iterdir() if path.name != LOCK] if pruned.is_dir() else []


def _size(folder: Path) -> int:
    """The bytes of the files in a folder."""
    found = 0
    for at, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                found += os.lstat(os.path.join(at, file)).st_size  # noqa: PTH118 - os.walk gives text
    return found


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[Path]:
    """The folder for what is pruned, held against another prune, for which is waited."""
    pruned = output / PRUNED
    make_folder(pruned)
    lock = descriptor(pruned / LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield pruned
    finally:
        os.close(lock)


def _rename_away(output: Path, pruned: Path, name: str) -> Path | None:
    """Take a run, alone, out of everybody's sight; None where it has become `latest`, is trained, or is gone."""
    model, folder = output / "models" / name, output / "runs" / name
    with alone(output), contextlib.ExitStack() as stack:
        if name == _latest(output) or _in_use(output, name):
            return None
        if folder.is_dir() and not folder.is_symlink():
            lock = descriptor(folder / LOCK)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        parts = [path for path in (model, folder) if path.is_dir() and not path.is_symlink()]
        if not parts:
            return None
        away = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=pruned))
        # The model first: a run that has lost it only makes it again, one that has lost the rest is another's.
        for path in parts:
            path.rename(away / path.parent.name)
            sync(path.parent)
        sync(away)
        return away


def _delete(path: Path) -> None:
    """Delete what was renamed away, following no link in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
