"""trigger: start a run of a schedule now, unless another run of it has not ended."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from k8s.checks import storage
from k8s.commands import submit
from k8s.commands.flags import add_name, add_skip_checks
from k8s.commands.lifecycle import refuse_second_run
from k8s.state import schedule as schedules
from k8s.state.names import SCHEDULE_LABEL
from k8s.view.output import print_result, where_to_look

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from datetime import datetime

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

EXAMPLES = ("mnist-job trigger nightly", "mnist-job trigger nightly -n research -o name")
OUTPUTS = ("text", "json", "yaml", "name")
KEPT_S = 604_800  # a week, as for a submitted run: the history limits of a CronJob count only the Jobs that it made


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `trigger`."""
    add_name(parser, "the schedule")
    add_skip_checks(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Start a run of a schedule; returns the exit status."""
    cluster = connect()
    cronjob = schedules.get(cluster, arguments.name)
    refuse_second_run(cluster, arguments.name)
    job = triggered_job(cronjob, cluster.now())
    name = job["metadata"]["name"]
    submit.check(cluster, job, storage.output_claim(cluster, job), name, skip=arguments.skip_checks)
    made = submit.create(cluster, job, lambda: cluster.create(job))
    result = {"name": name, "namespace": cluster.namespace, "uid": made["metadata"]["uid"], "schedule": arguments.name}
    print_result(arguments.output, result, f"started {name}", where_to_look(cluster, name))
    return 0


def triggered_job(cronjob: Object, now: datetime) -> Object:
    """The Job of a run that is triggered now; its name ends with seconds since 1970, a scheduled run's with minutes.

    The Job belongs to the schedule by a label and has no owner: the CronJob controller reports each Job that it owns
    and did not make with a warning event, repeatedly, and does not wait for it either.
    """
    template = copy.deepcopy(cronjob["spec"]["jobTemplate"])
    metadata, schedule = template.setdefault("metadata", {}), cronjob["metadata"]["name"]
    metadata.pop("creationTimestamp", None)
    metadata["name"] = f"{schedule}-{int(now.timestamp())}"
    metadata["labels"] = {**metadata.get("labels", {}), SCHEDULE_LABEL: schedule}
    metadata["annotations"] = {**metadata.get("annotations", {}), "cronjob.kubernetes.io/instantiate": "manual"}
    template["spec"].setdefault("ttlSecondsAfterFinished", KEPT_S)
    return {"apiVersion": "batch/v1", "kind": "Job", **template}
