"""Schedules as the cluster shows them at a moment: when they start their next run, and how their last ones ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from job.errors import JobError
from k8s.api.errors import ApiError, LauncherError, Status
from k8s.commands import control
from k8s.commands.overlap import active, owner_of
from k8s.state import cron, events
from k8s.state.names import APP, NAME_LABEL, RUNS, SINCE
from k8s.state.pods import created
from k8s.state.run import Run, gather_every, is_going, last_record, state

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.commands.control import Decision

LATE_S = 15  # after which a start is missed: the controller needs a second or two


@dataclass(frozen=True)
class Schedule:
    """What there is of one schedule: its CronJob, its runs, the newest first, and its events, the oldest first."""

    cronjob: Object
    runs: tuple[Run, ...] = ()
    events: tuple[Object, ...] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.cronjob["metadata"]["name"])

    @property
    def suspended(self) -> bool:
        """Whether it starts nothing."""
        return bool(self.cronjob["spec"].get("suspend"))

    @property
    def zone(self) -> str:
        """The name of its time zone; where a CronJob has none, the cluster's, which mostly is this."""
        return str(self.cronjob["spec"].get("timeZone") or "UTC")

    @property
    def going_on(self) -> Run | None:
        """The run that holds up the next start."""
        listed = {entry["uid"] for entry in active(self.cronjob)}
        return next((run for run in self.runs if run.job["metadata"]["uid"] in listed and not has_ended(run)), None)

    @property
    def last(self) -> Run | None:
        """The newest run that has ended."""
        return next((run for run in self.runs if has_ended(run)), None)

    @property
    def failures(self) -> int:
        """How many of the newest runs that ended failed or were rejected, one after another; of those that are kept."""
        ended = [run for run in self.runs if has_ended(run)]
        return next((number for number, run in enumerate(ended) if state(run).code == 0), len(ended))

    @property
    def at_least(self) -> bool:
        """Whether there may have been more failures in a row, whose Jobs are not kept any more."""
        kept: int = self.cronjob["spec"].get("failedJobsHistoryLimit", 1)
        return self.failures == sum(has_ended(run) for run in self.runs) >= kept

    @property
    def unknown(self) -> str:
        """Why its times are not known here, as of an expression that the cluster knows; empty where they are."""
        try:
            cron.parse(self.cronjob["spec"]["schedule"])
            cron.time_zone(self.zone)
        except JobError as error:
            return str(error)
        return ""

    def next(self, now: datetime) -> datetime | None:
        """The next start, in its time zone; None where it is suspended, or its expression or zone is not known here."""
        return None if self.suspended else self._time(lambda times, zone: times.next(now, zone))

    def missed(self, now: datetime) -> datetime | None:
        """The newest start that should have been, in its time zone; None where it was, or none should have been."""
        due, since = self._due(now - timedelta(seconds=LATE_S)), self.cronjob["metadata"].get("annotations", {})
        return due if due and (SINCE not in since or due > datetime.fromisoformat(since[SINCE])) else None

    def late(self, now: datetime) -> datetime | None:
        """The newest start that has not been and still comes, though it were of other times or while suspended."""
        due, within_s = self._due(now), self.cronjob["spec"].get("startingDeadlineSeconds")
        return due if due and (within_s is None or now - due < timedelta(seconds=within_s)) else None

    def _due(self, now: datetime) -> datetime | None:
        """The newest start since the last one that was made, as the cluster's controller counts them."""
        due = None if self.suspended else self._time(lambda times, zone: times.last(now, zone))
        last = self.cronjob.get("status", {}).get("lastScheduleTime") or created(self.cronjob)
        return due if due and due > datetime.fromisoformat(last) else None

    def _time(self, find: Any) -> datetime | None:
        if self.unknown:
            return None
        times, zone = cron.parse(self.cronjob["spec"]["schedule"]), cron.time_zone(self.zone)
        found: datetime | None = find(times, zone)
        return found and found.astimezone(zone)


