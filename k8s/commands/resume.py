"""resume: go on with a suspended run from its checkpoint, or with a suspended schedule."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k8s.commands import control, overlap
from k8s.commands.control import Decision, add_flags
from k8s.state import schedule as schedules
from k8s.state.names import SINCE
from k8s.state.run import state
from k8s.state.schedule import Schedule

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.state.run import Run

__all__ = ["add_flags", "run"]


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Resume a run or a schedule; returns the exit status."""
    cluster = connect()
    if found := schedules.find(cluster, arguments.name):
        return schedules.change(arguments, cluster, decide_schedule(schedules.Schedule(found), datetime.now(UTC)))
    return control.decide_and_send(arguments, cluster, decide, functools.partial(overlap.enter, cluster))


def decide_schedule(schedule: Schedule, now: datetime) -> Decision:
    """What to do with a schedule that is to go on."""
    if not schedule.suspended:
        return Decision("resumed", f"{schedule.name} is not suspended: it goes on as it is")
    since = {"annotations": {SINCE: f"{now:%Y-%m-%dT%H:%M:%SZ}"}}
    change = {"metadata": since, "spec": {"suspend": False}}
    resumed = Schedule({**schedule.cronjob, "spec": schedule.cronjob["spec"] | change["spec"]})
    text = f": {text}" if (text := schedules.next_start(resumed, now)) else ""
    return Decision("resumed", f"{schedule.name} goes on{text}", change)


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
