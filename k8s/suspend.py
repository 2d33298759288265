"""suspend: stop a run until `resume`; its checkpoint is kept."""

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
    """Suspend a run; returns the exit status."""
    return control.decide_and_send(arguments, reach(), decide)


def decide(run: Run) -> Decision:
    """What to do with a run that is to be suspended.

    Raises:
        LauncherError: 2, it has ended, or Kueue decides.
    """
    name, now = run.name, state(run).word
    control.refuse_ended(run)
    if now == "cancelled":
        return Decision("cancelled", f"{name} is cancelled, and so it does not run; `mnist-job retry {name}` starts it")
    control.refuse_queued(run, "suspended")
    if now == "suspended":
        return Decision("suspended", f"{name} is suspended already; `mnist-job resume {name}` goes on with it")
    text = (
        f"{name} is suspended: its workers write a checkpoint and leave within 20 s, and their logs go with them; "
        f"`mnist-job resume {name}` goes on with it"
    )
    return Decision("suspended", text, {"spec": {"suspend": True}})
