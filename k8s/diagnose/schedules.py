"""Why a schedule does not start runs. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from k8s.diagnose.catalogue import REMEDIES
from k8s.diagnose.explanation import Explanation
from k8s.state import events
from k8s.state.run import Run, state
from k8s.state.schedule import Schedule, next_start

# Events of the CronJob controller on a start that does not come.
UNSTARTED = (
    "JobAlreadyActive",
    "MissSchedule",
    "TooManyMissedTimes",
    "FailedCreate",
    "UnknownTimeZone",
)


def explain_no_start(seen: Schedule, now: datetime) -> Explanation | None:
    """Why a schedule starts nothing; None where it does."""
    run, missed = seen.going_on, seen.missed(now)
    if seen.suspended:
        return Explanation("schedule-suspended", "it is suspended, and starts no run", REMEDIES["schedule-suspended"])
    if run and run.job["spec"].get("suspend"):
        sentence = f"it starts no run, for {run.name} has not ended: it is {state(run)}"
        return Explanation("schedule-held-up", sentence, REMEDIES["schedule-held-up"])
    if missed:
        return unstarted(seen, missed)
    return None


def unstarted(seen: Schedule, due: datetime) -> Explanation:
    """Why a run was not started."""
    since = [event for event in seen.events if (at := events.when(event)) and datetime.fromisoformat(at) >= due]
    found = events.last(since, *UNSTARTED)
    reason, remedy = "schedule-missed", REMEDIES["schedule-missed"]
    within_s = seen.cronjob["spec"].get("startingDeadlineSeconds")
    told = f"the schedule was suspended or another then, or the cluster's CronJob controller away for {within_s} s"
    if found and found["reason"] == "JobAlreadyActive":
        reason, remedy, told = "schedule-overlap", REMEDIES["schedule-overlap"], "another run had not ended"
    elif found and found["reason"] != "MissSchedule":
        told = events.message(found)
    return Explanation(reason, f"its run of {due:%Y-%m-%d %H:%M} {seen.zone} was not started: {told}", remedy)


def explain_healthy(seen: Schedule, now: datetime) -> Explanation:
    """That nothing is known to be wrong with a schedule."""
    then = f"; its times are not known here: {seen.unknown}" if seen.unknown else f"; {next_start(seen, now)}"
    if seen.going_on:
        return Explanation("running", f"nothing is wrong: {seen.going_on.name} goes on{then}")
    if seen.last is None:
        return Explanation("waiting", f"nothing is wrong: no run of it has ended yet{then}")
    return Explanation("published", f"nothing is wrong: its last run {seen.last.name} published a model{then}")


def explain_last_run(seen: Schedule, run: Run, why: Explanation) -> Explanation:
    """The cause of a run's failure, as the schedule's."""
    row = f", the last of {'at least ' * seen.at_least}{seen.failures} in a row" if seen.failures > 1 else ""
    ended = "was rejected" if state(run).word == "rejected" else "failed"
    return replace(why, sentence=f"its last run {run.name} {ended}{row}: {why.sentence}")
