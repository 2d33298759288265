"""`python -m job prune`: remove old runs with their models, after saying which they are and what that frees.

A run goes by renames into .pruned/, and only there is it deleted: what a prune that was killed has left there, the
next one deletes. retention.py decides which runs go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config import seconds, usage
from job.output.latest import promotion_lock
from job.output.retention import LOCK, PRUNED, in_use, latest_run, left_over, parts_of, plan
from job.output.run_folder import output_errors
from job.system.files import make_folder, open_to_lock, sync

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from job.output.retention import Plan


def prune(output: Path, planned: Plan) -> list[str]:
    """Remove what is planned, and what an earlier prune has left; gives the names of the runs that are gone.

    What has become `latest`, or is trained, since it was planned stays.

    Raises:
        JobError: 73 or 75 from the file system.
    """
    gone: list[str] = []
    if not (planned.prune or left_over(output)):
        return gone
    with output_errors(output), _locked(output) as pruned:
        for left in left_over(output):
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
        JobError: 64, a flag or a name is wrong or nobody can be asked; 66 where there are no runs; 73 or 75 from the
            file system. As JSON wrong names are but told: who asks again after a broken connection finds them gone.
    """
    older_than_s = check(arguments, as_json=arguments.json)
    with output_errors(output, "read"):
        planned = plan(output, arguments.keep, older_than_s, arguments.names)
    if arguments.json:
        gone = [] if arguments.dry_run else prune(output, planned)
        print(json.dumps(dataclasses.asdict(planned) | {"pruned": gone}))
        return
    if planned.unknown:
        message = f"there is no run {' or '.join(map(repr, planned.unknown))} in {output}"
        raise usage(message, "nothing is pruned")
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
        nobody = "JSON leaves no room for the question" if as_json else "there is no terminal to ask on"
        message = f"nothing is pruned unasked, and {nobody}"
        raise usage(message, "--dry-run shows what would be pruned, --yes prunes it")
    return seconds("--older-than", arguments.older_than) if arguments.older_than else 0


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


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[Path]:
    """The folder for what is pruned, held against another prune, for which is waited."""
    pruned = output / PRUNED
    make_folder(pruned)
    lock = open_to_lock(pruned / LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield pruned
    finally:
        os.close(lock)


def _rename_away(output: Path, pruned: Path, name: str) -> Path | None:
    """Take a run, alone, out of everybody's sight; None where it has become `latest`, is trained, or is gone."""
    folder = output / "runs" / name
    with promotion_lock(output), contextlib.ExitStack() as stack:
        if name == latest_run(output) or in_use(output, name):
            return None
        if folder.is_dir() and not folder.is_symlink():
            lock = open_to_lock(folder / LOCK)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        parts = parts_of(output, name)
        if not parts:
            return None
        away = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=pruned))
        # The model first: a run that has lost it only makes it again, one that has lost the rest is another's.
        for path in parts:
            path.rename(away / (path.parent.name if path.name == name else path.name))
            sync(path.parent)
        sync(away)
        return away


def _delete(path: Path) -> None:
    """Delete what was renamed away, following no link in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
