"""Collect everything in the cluster that may explain a run."""

from __future__ import annotations

import dataclasses
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s.api.errors import ApiError
from k8s.diagnose.explain import explain_run
from k8s.state import events
from k8s.state.find import gather, get_if_allowed, newest_record
from k8s.state.names import CONTAINER, claim_of

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.diagnose.explanation import Explanation
    from k8s.state.run import Run

SHOWN_LINES, READ_LINES = 8, 40
# The kubelet's replacement for a log that was deleted, and TensorFlow's own notes.
NOISE = re.compile(
    r"unable to retrieve container logs|failed to try resolving symlinks"
    r"|[IW]\d{4} |WARNING: All log messages before absl"
)


def gather_evidence(cluster: Cluster, name: str) -> Run:
    """A run with its events, its newest record, its claim, the nodes that are not ready and the flags that select it.

    Raises:
        LauncherError: 2, when there is no run of that name.
    """
    run = gather(cluster, name)
    claim = claim_of(run.job["spec"]["template"]) or ""
    all_events: list[Object] = []
    with suppress(ApiError):
        all_events = cluster.select("Event")
    down: tuple[str, ...] | None = None
    with suppress(ApiError):
        down = tuple(node["metadata"]["name"] for node in cluster.select("Node") if not is_node_ready(node))
    return dataclasses.replace(
        run,
        events=events.of_run(all_events, run.job, run.pods, claim),
        record=newest_record(cluster, run),
        claim=get_if_allowed(cluster, "PersistentVolumeClaim", claim),
        down=down,
        flags=cluster.flags,
    )


def explain_with_log(cluster: Cluster, run: Run) -> Explanation:
    """Explain a run, with the last lines of the log of the pod that failed, if that pod still exists."""
    explanation = explain_run(run)
    pod = explanation.pod
    if explanation.code == Exit.REJECTED or pod not in {each["metadata"]["name"] for each in run.pods}:
        return explanation
    with suppress(ApiError, OSError):
        lines = [line for line in cluster.logs(pod, CONTAINER, tail=READ_LINES) if not NOISE.match(line)]
        return dataclasses.replace(explanation, lines=tuple(lines[-SHOWN_LINES:]))
    return explanation


def is_node_ready(node: Object) -> bool:
    """Whether a node's kubelet reports that it is ready."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
