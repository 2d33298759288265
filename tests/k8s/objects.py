"""Jobs, pods and events with the statuses that Kubernetes 1.35 gives them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from job.telemetry import Record
from k8s.state.names import APP, CONTAINER, INDEX_LABEL, JOB_NAME_LABEL, NAME_LABEL

if TYPE_CHECKING:
    from k8s.api.objects import Object

TIME = "2026-01-01T00:00:{:02d}Z"


def job(workers: int = 2, condition: str = "", reason: str = "", message: str = "", **status: Any) -> Object:
    """A Job with one condition that is true, or none."""
    one = {"type": condition, "status": "True", "reason": reason, "message": message}
    conditions = [one | {"lastTransitionTime": TIME.format(59)}] if condition else []
    claims = [{"name": "output", "persistentVolumeClaim": {"claimName": "output"}}]
    template = {"spec": {"containers": [container()], "volumes": claims}}
    spec = {"completions": workers, "backoffLimitPerIndex": 3, "activeDeadlineSeconds": 600, "template": template}
    metadata = {"name": "demo", "uid": "job", "labels": {NAME_LABEL: APP}, "creationTimestamp": TIME.format(0)}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": conditions, **status}}


def elastic(workers: int, least: int, **status: Any) -> Object:
    """A Job that goes on with so many of its workers."""
    found = job(workers, **status)
    found["spec"]["maxFailedIndexes"] = workers - least
    found["spec"]["template"]["spec"]["containers"][0]["args"] = ["train", f"--min-workers={least}"]
    return found


def container() -> Object:
    """The trainer."""
    resources = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    return {"name": CONTAINER, "image": "registry.example/mnist-job:1", "resources": resources}


def pod(rank: int = 0, *, number: int = 0, node: str | None = "node-1", **status: Any) -> Object:
    """A worker's pod; number counts the earlier pods of its rank."""
    labels = {NAME_LABEL: APP, JOB_NAME_LABEL: "demo", INDEX_LABEL: str(rank)}
    metadata = {"name": f"demo-{rank}-aaaa{number}", "labels": labels, "creationTimestamp": TIME.format(10 * number)}
    claims = [{"name": "output", "persistentVolumeClaim": {"claimName": "output"}}]
    spec: Object = {"containers": [container()], "volumes": claims}
    if node:
        spec["nodeName"] = node
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Pending", **status}}


def unscheduled(rank: int, message: str) -> Object:
    """A pod that the scheduler cannot place."""
    return pod(
        rank, node=None, conditions=[condition("PodScheduled", "False", reason="Unschedulable", message=message)]
    )


def waiting(rank: int, reason: str = "ContainerCreating", message: str = "", *, sandbox: bool = False) -> Object:
    """A pod whose container has not started; with sandbox, only its image is missing."""
    state = {"waiting": {"reason": reason, "message": message}}
    conditions = [condition("PodReadyToStartContainers", "True" if sandbox else "False")]
    return pod(rank, containerStatuses=[{"name": CONTAINER, "state": state}], conditions=conditions)


def running(rank: int, number: int = 0, **status: Any) -> Object:
    """A pod whose container runs."""
    state = {"running": {"startedAt": TIME.format(10 * number + 1)}}
    conditions = [condition("Ready"), condition("ContainersReady")]
    status = {"phase": "Running", "conditions": conditions, **status}
    return pod(rank, number=number, containerStatuses=[{"name": CONTAINER, "state": state}], **status)


def cut_off(rank: int) -> Object:
    """A pod whose node is unreachable: the cluster, not its kubelet, marks it as not ready."""
    return running(rank, conditions=[condition("Ready", "False"), condition("ContainersReady")])


def ended(rank: int, code: int, number: int = 0, reason: str = "Error", message: str = "", **status: Any) -> Object:
    """A pod whose container has ended."""
    terminated: Object = {"exitCode": code, "reason": reason, "finishedAt": TIME.format(10 * number + 5)}
    if message:
        terminated["message"] = message
    status = {"phase": "Failed" if code else "Succeeded", **status}
    return pod(
        rank, number=number, containerStatuses=[{"name": CONTAINER, "state": {"terminated": terminated}}], **status
    )


def added(found: Object, name: str, state: Object, *, init: bool = False, again: bool = False, **status: Any) -> Object:
    """The pod with a container that a mesh or a user added.

    Args:
        found: the pod.
        name: of the container.
        state: waiting, running or terminated, as in its status.
        init: whether it is an init container.
        again: whether it is a native sidecar: an init container that is started again whenever it ends.
        status: other fields of its status.
    """
    spec, statuses = (
        ("initContainers", "initContainerStatuses") if init or again else ("containers", "containerStatuses")
    )
    container = {"name": name, "image": f"registry.example/{name}:2"} | ({"restartPolicy": "Always"} if again else {})
    found["spec"].setdefault(spec, []).append(container)
    found["status"].setdefault(statuses, []).append({"name": name, "state": state, **status})
    return found


def terminated(code: int, reason: str = "Error", message: str = "") -> Object:
    """The state of a container that has ended."""
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": TIME.format(8)}}


def termination(code: int, reason: str, message: str, hint: str = "", **fields: Any) -> str:
    """A worker's termination message."""
    return json.dumps({"code": code, "reason": reason, "message": message, "hint": hint, **fields})


def condition(kind: str, status: str = "True", **fields: str) -> Object:
    """A pod's condition."""
    return {"type": kind, "status": status, "lastTransitionTime": TIME.format(30), **fields}


def event(kind: str, name: str, reason: str, message: str, second: int = 20, type_: str = "Normal") -> Object:
    """An event, or a Warning."""
    involved = {"kind": kind, "name": name, "uid": "job" if kind == "Job" else name}
    when = TIME.format(second)
    about = {"involvedObject": involved, "type": type_, "lastTimestamp": when}
    return {**about, "reason": reason, "message": message}


def record(phase: str, **fields: Any) -> Record:
    """A record of rank 0."""
    return Record(1.0, "demo", 0, phase, **fields)