def has_ended(run: Run) -> bool:
    """Whether a run holds nothing up any more, its pods having ended."""
    return run.condition("Complete", "Failed") is not None


def find(cluster: Cluster, name: str) -> Object | None:
    """The CronJob of a schedule; None where there is none of that name, it goes, or it may not be looked at."""
    try:
        found = cluster.get("CronJob", name)
    except ApiError as error:
        if error.code != 403:
            raise
        return None
    ours = found and found["metadata"].get("labels", {}).get(NAME_LABEL) == APP
    return found if found and ours and not is_going(found) else None


def get(cluster: Cluster, name: str) -> Object:
    """The CronJob of a schedule.

    Raises:
        LauncherError: 2, when there is no such schedule.
    """
    if found := find(cluster, name):
        return found
    message = f"there is no schedule {name} in namespace {cluster.namespace}"
    raise LauncherError(Status.REFUSED, message, "`mnist-job status` lists the schedules")


def gather(cluster: Cluster, cronjob: Object) -> Schedule:
    """What the cluster shows of a schedule."""
    name, uid = cronjob["metadata"]["name"], cronjob["metadata"]["uid"]
    runs = [run for run in gather_every(cluster) if is_of_schedule(run, cronjob)]
    try:
        told = cluster.select("Event", "", f"involvedObject.name={name}")
    except ApiError:
        told = []
    mine = [event for event in told if event["involvedObject"].get("uid") == uid]
    told_by = tuple(run if has_ended(run) else replace(run, record=last_record(cluster, run)) for run in runs)
    return Schedule(cronjob, told_by, tuple(sorted(mine, key=events.when)))


def gather_every_schedule(
    cluster: Cluster, runs: Iterable[Run], selector: str = RUNS, *, everywhere: bool = False
) -> list[Schedule]:
    """All schedules by name, without their events; none if this user may not list them.

    Args:
        cluster: where they are.
        runs: all runs, the newest first.
        selector: a label selector for the CronJobs.
        everywhere: whether to look in all namespaces.
    """
    try:
        found = cluster.select("CronJob", selector, everywhere=everywhere)
    except ApiError as error:
        if error.code != 403:
            raise
        return []
    runs = list(runs)
    made = [Schedule(one, tuple(run for run in runs if is_of_schedule(run, one))) for one in found]
    return sorted(made, key=lambda schedule: schedule.name)


def is_of_schedule(run: Run, cronjob: Object) -> bool:
    """Whether a run belongs to a schedule."""
    name, namespace = cronjob["metadata"]["name"], cronjob["metadata"].get("namespace", "")
    return (owner_of(run.job), run.namespace) == (name, namespace)


def state_of(seen: Schedule) -> tuple[str, str]:
    """The state of a schedule in a word, and the run that it is about, if it is about one."""
    run = seen.going_on
    if seen.suspended:
        return "suspended", f"{run.name} goes on" if run else ""
    if run:
        return ("held up" if run.job["spec"].get("suspend") else "running"), run.name
    return "waiting", ""


def next_start(seen: Schedule, now: datetime, *, changed: bool = False) -> str:
    """When a schedule starts its next run, in words; empty where that is not known.

    Where its times were changed just now, the cluster's controller looks at them at their next start, or when something
    else happens to the CronJob: whether it makes up one that was missed cannot be said.
    """
    coming, late = seen.next(now), seen.late(now)
    text = f"the next run starts at {coming:%Y-%m-%d %H:%M} {seen.zone}" if coming else ""
    if not late:
        return text
    held_up = [str(entry["name"]) for entry in active(seen.cronjob)]
    then = "may start too" if changed else f"after {held_up[0]}" if held_up else "at once"
    return f"{text}, and that of {late:%H:%M}, which was missed, {then}"


def change(arguments: argparse.Namespace, cluster: Cluster, decision: Decision) -> int:
    """Send a decision on a schedule, and tell it; returns the exit status."""
    if decision.change:
        cluster.patch("CronJob", arguments.name, decision.change)
    return control.tell(arguments, cluster, decision)
