"""What a worker's pod shows of itself. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.state.names import CONTAINER

if TYPE_CHECKING:
    from k8s.api.objects import Object

# Reasons for which a container waits that are just its way to run.
ON_ITS_WAY = {"ContainerCreating", "PodInitializing", ""}
# And those for which it waits for an image in vain.
NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"}


def container_state(pod: Object) -> Object:
    """The state of a pod's trainer; empty before there is one."""
    statuses = pod["status"].get("containerStatuses", [])
    return next((status["state"] for status in statuses if status["name"] == CONTAINER), {})


def waits_for(pod: Object) -> str:
    """The reason for which a pod's container waits; empty if it does not, or the kubelet has not said one."""
    return str(container_state(pod).get("waiting", {}).get("reason", ""))


def hindrance(pod: Object) -> str:
    """Why a pod's container cannot begin, in the kubelet's word; empty where it began or is on its way."""
    reason = waits_for(pod)
    return "" if reason in ON_ITS_WAY else reason


def started(pod: Object) -> bool:
    """Whether a pod's container has begun."""
    return bool({"running", "terminated"} & container_state(pod).keys())


def is_over(pod: Object) -> bool:
    """Whether a pod will do nothing any more."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_scheduled(pod: Object) -> bool:
    """Whether a pod has a node."""
    return "nodeName" in pod["spec"]


def is_pulling(pod: Object) -> bool:
    """Whether a pod has all that its container needs but the image: volumes, and a sandbox with an address."""
    return is_scheduled(pod) and not started(pod) and pod_condition(pod, "PodReadyToStartContainers") is not None


def pod_condition(pod: Object, kind: str, status: str = "True") -> Object | None:
    """A pod's condition of that type and status."""
    found = pod["status"].get("conditions", [])
    return next((c for c in found if c["type"] == kind and c["status"] == status), None)


def is_cut_off(pod: Object) -> bool:
    """Whether a pod's node does not answer: then the cluster alone says that it is not ready, and not its kubelet."""
    unready, containers = pod_condition(pod, "Ready", "False"), pod_condition(pod, "ContainersReady")
    return not is_over(pod) and unready is not None and containers is not None


def disruption(pod: Object) -> str:
    """Why the cluster ended a pod, or is about to, as EvictionByEvictionAPI; the Job does not count such an end."""
    return str((pod_condition(pod, "DisruptionTarget") or {}).get("reason", ""))


def created(pod: Object) -> str:
    """When an object was made, RFC 3339: sorts as time does."""
    return str(pod["metadata"]["creationTimestamp"])


def stage(pod: Object) -> str:
    """How far a pod is on its way, for a sentence that begins with its name."""
    if not is_scheduled(pod):
        return "has no node yet"
    if reason := hindrance(pod):
        return f"cannot start on {pod['spec']['nodeName']} ({reason})"
    doing = "runs" if started(pod) else "gets its image" if is_pulling(pod) else "is being set up"
    return f"{doing} on {pod['spec']['nodeName']}"


def failures(pod: Object) -> int:
    """How many pods of its rank had failed before this one was made, counted by the Job or not."""
    annotations = pod["metadata"].get("annotations", {})
    kinds = ("failure-count", "ignored-failure-count")
    return sum(int(annotations.get(f"batch.kubernetes.io/job-index-{kind}", 0)) for kind in kinds)
