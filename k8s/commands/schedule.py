"""schedule: train on a schedule, given as a cron expression.

The jobTemplate of the CronJob is the Job that `submit` would send.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from job import config
from job.config import usage_error
from k8s.api.errors import ApiError, refused
from k8s.checks.model import absent
from k8s.checks.trial import NO_DRY_RUN, remedy
from k8s.commands import flags, submit
from k8s.commands.model import settle_owners
from k8s.commands.replace import until_deleted
from k8s.render.attempt import record_submission
from k8s.render.submission import training_settings
from k8s.state import cron
from k8s.state.find import find_job, is_being_deleted, is_ours
from k8s.state.names import APP, QUEUE_LABEL, SCHEDULE_LABEL, SINCE, SUBMITTED
from k8s.state.schedule import Schedule, next_start, rfc3339
from k8s.view.output import print_result

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

EXAMPLES = (
    "mnist-job schedule '0 2 * * *' --timezone Europe/Berlin --name nightly -- --min-accuracy 0.92",
    "mnist-job schedule @weekly --name weekly --workers 4 --deadline 2h --dry-run",
)
OUTPUTS = ("text", "json", "yaml", "name")
# A run's name is its schedule's name, a hyphen and at most ten digits: the minute at which it was due, or the second at
# which it was triggered, since 1970.
SUFFIX = "-0000000000"
LATEST_START_S = 3600  # a start that is late by more is skipped
TRIES = 5  # to change a schedule that somebody else changes at the same time
SHOWN = 5  # names of changed fields in a message
KEPT = {"successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 10}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `schedule`: a time, and the flags of `submit`."""
    add = parser.add_argument
    add("cron", metavar="CRON", help="when runs start, quoted: '0 2 * * *' or @daily")
    add("--timezone", default="UTC", metavar="ZONE", help="time zone of CRON, such as Europe/Berlin (default: UTC)")
    flags.add_dry_run(parser)
    flags.add_skip_checks(parser)
    flags.add_submission(parser, "name of the schedule; the names of its runs begin with it (default: <dataset>)")
    parser.usage = "%(prog)s CRON [FLAGS] [-- TRAINING FLAGS]"


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Create a schedule, or change the one of that name; returns the exit status."""
    times, _ = cron.parse(arguments.cron), cron.time_zone(arguments.timezone)
    arguments.name = arguments.name or training_settings(arguments.training).dataset.replace("_", "-")
    config.check_name(arguments.name, arguments.workers or 1, suffix=SUFFIX)
    submission = flags.submission_of(arguments)
    if submission.deadline_s and submission.deadline_s >= times.shortest_gap_s:
        message = f"--deadline must be below the shortest time between two starts, {times.shortest_gap_s} s"
        raise usage_error(f"{message}, not {submission.deadline_s} s", "a run that hangs would delay the next one")

    def scheduled(job: Object) -> Object:
        config.check_name(arguments.name, job["spec"]["completions"], suffix=SUFFIX)
        return cron_job(job, arguments.cron, arguments.timezone)

    def accepted(job: Object) -> Object:
        new = scheduled(job)
        send(connect(), new, existing(connect(), arguments.name), dry_run=True)
        return new

    job, model = submit.render_job(arguments, submission), submit.model_map(submission)
    if arguments.dry_run:
        return submit.show(arguments, job, connect, scheduled if arguments.dry_run == "client" else accepted, model)
    cluster = connect()
    job, claim = submit.prepare(cluster, job)
    new = scheduled(job)
    old = existing(cluster, arguments.name)
    trial = {"apiVersion": "batch/v1", "kind": "Job", **copy.deepcopy(new["spec"]["jobTemplate"])}
    trial["metadata"]["name"] = arguments.name + SUFFIX
    submit.check(cluster, trial, claim, arguments.name, model, skip=arguments.skip_checks)
    made = send(cluster, new, old, dry_run=True)
    changed = sorted(changed_fields(old["spec"], made["spec"])) if old else []
    if not old or changed or absent(cluster, model):
        made = submit.create(cluster, trial, lambda: send(cluster, new, old), model)
        if old:  # runs that have started keep the model that it had before
            settle_owners(cluster, old["spec"]["jobTemplate"]["spec"]["template"])
    report(cluster, made, arguments.output, created=not old, changed=changed)
    return 0


def cron_job(job: Object, expression: str, timezone: str) -> Object:
    """The CronJob that creates a rendered Job repeatedly.

    Args:
        job: its name becomes the schedule's; its deadline is lowered below the shortest time between two starts.
        expression: when, as cron.parse() reads it.
        timezone: a name of the time zone database.
    """
    spec, name = copy.deepcopy(job["spec"]), job["metadata"]["name"]
    gap_s = cron.parse(expression).shortest_gap_s
    if spec.get("activeDeadlineSeconds", gap_s) >= gap_s:
        # The pods must be gone, too, before the next start.
        spec["activeDeadlineSeconds"] = gap_s - min(60, gap_s // 2)
    # The history limits keep Jobs instead: after a week, the Job of a monthly run would be gone before the next one.
    spec.pop("ttlSecondsAfterFinished", None)
    labels = {key: value for key, value in job["metadata"]["labels"].items() if key != QUEUE_LABEL}
    metadata = {key: value for key, value in job["metadata"].items() if key != "name"}
    metadata["labels"] = {**metadata["labels"], SCHEDULE_LABEL: name}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "schedule": expression.strip(),
            "timeZone": timezone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": min(LATEST_START_S, gap_s // 2),
            **KEPT,
            "jobTemplate": record_submission({"metadata": metadata, "spec": spec}),
        },
    }


def existing(cluster: Cluster, name: str) -> Object | None:
    """The existing CronJob of that name; None if there is none. Waits for a deletion to finish.

    Raises:
        LauncherError: 2, the name is that of a Job or of somebody else's CronJob, or a deletion does not finish.
    """
    if job := find_job(cluster, name) or cluster.get("Job", name):
        raise refused(f"a Job named {job['metadata']['name']} already exists", "choose another --name")
    cronjob = cluster.get("CronJob", name)
    if cronjob and is_being_deleted(cronjob):  # for a moment after `cancel`
        until_deleted(cluster, name, cronjob["metadata"]["uid"])
        return existing(cluster, name)
    if cronjob and not is_ours(cronjob):
        message = f"the CronJob {name} in namespace {cluster.namespace} does not belong to {APP}"
        raise refused(message, "choose another --name")
    return cronjob


def send(cluster: Cluster, new: Object, old: Object | None, *, dry_run: bool = False, tries: int = TRIES) -> Object:
    """Create a schedule, or change the existing one; returns it as the API server made it, or new if it cannot try it.

    Raises:
        LauncherError: 2, the API server refuses it.
    """
    try:
        if old is None:
            return cluster.create(new, dry_run=dry_run)
        return cluster.replace(with_spec(old, new["spec"], cluster.now()), dry_run=dry_run)
    except ApiError as error:
        if (
            error.code == 409 and tries > 1
        ):  # created or changed meanwhile, for example by `suspend` or the cluster's controller
            return send(cluster, new, existing(cluster, new["metadata"]["name"]), dry_run=dry_run, tries=tries - 1)
        if dry_run and NO_DRY_RUN in error.message:
            return new
        if error.code != 403:
            raise
        raise refused(error.message, remedy(cluster, "CronJob", error.message)) from error


def with_spec(cronjob: Object, spec: Object, now: datetime) -> Object:
    """A CronJob of the version that was read, with another spec; it stays suspended if it is."""
    metadata, old = cronjob["metadata"], cronjob["spec"]
    if any(spec[key] != old.get(key) for key in ("schedule", "timeZone")):
        metadata = {**metadata, "annotations": {**metadata.get("annotations", {}), SINCE: rfc3339(now)}}
    return {**cronjob, "metadata": metadata, "spec": {**spec, "suspend": old.get("suspend", False)}}


def changed_fields(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The paths of the fields in which two objects differ, such as jobTemplate.spec.completions."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = (old.keys() | new.keys()) - {SUBMITTED}  # it repeats the other fields
        pairs = [(key, old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(number), *both) for number, both in enumerate(zip(old, new, strict=True))]
    else:
        if old != new:
            yield path
        return
    for key, before, after in pairs:
        yield from changed_fields(before, after, f"{path}.{key}" if path else key)


def report(cluster: Cluster, cronjob: Object, output: str, *, created: bool, changed: list[str]) -> None:
    """Report what was created or changed."""
    schedule = Schedule(cronjob)
    name, uid = schedule.name, cronjob["metadata"]["uid"]
    now, deadline_s = cluster.now(), cronjob["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    coming, late = (when and when.isoformat() for when in (schedule.next(now), schedule.late(now)))
    result = {"name": name, "namespace": cluster.namespace, "uid": uid, "created": created, "changed": changed}
    result |= {"next": coming, "late": late, "deadline_s": deadline_s}
    when = next_start(schedule, now, changed=bool({"schedule", "timeZone"} & {*changed})) or "it is suspended"
    if created:
        text = f"scheduled {name}: {when}; a run fails after {deadline_s} s"
    elif changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        fields = f"{', '.join(changed[:SHOWN])}{more}"
        text = f"changed the schedule {name} ({fields}): {when}; runs that have started stay as they are"
    else:
        text = f"schedule {name} is unchanged: {when}"
    commands = f"  mnist-job status {name} {cluster.flags}    mnist-job trigger {name} {cluster.flags}"
    print_result(output, result, text, commands)
