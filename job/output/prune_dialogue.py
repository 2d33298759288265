"""What `prune` asks and prints, in the pod and in the launcher alike; nothing here reads or removes a run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from job.config import parse_duration, usage_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


def check_prune_flags(arguments: argparse.Namespace, *, as_json: bool) -> int:
    """Check the flags of config.add_prune_flags().

    Returns:
        --older-than in seconds; 0 if it was not given.

    Raises:
        JobError: 64 if a value is wrong, or if neither --yes nor --dry-run is given and nobody can be asked.
    """
    if arguments.keep < 1:
        raise usage_error(f"--keep must be at least 1, not {arguments.keep}")
    if not (arguments.dry_run or arguments.yes) and (as_json or not (sys.stdin and sys.stdin.isatty())):
        reason = "JSON output leaves no place for the question" if as_json else "standard input is not a terminal"
        message = f"prune asks before it removes anything, and {reason}"
        raise usage_error(message, "--dry-run shows what would be pruned, --yes prunes it")
    return parse_duration("--older-than", arguments.older_than) if arguments.older_than else 0


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The result of prune.plan_pruning() in lines for a person."""
    runs = plan["prune"]
    lines = [f"{name!r} is kept: {reason}" for name, reason in plan["kept"].items() if reason]
    if plan.get("left"):
        lines.append(f"{plan['left'] / 1e6:.1f} MB that an interrupted prune left behind will be deleted")
    if not runs:
        return [*lines, "there is nothing to prune"]
    width = max(len(run["name"]) for run in runs)
    size = sum(run["bytes"] for run in runs) / 1e6
    lines.append(f"to prune, {len(runs)} run{'s' * (len(runs) != 1)}, which frees {size:.1f} MB:")
    for run in runs:
        content = "model and run" if run["published"] else "unpublished"
        started = run["started"][:16].replace("T", " ")
        lines.append(f"  {run['name']:<{width}}  {started} UTC  {run['bytes'] / 1e6:8.1f} MB  {content}")
    return lines


def confirmed() -> bool:
    """Ask on the terminal whether to prune."""
    try:
        answer = input("prune them? [y/N] ").strip().lower()
    except EOFError:
        answer = ""
    if answer not in ("y", "yes"):
        print("nothing was pruned")
        return False
    return True
