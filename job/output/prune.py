"""`python -m job prune`: remove old runs with their models, after showing which ones and how much space that frees.

A run is renamed into .pruned/ and deleted there. If prune is killed in between, the next one deletes the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config import usage_error
from job.error_table import errors_from
from job.output import inventory, layout
from job.output.latest import promotion_lock
from job.output.prune_dialogue import check_prune_flags, confirmed, plan_lines
from job.output.retention import decide_retention, reason_in_use
from job.system import process
from job.system.files import LOCK_IS_HELD, make_folder, open_to_lock, sync

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence


def plan_pruning(output: Path, keep: int, older_than_s: int = 0, names: Sequence[str] = ()) -> dict[str, Any]:
    """What of an output folder is pruned, as JSON shows it; see decide_retention() for the arguments.

    Returns:
        The fields of Retention, with {"name", "started", "published", "bytes"} of each run in `prune`; `left` are the
        bytes of a killed prune, which are always deleted.

    Raises:
        JobError: 66 if the folder holds no runs; 73 if it is not safe to prune.
        OSError: from the file system.
    """
    retention = decide_retention(inventory.take_inventory(output), keep, older_than_s, names, time.time())
    prunable = []
    for run in retention.prune:
        if parts := inventory.run_parts(output, run.name):  # else another prune has just removed it
            published, size = parts[0].parent.name == "models", sum(map(inventory.size_of, parts))
            prunable.append({"name": run.name, "started": run.started, "published": published, "bytes": size})
    left = sum(map(inventory.size_of, inventory.unfinished_deletions(output)))
    return vars(retention) | {"prune": prunable, "left": left}


def prune(output: Path, plan: Mapping[str, Any]) -> list[str]:
    """Remove the runs of a plan, and what an earlier prune left; returns the names of the runs that are gone.

    A run of the plan stays if its model is now in use, or if it is now being trained.

    Raises:
        JobError: 73 or 75 from the file system.
    """
    gone: list[str] = []
    if not (plan["prune"] or inventory.unfinished_deletions(output)):
        return gone
    with errors_from("output", output), _prune_lock(output) as pruned:
        for path in inventory.unfinished_deletions(output):
            _delete(path)
        for run in plan["prune"]:
            if renamed := _rename_away(output, pruned, run["name"]):
                _delete(renamed)
                gone.append(run["name"])
    return gone


def run(output: Path, arguments: argparse.Namespace) -> None:
    """Show what would be pruned and, if confirmed, prune it.

    Args:
        output: the folder.
        arguments: the command's: those of config.add_prune_flags(), names and json.

    Raises:
        JobError: 64 if a flag or a name is wrong or nobody can be asked; 66 if there are no runs; 73 or 75 from the
            file system. With --json, unknown names are reported and not refused: the launcher repeats the command after
            a broken connection, and the runs may be gone by then.
    """
    older_than_s = check_prune_flags(arguments, as_json=arguments.json)
    with errors_from("published runs", output):
        plan = plan_pruning(output, arguments.keep, older_than_s, arguments.names)
    if arguments.json:
        gone = [] if arguments.dry_run else prune(output, plan)
        with process.standard_output():
            print(json.dumps(plan | {"pruned": gone}))
        return
    if plan["unknown"]:
        message = f"there is no run {' or '.join(map(repr, plan['unknown']))} in {output}"
        raise usage_error(message, "nothing was pruned")
    with process.standard_output():
        print("\n".join(plan_lines(plan)))
    if arguments.dry_run or not (arguments.yes or not plan["prune"] or confirmed()):
        return
    gone = prune(output, plan)
    if plan["prune"]:
        with process.standard_output():
            print(f"pruned {len(gone)} run{'s' * (len(gone) != 1)}")


@contextlib.contextmanager
def _prune_lock(output: Path) -> Iterator[Path]:
    """Hold .pruned/, which this yields, against another prune; wait for one in progress."""
    pruned = output / layout.PRUNED
    make_folder(pruned)
    lock = open_to_lock(pruned / layout.LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield pruned
    finally:
        os.close(lock)


def _rename_away(output: Path, pruned: Path, name: str) -> Path | None:
    """Move a run into .pruned/, while nobody can begin or promote it; None if it must be kept or is gone."""
    folder = output / "runs" / name
    with promotion_lock(output), contextlib.ExitStack() as stack:
        try:
            stays = name in inventory.runs_in_use(output) or reason_in_use(
                inventory.inspect_run(output, name), time.time()
            )
        except FileNotFoundError:
            return None
        if stays:
            return None
        if folder.is_dir() and not folder.is_symlink():
            lock = open_to_lock(folder / layout.LOCK)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except LOCK_IS_HELD:
                return None
        parts = inventory.run_parts(output, name)
        if not parts:
            return None
        renamed = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=pruned))
        # The model goes first: a run without its model can make it again, but a model without its run has no owner.
        for path in parts:
            path.rename(renamed / (path.parent.name if path.name == name else path.name))
            sync(path.parent)
        sync(renamed)
        return renamed


def _delete(path: Path) -> None:
    """Delete what was renamed away, without following links."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
