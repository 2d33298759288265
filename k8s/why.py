"""why: say why a run failed, or what it waits for, and what to do.

The first cause, not the last symptom: what failed the Job at once, else what the workers ended with first, else what
keeps its pods from being. What is known comes from the Job's conditions, the pods' statuses and termination messages,
and events; the pods of a run that failed at once are deleted with their logs, except those that had ended.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s import causes
from k8s.contract import CONTAINER, claim_of
from k8s.errors import ApiError
from k8s.run import Run, gather, last_record, optional, state

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.causes import Cause
    from k8s.cluster import Cluster

LAST_LINES = 8


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `why` takes."""
    parser.add_argument("name", metavar="NAME", help="the run")


def run(arguments: argparse.Namespace, reach: Callable[[], Cluster]) -> int:
    """Explain a run; returns the exit status."""
    cluster = reach()
    seen = gather_all(cluster, arguments.name)
    found = explain(cluster, seen)
    if arguments.output == "json":
        told = dataclasses.asdict(found)
        print(json.dumps({"name": seen.name, "state": str(state(seen)), **told}))
        return 0
    print(f"{seen.name}: {state(seen)}")
    print(found)
    return 0


def gather_all(cluster: Cluster, name: str) -> Run:
    """What the cluster shows of a run, with all that may explain it."""
    seen = gather(cluster, name)
    claim = claim_of(seen.job["spec"]["template"]) or ""
    names = {name, claim, *(pod["metadata"]["name"] for pod in seen.pods)}
    events = [e for e in cluster.select("Event") if e["involvedObject"].get("name") in names]
    down: tuple[str, ...] | None = None
    with suppress(ApiError):
        down = tuple(node["metadata"]["name"] for node in cluster.select("Node") if not is_ready(node))
    return dataclasses.replace(
        seen,
        events=tuple(sorted(events, key=causes.when)),
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
        lines = tuple(cluster.logs(found.pod, CONTAINER, tail=LAST_LINES))
        return dataclasses.replace(found, lines=lines)
    return found


def is_ready(node: dict[str, object]) -> bool:
    """Whether a node's kubelet answers."""
    conditions = node.get("status", {}).get("conditions", [])  # type: ignore[attr-defined]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
