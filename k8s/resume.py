"""resume: go on with a suspended run from its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s import control
from k8s.control import Decision, add_flags
from k8s.run import state

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.cluster import Cluster
    from k8s.run import Run

__all__ = ["add_flags", "run"]


def run(arguments: argparse.Namespace, reach: Callable[[], Cluster]) -> int:
    """Resume a run; returns the exit status."""
    return control.decide_and_send(arguments, reach(), decide)


def decide(run: Run) -> Decision:
    """What to do with a run that is to go on.

    Raises:
        LauncherError: 2, it has ended or is cancelled, or Kueue decides.
    """
    name, now = run.name, state(run).word
    control.refuse_ended(run)
    if now == "cancelled":
        hint = f"`mnist-job retry {name}` starts it again from its checkpoint"
        raise control.refused(f"{name} is cancelled, which `resume` does not undo", hint)
    control.refuse_queued(run, "resumed")
    if now != "suspended":
        return Decision("resumed", f"{name} is not suspended: it goes on as it is")
    text = f"{name} goes on from its newest checkpoint; `mnist-job logs {name}` follows it"
    return Decision("resumed", text, {"spec": {"suspend": False}})
