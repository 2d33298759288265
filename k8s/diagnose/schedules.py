"""Why a schedule does not start runs, and how its last run ended. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from k8s.diagnose.catalogue import remedy
from k8s.diagnose.explanation import Explanation
from k8s.state import events
from k8s.state.run import Run, state
from k8s.state.schedule import Schedule, next_start

HEALTHY = "nothing is wrong: "
# Events of the CronJob controller about a run that it does not start.
NOT_STARTED = ("JobAlreadyActive", "MissSchedule", "TooManyMissedTimes", "FailedCreate", "UnknownTimeZone")


def explain_no_start(schedule: Schedule, now: datetime, flags: str) -> Explanation | None:
    """Why a schedule starts no runs; None if it does.

    Args:
        schedule: the schedule.
        now: the current time.
        flags: those that select its namespace and cluster, for the remedy's commands.
    """
    run, missed = schedule.blocking_run, schedule.missed(now)
    if schedule.suspended:
        reason, sentence = "schedule-suspended", "the schedule is suspended and starts no runs"
    elif run and run.job["spec"].get("suspend"):
        reason = "queued" if state(run).word == "queued" else "schedule-held-up"
        sentence = f"the schedule starts no run because its run {run.name} has not ended: it is {state(run)}"
    elif missed:
        reason, sentence = explain_missed_start(schedule, missed)
    else:
        return None
    names = {"run": run.name} if run else {}
    return Explanation(reason, sentence, remedy(reason, flags=flags, schedule=schedule.name, **names))


def explain_missed_start(schedule: Schedule, due: datetime) -> tuple[str, str]:
    """Why a run was not started: the reason, and the sentence."""
    since = [each for each in schedule.events if (at := events.last_seen(each)) and datetime.fromisoformat(at) >= due]
    event = events.newest(since, *NOT_STARTED)
    reason, within_s = "schedule-missed", schedule.cronjob["spec"].get("startingDeadlineSeconds")
    if event and event["reason"] == "JobAlreadyActive":
        reason, cause = "schedule-overlap", "another run had not ended"
    elif event and event["reason"] != "MissSchedule":
        cause = events.message(event)
    else:
        duration = f" for {within_s} s" if within_s else ""
        cause = (
            "the schedule was suspended or had other times then, "
            f"or the cluster's CronJob controller did not run{duration}"
        )
    return reason, f"the run of {due:%Y-%m-%d %H:%M} {schedule.zone} was not started: {cause}"


def explain_healthy(schedule: Schedule, now: datetime) -> Explanation:
    """That nothing is known to be wrong with a schedule."""
    coming = f"its next start is unknown: {error}" if (error := schedule.unknown) else next_start(schedule, now)
    run = schedule.active_run
    if run:
        return Explanation("running", f"nothing is wrong: its run {run.name} has not ended; {coming}")
    if schedule.last is None:
        return Explanation("waiting", f"nothing is wrong: none of its runs has ended yet; {coming}")
    return Explanation("published", f"nothing is wrong: its last run {schedule.last.name} published a model; {coming}")


def is_obstacle(why: Explanation) -> bool:
    """Whether a run that has not ended needs somebody to do something."""
    return bool(why.remedy) and not why.remedy.startswith("none needed") and not why.sentence.startswith(HEALTHY)


def explain_active_run(run: Run, why: Explanation, no_start: Explanation | None) -> Explanation:
    """What is wrong with a schedule's unfinished run, and which run was not started because of it."""
    before = f"{no_start.sentence}; " if no_start else ""
    return replace(why, sentence=f"{before}its run {run.name} has not ended: {why.sentence}")


def explain_last_run(schedule: Schedule, run: Run, why: Explanation) -> Explanation:
    """Why the last run of a schedule failed.

    Args:
        schedule: the schedule.
        run: its last run.
        why: why that run failed.
    """
    count = f"{'at least ' if schedule.at_least else ''}{schedule.failures}"
    in_a_row = f" ({count} failures in a row)" if schedule.failures > 1 else ""
    ended = "was rejected" if state(run).word == "rejected" else "failed"
    return replace(why, sentence=f"its last run {run.name} {ended}{in_a_row}: {why.sentence}")
