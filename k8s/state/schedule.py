"""Schedules as the cluster shows them at a moment: when they start their next run, and how their last runs ended."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from job.errors import JobError
from k8s.api.errors import ApiError, refused
from k8s.state import cron, events
from k8s.state.find import gather_every, get_if_allowed, is_ours, is_schedule, newest_record
from k8s.state.names import RUN_SELECTOR, SINCE, schedule_of
from k8s.state.pods import created
from k8s.state.run import Run, state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

LATE_S = 15  # a start is missed after this: the controller needs a second or two


@dataclass(frozen=True)
class Schedule:
    """One schedule: its CronJob, its runs with the newest first, and the CronJob's events with the oldest first."""

    cronjob: Object
    runs: tuple[Run, ...] = ()
    events: tuple[Object, ...] = ()

    @property
    def name(self) -> str:
        """The name of the schedule and of its CronJob."""
        return str(self.cronjob["metadata"]["name"])

    @property
    def suspended(self) -> bool:
        """Whether it is suspended, so that it starts no runs."""
        return bool(self.cronjob["spec"].get("suspend"))

    @property
    def zone(self) -> str:
        """The name of its time zone; a CronJob without one uses the cluster's, which is usually UTC."""
        return str(self.cronjob["spec"].get("timeZone") or "UTC")

    @property
    def active_run(self) -> Run | None:
        """The newest run that is unfinished, whoever started it."""
        return next(filter(is_unfinished, self.runs), None)

    @property
    def active_jobs(self) -> list[Object]:
        """References to the Jobs that keep the CronJob from starting another: those that it made, until they finish."""
        return list(self.cronjob.get("status", {}).get("active", []))

    @property
    def blocking_run(self) -> Run | None:
        """The run that keeps the CronJob from starting another one."""
        uids = {reference["uid"] for reference in self.active_jobs}
        return next((run for run in self.runs if run.job["metadata"]["uid"] in uids and not has_ended(run)), None)

    @property
    def last(self) -> Run | None:
        """The newest run that has ended."""
        return next((run for run in self.runs if has_ended(run)), None)

    @property
    def failures(self) -> int:
        """How many of the newest runs that ended failed or were rejected in a row, among those whose Jobs exist."""
        ended = [run for run in self.runs if has_ended(run)]
        return next((number for number, run in enumerate(ended) if state(run).code == 0), len(ended))

    @property
    def at_least(self) -> bool:
        """Whether there may have been more failures in a row, whose Jobs were deleted."""
        kept: int = self.cronjob["spec"].get("failedJobsHistoryLimit", 1)
        return self.failures == sum(has_ended(run) for run in self.runs) >= kept

    @property
    def unknown(self) -> str:
        """Why the launcher cannot compute its times, such as an expression that only the cluster knows; else empty."""
        try:
            cron.parse(self.cronjob["spec"]["schedule"])
            cron.time_zone(self.zone)
        except JobError as error:
            return str(error)
        return ""

    def next(self, now: datetime) -> datetime | None:
        """The next start, in its time zone; None if it is suspended or its times are unknown."""
        return None if self.suspended else self._time(lambda times, zone: times.next(now, zone))

    def missed(self, now: datetime) -> datetime | None:
        """The newest start that was missed, in its time zone; None if there is none."""
        due, annotations = self._due(now - timedelta(seconds=LATE_S)), self.cronjob["metadata"].get("annotations", {})
        return due if due and (SINCE not in annotations or due > datetime.fromisoformat(annotations[SINCE])) else None

    def late(self, now: datetime) -> datetime | None:
        """The newest start that was missed and that the cluster will make up, also one from before a change."""
        due, within_s = self._due(now), self.cronjob["spec"].get("startingDeadlineSeconds")
        return due if due and (within_s is None or now - due < timedelta(seconds=within_s)) else None

    def _due(self, now: datetime) -> datetime | None:
        """The newest start that is due since the last run that the cluster's controller started."""
        due = None if self.suspended else self._time(lambda times, zone: times.last(now, zone))
        last = self.cronjob.get("status", {}).get("lastScheduleTime") or created(self.cronjob)
        return due if due and due > datetime.fromisoformat(last) else None

    def _time(self, find: Any) -> datetime | None:
        if self.unknown:
            return None
        times, zone = cron.parse(self.cronjob["spec"]["schedule"]), cron.time_zone(self.zone)
        start: datetime | None = find(times, zone)
        return start and start.astimezone(zone)


