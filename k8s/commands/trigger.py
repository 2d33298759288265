"""trigger: start a run of a schedule now; it and those that the schedule starts never overlap."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError, LauncherError
from k8s.checks import storage
from k8s.commands import overlap, submit
from k8s.commands.control import refused
from k8s.commands.schedule import SUFFIX
from k8s.state import schedule as schedules
from k8s.view.output import where_to_look

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `trigger` takes."""
    parser.add_argument("name", metavar="NAME", help="the schedule")


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Start a run of a schedule; returns the exit status."""
    cluster = connect()
    schedule = schedules.get(cluster, arguments.name)
    overlap.check_rights(cluster)
    overlap.refuse_taken(cluster, schedule)
    job = job_of(schedule, datetime.now(UTC))
    trial = copy.deepcopy(job)
    trial["metadata"]["name"] = arguments.name + SUFFIX  # whether there is one of its own name already, start() tells
    submit.check(cluster, trial, storage.output_claim(cluster, job), arguments.name)
    submit.create_setup(cluster, job)
    made = start(cluster, job)
    name = made["metadata"]["name"]
    if arguments.output == "json":
        found = {"name": name, "namespace": cluster.namespace, "uid": made["metadata"]["uid"]}
        print(json.dumps({**found, "schedule": arguments.name}))
    else:
        print(f"started {name}; until it has ended, {arguments.name} starts no other run")
        print(where_to_look(cluster, name))
    return 0


def job_of(schedule: Object, now: datetime) -> Object:
    """The Job of a run that is triggered now; the second is in its name, since 1970, and no minute."""
    template = copy.deepcopy(schedule["spec"]["jobTemplate"])
    metadata = template.setdefault("metadata", {})
    metadata.pop("creationTimestamp", None)
    metadata["name"] = f"{schedule['metadata']['name']}-{int(now.timestamp())}"
    metadata["annotations"] = {**metadata.get("annotations", {}), "cronjob.kubernetes.io/instantiate": "manual"}
    metadata["ownerReferences"] = overlap.owned_by(schedule)
    return {"apiVersion": "batch/v1", "kind": "Job", **template}


def start(cluster: Cluster, job: Object) -> Object:
    """Create a schedule's Job, and have it go on if no other does; else it is deleted again.

    Raises:
        LauncherError: 2, another run of the schedule has not ended.
    """
    held = copy.deepcopy(job)
    queue = overlap.hold(held)
    try:
        made = cluster.create(held)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        message = f"{held['metadata']['name']} of the same schedule was triggered in this very second"
        raise refused(f"{message}, and no two of its runs may overlap", "`mnist-job status` shows it") from error
    name, uid = made["metadata"]["name"], made["metadata"]["uid"]
    try:
        return overlap.go_on(cluster, made, queue)
    except BaseException:
        with suppress(LauncherError):
            cluster.delete("Job", name, uid=uid)
        raise
