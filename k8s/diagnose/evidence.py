"""Collect everything in the cluster that may explain a run."""

from __future__ import annotations

import dataclasses
import re
from itertools import chain
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s.api.errors import ApiError
from k8s.api.threads import ask_all
from k8s.diagnose import queueing
from k8s.diagnose.explain import explain_run
from k8s.state import events
from k8s.state.containers import culprit
from k8s.state.find import gather, newest_record, workloads_of
from k8s.state.names import claim_of
from k8s.state.pods import has_finished, is_cut_off, is_node_ready, is_scheduled, pod_condition
from k8s.state.run import state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.diagnose.explanation import Explanation
    from k8s.state.run import Run

SHOWN_LINES, READ_LINES = 8, 40
FEW = 20  # pods or nodes that are requested one by one
# The kubelet's replacement for a log that was deleted.
GONE = re.compile(r"unable to retrieve container logs|failed to try resolving symlinks")
NOISE = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl")  # TensorFlow's own notes


def gather_evidence(cluster: Cluster, name: str) -> Run:
    """A run with its events, its newest record, its claim, the nodes that are not ready and the flags that select it.

    Raises:
        LauncherError: 2, when there is no run of that name.
    """
    run = with_kueue(cluster, gather(cluster, name))
    claim = claim_of(run.job["spec"]["template"]) or ""
    return dataclasses.replace(
        run,
        events=own_events(cluster, run, claim),
        record=newest_record(cluster, run),
        down=unreachable_nodes(cluster, run.pods),
        claim=own_claim(cluster, claim) if claim else None,
        flags=cluster.flags,
    )


def own_claim(cluster: Cluster, name: str) -> Object | None:
    """A run's claim; None if it cannot be read, because the rest explains the run too."""
    try:
        return cluster.get("PersistentVolumeClaim", name)
    except ApiError:
        return None


def with_kueue(cluster: Cluster, run: Run) -> Run:
    """A run with what Kueue says about it, if it waits for Kueue."""
    if state(run).word != "queued":
        return run
    try:
        workloads = workloads_of(cluster, run.job)
    except ApiError as error:
        return dataclasses.replace(run, kueue=queueing.NOT_INSTALLED if error.code == 404 else queueing.FORBIDDEN)
    return dataclasses.replace(run, kueue=queueing.kueue_says(workloads), evicted=queueing.stopped(workloads))


def own_events(cluster: Cluster, run: Run, claim: str) -> tuple[Object, ...]:
    """The events of a run's Job, its pods (including deleted ones) and its claim, the oldest first.

    Events of a few pods are requested by the pods' names. For many pods, one list of the events of all pods is shorter.
    """

    def select(**about: str) -> list[Object]:
        return cluster.select("Event", fields=",".join(f"involvedObject.{key}={value}" for key, value in about.items()))

    try:
        found = select(uid=run.job["metadata"]["uid"])
        names = {*(pod["metadata"]["name"] for pod in run.pods), *events.created_pods(found)}
        if claim:
            found += select(kind="PersistentVolumeClaim", name=claim)
        if len(names) <= FEW:
            found += chain.from_iterable(ask_all(lambda name: select(kind="Pod", name=name), sorted(names)))
        else:
            of_pods = cluster.each("Event", fields="involvedObject.kind=Pod")
            found += (event for event in of_pods if events.object_name(event) in names)
    except ApiError:
        return ()
    return tuple(sorted(found, key=events.last_seen))


def unreachable_nodes(cluster: Cluster, pods: Iterable[Object]) -> tuple[str, ...] | None:
    """The nodes of a run's pods that are not ready; None if this user may not read nodes, or all pods are ready.

    Kubernetes marks the pods of a node that is not ready as not ready, so only the nodes of such pods are requested.
    At most a few nodes are requested, because a thousand pods may start at the same time.
    """
    suspects = [p for p in pods if is_scheduled(p) and not has_finished(p) and not pod_condition(p, "Ready")]
    suspects.sort(key=is_cut_off, reverse=True)
    cut_off = {pod["spec"]["nodeName"] for pod in suspects if is_cut_off(pod)}
    names = list(dict.fromkeys(pod["spec"]["nodeName"] for pod in suspects))
    if not names:
        return None
    try:
        nodes = dict(zip(names, ask_all(lambda name: cluster.get("Node", name), names[:FEW]), strict=False))
    except ApiError:
        return None
    unready = {name for name, node in nodes.items() if node and not is_node_ready(node)}
    return tuple(name for name in names if name in (unready if name in nodes else cut_off))


def explain_with_log(cluster: Cluster, run: Run) -> Explanation:
    """Explain a run, with the last lines of the log of the pod that failed, if that pod still exists."""
    explanation = explain_run(run)
    return with_lines(explanation, read_log(cluster, run, explanation) or ())


def read_log(cluster: Cluster, run: Run, explanation: Explanation) -> list[str] | None:
    """The end of the log of the pod that an explanation is about; None if the pod or its log is gone.

    It is empty where it would say nothing more (without a pod, and for a rejected model), and where it cannot be read:
    before the container has started, and on a node that does not answer.
    """
    if not explanation.pod or explanation.code == Exit.REJECTED:
        return []
    pod = next((each for each in run.pods if each["metadata"]["name"] == explanation.pod), None)
    if pod is None:
        return None
    try:
        lines = list(cluster.logs(explanation.pod, culprit(pod), tail=READ_LINES))
    except ApiError as error:
        return None if error.code == 404 else []
    except OSError:
        return []
    return None if any(GONE.match(line) for line in lines) else lines


def with_lines(explanation: Explanation, lines: Iterable[str]) -> Explanation:
    """An explanation with the last lines of a log that say something."""
    telling = [line for line in lines if not NOISE.match(line)]
    return dataclasses.replace(explanation, lines=tuple(telling[-SHOWN_LINES:]))
