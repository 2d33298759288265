"""What `cancel`, `suspend` and `resume` have in common: one decision on a Job, sent and told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from k8s.contract import QUEUE_LABEL
from k8s.errors import LauncherError, Status
from k8s.run import gather, state

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.cluster import Cluster
    from k8s.contract import Object
    from k8s.run import Run


@dataclass(frozen=True)
class Decision:
    """What is to be done with a run: its state then, the sentence, and the change to its Job; None where it is so."""

    state: str
    text: str
    change: Object | None = None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what all three take."""
    parser.add_argument("name", metavar="NAME", help="the run")


def decide_and_send(
    arguments: argparse.Namespace,
    cluster: Cluster,
    decide: Callable[[Run], Decision],
    before: Callable[[Run], None] = lambda _: None,
) -> int:
    """Send a decision on the Job that the arguments name, and tell it; returns the exit status.

    Args:
        arguments: the command's.
        cluster: where the run is.
        decide: makes the decision.
        before: does what must come before the change.

    Raises:
        LauncherError: 2, the Job has ended, also while this was decided.
    """
    run = gather(cluster, arguments.name)
    decision = decide(run)
    if decision.change:
        before(run)
        refuse_ended(replace(run, job=cluster.patch("Job", arguments.name, decision.change)))
    if arguments.output == "json":
        found = {"name": arguments.name, "namespace": cluster.namespace, "state": decision.state}
        print(json.dumps(found | {"changed": decision.change is not None, "message": decision.text}))
    else:
        print(decision.text)
    return 0


def refuse_ended(run: Run) -> None:
    """Refuse to change a run that has ended."""
    now = state(run)
    if now.ended:
        raise refused(f"{run.name} has ended already ({now})", f"`mnist-job retry {run.name}` starts it again")


def refuse_queued(run: Run, what: str) -> None:
    """Refuse to start or stop by hand what Kueue starts and stops: it would undo it."""
    if queue := queue_of(run):
        message = f"Kueue decides when {run.name} runs, for it is in the queue {queue}: it is not {what} by hand"
        raise refused(message, f"`mnist-job cancel {run.name}` takes it out of the queue")


def queue_of(run: Run) -> str:
    """The queue of Kueue that decides when it runs; empty without one."""
    return str(run.job["metadata"].get("labels", {}).get(QUEUE_LABEL, ""))


def refused(message: str, hint: str) -> LauncherError:
    """The error of what is not done."""
    return LauncherError(Status.REFUSED, message, hint)
