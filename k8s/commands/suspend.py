"""suspend: stop a run or a schedule until `resume`; a run's checkpoint is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.commands import control
from k8s.commands.control import Decision, add_flags
from k8s.state import schedule as schedules
from k8s.state.run import state

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.state.run import Run
    from k8s.state.schedule import Schedule

__all__ = ["add_flags", "run"]


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Suspend a run or a schedule; returns the exit status."""
    cluster = connect()
    if found := schedules.find(cluster, arguments.name):
        return schedules.change(arguments, cluster, decide_schedule(schedules.gather(cluster, found)))
    return control.decide_and_send(arguments, cluster, decide)


def decide_schedule(schedule: Schedule) -> Decision:
    """What to do with a schedule that is to be suspended."""
    name = schedule.name
    if schedule.suspended:
        return Decision("suspended", f"{name} is suspended already; `mnist-job resume {name}` goes on with it")
    text = f"{name} is suspended: it starts no run until `mnist-job resume {name}`"
    if run := schedule.going_on:
        text = f"{text}; {run.name} is left alone: `mnist-job suspend {run.name}` stops it too"
    return Decision("suspended", text, {"spec": {"suspend": True}})


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
