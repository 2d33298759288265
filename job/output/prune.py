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
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from job.config import usage
from job.output.latest import promotion_lock
from job.output.prune_dialogue import check_prune_flags, confirmed, plan_lines
from job.output.retention import LOCK, PRUNED, in_use, latest_run, left_over, parts_of, plan
from job.output.run_folder import output_errors
from job.system.files import make_folder, open_to_lock, sync

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

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
    older_than_s = check_prune_flags(arguments, as_json=arguments.json)
    with output_errors(output, "read"):
        planned = plan(output, arguments.keep, older_than_s, arguments.names)
    if arguments.json:
        gone = [] if arguments.dry_run else prune(output, planned)
        print(json.dumps(dataclasses.asdict(planned) | {"pruned": gone}))
        return
    if planned.unknown:
        message = f"there is no run {' or '.join(map(repr, planned.unknown))} in {output}"
        raise usage(message, "nothing is pruned")
    print("\n".join(plan_lines(dataclasses.asdict(planned))))
    if arguments.dry_run or not (arguments.yes or not planned.prune or confirmed()):
        return
    gone = prune(output, planned)
    if planned.prune:
        print(f"pruned {len(gone)} run{'s' * (len(gone) != 1)}")


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
