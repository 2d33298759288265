"""The state of a worker's pod, from its status. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.state.names import CONTAINER

if TYPE_CHECKING:
    from k8s.api.objects import Object

# The kubelet's reasons why a container waits: during a normal start, and because of its image.
NORMAL_WAITS = {"ContainerCreating", "PodInitializing", ""}
IMAGE_PROBLEMS = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"}


def container_state(pod: Object) -> Object:
    """The state of a pod's trainer; empty before it exists."""
    statuses = pod["status"].get("containerStatuses", [])
    return next((status["state"] for status in statuses if status["name"] == CONTAINER), {})


def waiting_reason(pod: Object) -> str:
    """The kubelet's reason why a pod's container waits; empty if it does not wait or the reason is unknown."""
    return str(container_state(pod).get("waiting", {}).get("reason", ""))


def start_problem(pod: Object) -> str:
    """Why a pod's container cannot start, as the kubelet's reason; empty if it has started or is about to."""
    reason = waiting_reason(pod)
    return "" if reason in NORMAL_WAITS else reason


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
    return is_scheduled(pod) and not started(pod) and pod_condition(pod, "PodReadyToStartContainers") is not None


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


def created(pod: Object) -> str:
    """When an object was created, in RFC 3339, which sorts in the order of time."""
    return str(pod["metadata"]["creationTimestamp"])


def stage(pod: Object) -> str:
    """How far a pod has come, for a sentence that begins with its name."""
    if not is_scheduled(pod):
        return "has no node yet"
    if reason := start_problem(pod):
        return f"cannot start on {pod['spec']['nodeName']} ({reason})"
    doing = "runs" if started(pod) else "is pulling its image" if is_pulling(pod) else "is starting"
    return f"{doing} on {pod['spec']['nodeName']}"


def failures(pod: Object) -> int:
    """How many pods of the same rank failed before this one was created, whether or not the Job counted them."""
    annotations = pod["metadata"].get("annotations", {})
    kinds = ("failure-count", "ignored-failure-count")
    return sum(int(annotations.get(f"batch.kubernetes.io/job-index-{kind}", 0)) for kind in kinds)