def has_ended(run: Run) -> bool:
    """Whether a run has ended, and all of its pods with it."""
    return run.condition("Complete", "Failed") is not None


def is_unfinished(run: Run) -> bool:
    """Whether a run may write to the volume now or later without a `retry`: it has not ended and is not cancelled."""
    return not has_ended(run) and state(run).word != "cancelled"


def is_made_by_cronjob(job: Object) -> bool:
    """Whether a CronJob made a Job by itself, and still owns it."""
    return any(o["kind"] == "CronJob" and o.get("controller") for o in job["metadata"].get("ownerReferences", []))


def find(cluster: Cluster, name: str) -> Object | None:
    """The CronJob of a schedule; None if there is none, it is being deleted, or the user may not see it."""
    cronjob = get_if_allowed(cluster, "CronJob", name)
    return cronjob if is_schedule(cronjob) else None


def get(cluster: Cluster, name: str) -> Object:
    """The CronJob of a schedule.

    Raises:
        LauncherError: 2, there is no such schedule, or the user may not see it.
    """
    cronjob = cluster.get("CronJob", name)
    if is_schedule(cronjob):
        return cronjob
    message = f"there is no schedule {name} in namespace {cluster.namespace}"
    raise refused(message, f"`mnist-job status {cluster.flags}` lists the schedules")


def gather(cluster: Cluster, cronjob: Object) -> Schedule:
    """A schedule with its runs, their newest records, and its events."""
    name, uid = cronjob["metadata"]["name"], cronjob["metadata"]["uid"]
    runs = [run for run in gather_every(cluster) if schedule_of(run.job) == name]
    runs = [run if has_ended(run) else replace(run, record=newest_record(cluster, run)) for run in runs]
    try:
        named = cluster.select("Event", "", f"involvedObject.name={name}")
    except ApiError:
        named = []
    own = [event for event in named if event["involvedObject"].get("uid") == uid]
    return Schedule(cronjob, tuple(runs), tuple(sorted(own, key=events.last_seen)))


def gather_every_schedule(
    cluster: Cluster, runs: Iterable[Run], selector: str = RUN_SELECTOR, *, everywhere: bool = False
) -> list[Schedule]:
    """All schedules by name, without their events; none if this user may not list them.

    Args:
        cluster: where they are.
        runs: all runs, the newest first.
        selector: a label selector for the CronJobs.
        everywhere: whether to look in all namespaces.
    """
    try:
        cronjobs = cluster.select("CronJob", selector, everywhere=everywhere)
    except ApiError as error:
        if error.code != 403:
            raise
        return []
    runs_of = defaultdict(list)
    for run in runs:
        runs_of[run.namespace, schedule_of(run.job)].append(run)
    schedules = [
        Schedule(cronjob, tuple(runs_of[cronjob["metadata"].get("namespace", ""), cronjob["metadata"]["name"]]))
        for cronjob in filter(is_ours, cronjobs)
    ]
    return sorted(schedules, key=lambda schedule: schedule.name)


def state_of(schedule: Schedule) -> tuple[str, str]:
    """The state of a schedule in a word, and the run that this word is about, if there is one."""
    blocking, active = schedule.blocking_run, schedule.active_run
    if schedule.suspended:
        return "suspended", f"{active.name} continues" if active else ""
    if blocking and blocking.job["spec"].get("suspend"):
        return "held up", blocking.name
    if active and not active.job["spec"].get("suspend"):
        return "running", active.name
    return "waiting", ""


def next_start(schedule: Schedule, now: datetime, *, changed: bool = False) -> str:
    """When a schedule starts its next run, in words; empty if that is unknown.

    Args:
        schedule: it, with its runs.
        now: the current time.
        changed: whether its times were changed just now. The cluster's controller reads new times at their next start,
            or when something else happens to the CronJob, so it may make up a start that was missed, or not.
    """
    coming, late = schedule.next(now), schedule.late(now)
    text = f"the next run starts at {coming:%Y-%m-%d %H:%M} {schedule.zone}" if coming else ""
    if not late:
        return text
    blocking = [str(reference["name"]) for reference in schedule.active_jobs]
    then = "may still start" if changed else f"starts after {blocking[0]}" if blocking else "starts now"
    return f"{text}; the run of {late:%H:%M}, which was missed, {then}"


def rfc3339(time: datetime) -> str:
    """A time in UTC as Kubernetes writes it, in whole seconds."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
