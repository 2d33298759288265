"""What `cancel`, `suspend` and `resume` have in common: one decision on a Job, sent and told."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from k8s.api.errors import LauncherError, Status
from k8s.state.names import QUEUE_LABEL, pods_of
from k8s.state.run import Run, gather, state

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


GONE_S = 60.0  # for a run's pods, or a Job that was deleted, to be gone; pods get 20 s to end
POLL_S = 0.2


@dataclass(frozen=True)
class Decision:
    """What is to be done with a run or a schedule: its state then, the sentence, the change; None where it is so."""

    state: str
    text: str
    change: Object | None = None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what all three take."""
    parser.add_argument("name", metavar="NAME", help="the run, or the schedule")


def decide_and_send(
    arguments: argparse.Namespace,
    cluster: Cluster,
    decide: Callable[[Run], Decision],
    before: Callable[[Run], None] = lambda _: None,
    after: Callable[[Run], None] = lambda _: None,
) -> int:
    """Send a decision on the Job that the arguments name, and tell it; returns the exit status.

    Args:
        arguments: the command's.
        cluster: where the run is.
        decide: makes the decision.
        before: does what must come before the change.
        after: does what must come after it, or after one that was made earlier.

    Raises:
        LauncherError: 2, the Job has ended, also while this was decided.
    """
    run = gather(cluster, arguments.name)
    decision = decide(run)
    if decision.change:
        before(run)
        refuse_ended(replace(run, job=cluster.patch("Job", arguments.name, decision.change)))
    after(run)
    return tell(arguments, cluster, decision)


def tell(arguments: argparse.Namespace, cluster: Cluster, decision: Decision) -> int:
    """Tell a decision that was sent; returns the exit status."""
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


def until_ended(cluster: Cluster, name: str) -> None:
    """Wait until no pod of a run that was stopped can write any more.

    Raises:
        LauncherError: 2, one has not ended, as on a node that is gone.
    """
    deadline = time.monotonic() + GONE_S
    while left := [
        pod for pod in cluster.select("Pod", pods_of(name)) if pod["status"]["phase"] in ("Pending", "Running")
    ]:
        if time.monotonic() > deadline:
            pod = left[0]
            where = pod["spec"].get("nodeName", "no node yet")
            message = f"pod {pod['metadata']['name']} has not ended within {GONE_S:.0f} s (on {where})"
            raise refused(message, f"`mnist-job why {name}` says what holds it")
        time.sleep(POLL_S)


def until_suspended(cluster: Cluster, name: str) -> None:
    """Wait until the Job controller makes no pods any more for a run that was suspended.

    Raises:
        LauncherError: 2, it does nothing.
    """
    deadline = time.monotonic() + GONE_S
    while (job := cluster.get("Job", name)) and not Run(job).condition("Suspended"):
        if time.monotonic() > deadline:
            message = f"the cluster's Job controller has not suspended {name} within {GONE_S:.0f} s"
            raise refused(message, "see whether the kube-controller-manager runs")
        time.sleep(POLL_S)


def until_gone(cluster: Cluster, kind: str, name: str, uid: str) -> None:
    """Wait until an object that was deleted is gone.

    Raises:
        LauncherError: 2, something holds it.
    """
    deadline = time.monotonic() + GONE_S
    while (found := cluster.get(kind, name)) and found["metadata"]["uid"] == uid:
        if time.monotonic() > deadline:
            raise refused(f"the {kind} {name} is not gone {GONE_S:.0f} s after its deletion", "see its finalizers")
        time.sleep(POLL_S)


def queue_of(run: Run) -> str:
    """The queue of Kueue that decides when it runs; empty without one."""
    return str(run.job["metadata"].get("labels", {}).get(QUEUE_LABEL, ""))


def refused(message: str, hint: str) -> LauncherError:
    """The error of what is not done."""
    return LauncherError(Status.REFUSED, message, hint)
