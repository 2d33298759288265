"""why: say why a run or a schedule's last one failed, or what it waits for, and what to do.

The first cause, not the last symptom: what failed the Job at once, else what the workers ended with first, else what
keeps its pods from being. What is known comes from the Job's conditions, the pods' statuses and termination messages,
and events; the pods of a run that failed at once are deleted with their logs, except those that had ended.
"""

from __future__ import annotations

import dataclasses
import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s.api.errors import ApiError
from k8s.diagnose import explain as causes
from k8s.state import events
from k8s.state import schedule as schedules
from k8s.state.names import CONTAINER, claim_of
from k8s.state.run import Run, State, gather, last_record, optional, state

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.diagnose.catalogue import Cause
    from k8s.state.schedule import Schedule

LAST_LINES, TAIL = 8, 40
# What the kubelet gives in place of a log that is gone, and what TensorFlow notes of itself.
BESIDE_IT = re.compile(
    r"unable to retrieve container logs|failed to try resolving symlinks"
    r"|[IW]\d{4} |WARNING: All log messages before absl"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `why` takes."""
    parser.add_argument("name", metavar="NAME", help="the run or the schedule")


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Explain a run; returns the exit status."""
    cluster = connect()
    if cronjob := schedules.find(cluster, arguments.name):
        schedule = schedules.gather(cluster, cronjob)
        now, found = State(*schedules.standing(schedule)), explain_schedule(cluster, schedule)
    else:
        seen = gather_all(cluster, arguments.name)
        now, found = state(seen), explain(cluster, seen)
    if arguments.output == "json":
        told = {"name": arguments.name, "state": now.word, "detail": now.detail}
        print(json.dumps({**told, **dataclasses.asdict(found)}))
        return 0
    print(f"{arguments.name}: {now}")
    print(found)
    return 0


def explain_schedule(cluster: Cluster, seen: Schedule) -> Cause:
    """Why a schedule starts nothing, or else why its last run failed."""
    now = datetime.now(UTC)
    if found := schedules.cause(seen, now):
        return found
    if seen.last and state(seen.last).code != Exit.OK:
        return schedules.of_run(seen, seen.last, explain(cluster, gather_all(cluster, seen.last.name)))
    return schedules.well(seen, now)


def gather_all(cluster: Cluster, name: str) -> Run:
    """What the cluster shows of a run, with all that may explain it."""
    seen = gather(cluster, name)
    claim = claim_of(seen.job["spec"]["template"]) or ""
    told: list[Object] = []
    with suppress(ApiError):
        told = cluster.select("Event")
    down: tuple[str, ...] | None = None
    with suppress(ApiError):
        down = tuple(node["metadata"]["name"] for node in cluster.select("Node") if not is_ready(node))
    return dataclasses.replace(
        seen,
        events=events.of_run(told, seen.job, seen.pods, claim),
        record=last_record(cluster, seen),
        claim=optional(cluster, "PersistentVolumeClaim", claim),
        down=down,
    )


def explain(cluster: Cluster, seen: Run) -> Cause:
    """Why a run is as it is, with the last lines of the log of the pod that it is about, if that has one still."""
    found = causes.cause(seen)
    if found.code == Exit.REJECTED or found.pod not in {pod["metadata"]["name"] for pod in seen.pods}:
        return found
    with suppress(ApiError, OSError):
        lines = [line for line in cluster.logs(found.pod, CONTAINER, tail=TAIL) if not BESIDE_IT.match(line)]
        return dataclasses.replace(found, lines=tuple(lines[-LAST_LINES:]))
    return found


def is_ready(node: Object) -> bool:
    """Whether a node's kubelet answers."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
