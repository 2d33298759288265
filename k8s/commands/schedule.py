"""schedule: train again and again, at the times that a cron expression names.

The CronJob's jobTemplate is the Job that `submit` would send, labels and spec.
"""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from job import config
from job.config import usage
from k8s.api.errors import ApiError
from k8s.commands import flags, submit
from k8s.commands.control import refused, until_gone
from k8s.render.submission import training_settings
from k8s.state import cron
from k8s.state.names import APP, NAME_LABEL, QUEUE_LABEL, SINCE
from k8s.state.run import is_going
from k8s.state.schedule import Schedule, next_start

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

# A run's name is its schedule's with a hyphen and at most ten digits: the minute at which it was due, or the second at
# which it was triggered, since 1970.
SUFFIX = "-0000000000"
LATEST_START_S = 3600  # a start that is missed by more is left out
TRIES = 5  # to change a schedule that somebody else changes meanwhile
SHOWN = 5  # of the fields that are changed
KEPT = {"successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 10}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `schedule` takes: a time, and submit's flags."""
    add = parser.add_argument
    add("cron", metavar="CRON", help="when runs start, quoted: '0 2 * * *' or @daily")
    add("--timezone", default="UTC", metavar="ZONE", help="of the times, as Europe/Berlin (default: UTC)")
    flags.add_dry_run(parser)
    flags.add_submission(parser, "name of the schedule, with which its runs' begin (default: <dataset>)")
    parser.usage = "%(prog)s CRON [FLAGS] [-- TRAINING FLAGS]"


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Make a schedule, or change the one of that name; returns the exit status."""
    times, _ = cron.parse(arguments.cron), cron.time_zone(arguments.timezone)
    arguments.name = arguments.name or training_settings(arguments.training).dataset.replace("_", "-")
    config.check_name(arguments.name, arguments.workers or 1, suffix=SUFFIX)
    submission = flags.submission_of(arguments, datetime.now(UTC))
    if submission.deadline_s and submission.deadline_s >= times.period_s:
        message = f"--deadline must be below the {times.period_s} s that may lie between two starts"
        raise usage(f"{message}, not {submission.deadline_s} s", "a run that hangs would hold up the next one")

    def scheduled(job: Object) -> Object:
        config.check_name(arguments.name, job["spec"]["completions"], suffix=SUFFIX)
        return cron_job(job, arguments.cron, arguments.timezone)

    def tried(job: Object) -> Object:
        new = scheduled(job)
        send(connect(), new, there_is(connect(), arguments.name), dry_run=True)
        return new

    if arguments.dry_run:
        return submit.show(arguments, submission, connect, scheduled if arguments.dry_run == "client" else tried)
    cluster = connect()
    job, claim = submit.prepare(cluster, submission)
    new = scheduled(job)
    old = there_is(cluster, arguments.name)
    trial = {"apiVersion": "batch/v1", "kind": "Job", **copy.deepcopy(new["spec"]["jobTemplate"])}
    trial["metadata"]["name"] = arguments.name + SUFFIX
    submit.check(cluster, trial, claim, arguments.name)
    made = send(cluster, new, old, dry_run=True)
    changed = sorted(differences(old["spec"], made["spec"])) if old else []
    if not old or changed:
        submit.create_setup(cluster, trial)
        made = send(cluster, new, old)
    tell(cluster, made, arguments.output, created=not old, changed=changed)
    return 0


def cron_job(job: Object, expression: str, timezone: str) -> Object:
    """The CronJob that makes a rendered Job again and again.

    Args:
        job: it; its name is the schedule's, and its deadline is lowered where it is not below the period.
        expression: when, as cron.parse() reads it.
        timezone: a name of the time zone database.
    """
    spec, period_s = copy.deepcopy(job["spec"]), cron.parse(expression).period_s
    if spec.get("activeDeadlineSeconds", period_s) >= period_s:
        # Before the next start its pods, too, are to be gone.
        spec["activeDeadlineSeconds"] = period_s - min(60, period_s // 2)
    # The history limits keep Jobs instead: after a week, that of a month's run would be gone before the next.
    spec.pop("ttlSecondsAfterFinished", None)
    labels = {key: value for key, value in job["metadata"]["labels"].items() if key != QUEUE_LABEL}
    template = {key: value for key, value in job["metadata"].items() if key != "name"}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": job["metadata"]["name"], "labels": labels},
        "spec": {
            "schedule": expression.strip(),
            "timeZone": timezone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": min(LATEST_START_S, period_s // 2),
            **KEPT,
            "jobTemplate": {"metadata": template, "spec": spec},
        },
    }


def there_is(cluster: Cluster, name: str) -> Object | None:
    """The schedule of that name, which is to be changed; None where there is none, or none any more.

    Raises:
        LauncherError: 2, when the name is a run's, or the CronJob of that name is something else, or does not go.
    """
    if cluster.get("Job", name):
        raise refused(f"there is a Job {name} already", "give the schedule another --name")
    found = cluster.get("CronJob", name)
    if found and is_going(found):  # as after `cancel`
        until_gone(cluster, "CronJob", name, found["metadata"]["uid"])
        return there_is(cluster, name)
    if found and found["metadata"].get("labels", {}).get(NAME_LABEL) != APP:
        raise refused(
            f"the CronJob {name} in namespace {cluster.namespace} is no schedule of {APP}", "give another --name"
        )
    return found


def send(cluster: Cluster, new: Object, old: Object | None, *, dry_run: bool = False, tries: int = TRIES) -> Object:
    """Create a schedule, or change the one of its name; returns it as it is made.

    Raises:
        LauncherError: 2, the API server refuses it.
    """
    try:
        if old is None:
            return cluster.create(new, dry_run=dry_run)
        return cluster.replace(changed_to(new, old, datetime.now(UTC)), dry_run=dry_run)
    except ApiError as error:
        if error.code == 409 and tries > 1:  # made or changed meanwhile, as by `suspend` or the cluster's controller
            return send(cluster, new, there_is(cluster, new["metadata"]["name"]), dry_run=dry_run, tries=tries - 1)
        if error.code != 403:
            raise
        raise refused(error.message, "bind the role mnist-job-runner of k8s/manifests/rbac") from error


def changed_to(new: Object, old: Object, now: datetime) -> Object:
    """A schedule of the version that was read, suspended if that is, with the spec of another one."""
    spec, metadata = new["spec"] | {"suspend": old["spec"].get("suspend", False)}, old["metadata"]
    if any(spec[key] != old["spec"].get(key) for key in ("schedule", "timeZone")):
        since = {SINCE: f"{now:%Y-%m-%dT%H:%M:%SZ}"}
        metadata = {**metadata, "annotations": metadata.get("annotations", {}) | since}
    return {**old, "metadata": metadata, "spec": spec}


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Where two objects differ, as jobTemplate.spec.completions."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(key, old.get(key), new.get(key)) for key in old.keys() | new.keys()]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(number), *both) for number, both in enumerate(zip(old, new, strict=True))]
    else:
        if old != new:
            yield path
        return
    for key, before, after in pairs:
        yield from differences(before, after, f"{path}.{key}" if path else key)


def tell(cluster: Cluster, made: Object, output: str, *, created: bool, changed: list[str]) -> None:
    """Say what was made or changed."""
    seen, where = Schedule(made), f"-n {cluster.namespace}"
    now, deadline_s = datetime.now(UTC), made["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    if output == "json":
        found = {"name": seen.name, "namespace": cluster.namespace, "uid": made["metadata"]["uid"], "created": created}
        coming, late = (when and when.isoformat() for when in (seen.next(now), seen.late(now)))
        print(json.dumps({**found, "changed": changed, "next": coming, "late": late, "deadline_s": deadline_s}))
        return
    when = next_start(seen, now, changed=bool({"schedule", "timeZone"} & {*changed})) or "it is suspended"
    if created:
        print(f"scheduled {seen.name}: {when}, and must be done within {deadline_s} s")
    elif changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        fields = f"{', '.join(changed[:SHOWN])}{more}"
        print(f"changed the schedule {seen.name} ({fields}): {when}; a run that goes on stays as it is")
    else:
        print(f"the schedule {seen.name} is so already: {when}")
    print(f"  mnist-job status {seen.name} {where}    mnist-job trigger {seen.name} {where}")
