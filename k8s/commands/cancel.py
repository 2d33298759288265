"""cancel: end a run before it is done; its checkpoint is kept, and `retry` starts it again. Or end a schedule.

A schedule's CronJob is deleted, and its Jobs, which are nobody's then, stay.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.commands import control, overlap
from k8s.commands.control import Decision, add_flags
from k8s.state import schedule as schedules
from k8s.state.names import CANCELLED
from k8s.state.run import state

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.state.run import Run
    from k8s.state.schedule import Schedule

__all__ = ["add_flags", "run"]


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Cancel a run or a schedule; returns the exit status."""
    cluster = connect()
    if found := schedules.find(cluster, arguments.name):
        return cancel_schedule(arguments, cluster, schedules.gather(cluster, found))
    decide_now = functools.partial(decide, at=datetime.now(UTC))

    def before(run: Run) -> None:
        overlap.held_up(cluster, run)  # for the rights that are needed after it
        leave_queue(cluster, run)

    return control.decide_and_send(arguments, cluster, decide_now, before, functools.partial(overlap.leave, cluster))


def cancel_schedule(arguments: argparse.Namespace, cluster: Cluster, schedule: Schedule) -> int:
    """Delete a schedule without its runs; returns the exit status."""
    uid = schedule.cronjob["metadata"]["uid"]
    cluster.delete("CronJob", schedule.name, uid=uid, orphan=True)
    control.until_gone(cluster, "CronJob", schedule.name, uid)  # its Jobs are its own until then
    text = f"{schedule.name} is cancelled: its CronJob is deleted; its runs and their models stay"
    if run := schedule.going_on:
        text = f"{text}; {run.name} is left alone: `mnist-job cancel {run.name}` ends it too"
    return control.tell(arguments, cluster, Decision("cancelled", text, {}))


def decide(run: Run, at: datetime) -> Decision:
    """What to do with a run that is to be cancelled.

    Raises:
        LauncherError: 2, it has ended.
    """
    name, now = run.name, state(run).word
    control.refuse_ended(run)
    if now == "cancelled":
        return Decision("cancelled", f"{name} is cancelled already; `mnist-job retry {name}` starts it again")
    leaving = "" if now in ("suspended", "queued") else " its workers write a checkpoint and leave within 20 s;"
    text = f"{name} is cancelled:{leaving} `mnist-job retry {name}` starts it again from its newest checkpoint"
    metadata = {"annotations": {CANCELLED: f"{at:%Y-%m-%dT%H:%M:%SZ}"}}
    return Decision("cancelled", text, {"metadata": metadata, "spec": {"suspend": True}})


def leave_queue(cluster: Cluster, run: Run) -> None:
    """Take a run out of Kueue's queue, which would start it again: deactivate what stands for it there."""
    if not control.queue_of(run):
        return
    try:
        workloads = cluster.select("Workload", f"kueue.x-k8s.io/job-uid={run.job['metadata']['uid']}")
    except ApiError as error:
        if error.code == 404:  # Kueue is not there, and starts nothing
            return
        raise
    for workload in workloads:
        cluster.patch("Workload", workload["metadata"]["name"], {"spec": {"active": False}})
