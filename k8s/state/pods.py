"""The state of a worker's pod and of a node, from their status. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.state.containers import IMAGE_PROBLEMS, trainer, unready
from k8s.state.names import CONTAINER

if TYPE_CHECKING:
    from k8s.api.objects import Object


def container_state(pod: Object) -> Object:
    """The state of a pod's trainer; empty before it exists."""
    state: Object = trainer(pod).status.get("state", {})
    return state


def start_problem(pod: Object) -> str:
    """What the trainer waits for, in a few words, such as ErrImagePull; empty if it has started or is about to."""
    found = unready(pod)
    if not found:
        return ""
    if not found.waiting:
        return f"{found} runs"
    reason = str(found.waiting["reason"])
    return reason if found.name == CONTAINER else f"{reason} in {found}"


def waits_for_image(pod: Object) -> bool:
    """Whether an image that cannot be pulled keeps the trainer from starting."""
    found = unready(pod)
    return found is not None and found.waiting.get("reason") in IMAGE_PROBLEMS


def started(pod: Object) -> bool:
    """Whether a pod's container has started."""
    return bool({"running", "terminated"} & container_state(pod).keys())


def has_finished(pod: Object) -> bool:
    """Whether a pod has finished, well or not."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_scheduled(pod: Object) -> bool:
    """Whether a pod has a node."""
    return "nodeName" in pod["spec"]


def is_pulling(pod: Object) -> bool:
    """Whether a pod has its volumes and its address, and only waits for the image."""
    about_to = is_scheduled(pod) and not started(pod) and not unready(pod)
    return about_to and pod_condition(pod, "PodReadyToStartContainers") is not None


def pod_condition(pod: Object, kind: str, status: str = "True") -> Object | None:
    """A pod's condition of that type and status."""
    found = pod["status"].get("conditions", [])
    return next((c for c in found if c["type"] == kind and c["status"] == status), None)


def is_cut_off(pod: Object) -> bool:
    """Whether a pod's node does not answer: the cluster has marked the pod as not ready, and the kubelet has not."""
    unready, containers = pod_condition(pod, "Ready", "False"), pod_condition(pod, "ContainersReady")
    return not has_finished(pod) and unready is not None and containers is not None


def disruption(pod: Object) -> str:
    """Why the cluster stops a pod, such as EvictionByEvictionAPI; the Job does not count that as a failure."""
    return str((pod_condition(pod, "DisruptionTarget") or {}).get("reason", ""))


def node_labels(spec: Object) -> str:
    """The labels that a pod's node must have, as `; node selector: KEY=VALUE, ...`; empty if it needs none."""
    labels = ", ".join(f"{key}={value}" for key, value in spec.get("nodeSelector", {}).items())
    return f"; node selector: {labels}" if labels else ""


def created(pod: Object) -> str:
    """When an object was created, in RFC 3339, which sorts in the order of time."""
    return str(pod["metadata"]["creationTimestamp"])


def stage(pod: Object) -> str:
    """How far a pod has come, for a sentence that begins with its name."""
    if not is_scheduled(pod):
        return "has no node yet"
    if problem := start_problem(pod):
        return f"cannot start on {pod['spec']['nodeName']} ({problem})"
    doing = "runs" if started(pod) else "is pulling its image" if is_pulling(pod) else "is starting"
    return f"{doing} on {pod['spec']['nodeName']}"


def failures(pod: Object) -> int:
    """How many pods of the same rank failed before this one was created, whether or not the Job counted them."""
    annotations = pod["metadata"].get("annotations", {})
    kinds = ("failure-count", "ignored-failure-count")
    return sum(int(annotations.get(f"batch.kubernetes.io/job-index-{kind}", 0)) for kind in kinds)


def is_node_ready(node: Object) -> bool:
    """Whether a node's kubelet reports that it is ready."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
