"""The containers of a pod: the trainer, and those that a mesh or a user adds and that may hold it up. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k8s.state.names import CONTAINER

if TYPE_CHECKING:
    from k8s.api.objects import Object

# The kubelet's reasons why a container waits: during a normal start, and because of its image.
NORMAL_WAITS = {"ContainerCreating", "PodInitializing", ""}
IMAGE_PROBLEMS = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"}
UNSPECIFIC = {"Error", "Completed", ""}  # the kubelet's reasons for an end that explain nothing


@dataclass(frozen=True)
class Container:
    """A container of a pod.

    Attributes:
        name: its name.
        image: its image.
        kind: container, init container, or sidecar: an init container that runs beside the others (restartPolicy
            Always) and is stopped after them.
        status: the kubelet's ContainerStatus; empty before there is one.
    """

    name: str
    image: str
    kind: str
    status: Object

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def waiting(self) -> Object:
        """Why it waits, as reason and message; empty if it does not wait, or only for its normal start."""
        waiting = self._state("waiting") or {}
        return {} if waiting.get("reason", "") in NORMAL_WAITS else waiting

    @property
    def running(self) -> Object | None:
        """Since when it runs; None if it does not."""
        return self._state("running")

    @property
    def terminated(self) -> Object | None:
        """How it ended; None if it has not."""
        return self._state("terminated")

    @property
    def failed(self) -> bool:
        """Whether it ended with an error. The kubelet does not count how a sidecar ends."""
        return self.kind != "sidecar" and bool(self.terminated and self.terminated["exitCode"])

    @property
    def done(self) -> bool:
        """For an init container or a sidecar: whether the containers after it may start."""
        if self.kind == "sidecar":
            return self.running is not None and bool(self.status.get("started"))
        return self.terminated is not None and not self.failed

    @property
    def doing(self) -> str:
        """What it does now if it has not ended, for a sentence."""
        if self.running is not None:
            return "still runs"
        return f"waits ({self.waiting['reason']})" if self.waiting else "has not started"

    def _state(self, name: str) -> Object | None:
        state: dict[str, Object | None] = self.status.get("state", {})
        return state[name] or {} if name in state else None


def containers(pod: Object) -> list[Container]:
    """The containers in the order in which they start; the trainer comes first among those that start together.

    Ephemeral containers are left out: a pod waits for none of them.
    """
    spec, status = pod.get("spec", {}), pod["status"]
    found = []
    for specs, statuses in (("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")):
        by_name = {each["name"]: each for each in status.get(statuses, [])}
        in_spec = {each["name"]: each for each in spec.get(specs, [])}
        part = []
        for name in in_spec | by_name:
            again = in_spec.get(name, {}).get("restartPolicy") == "Always"
            kind = "container" if specs == "containers" else "sidecar" if again else "init container"
            image = in_spec.get(name, {}).get("image") or by_name.get(name, {}).get("image", "")
            part.append(Container(name, image, kind, by_name.get(name, {})))
        found += sorted(part, key=lambda each: each.kind == "container" and each.name != CONTAINER)
    return found


def trainer(pod: Object, name: str = CONTAINER) -> Container:
    """The container that does the work, usually the trainer; it has no status before the kubelet has seen the pod."""
    return next((each for each in containers(pod) if each.name == name), Container(name, "", "container", {}))


def unready(pod: Object, name: str = CONTAINER) -> Container | None:
    """The container that cannot start or, if all can, the one that the trainer waits for; None if there is none.

    Also None once the trainer has started. name names another container that does the work in its place.
    """
    every, main = containers(pod), trainer(pod, name)
    if main.running is not None or main.terminated is not None:
        return None
    stuck = next((each for each in every if each.waiting), None)
    first = next((each for each in every if each.kind != "container" and not each.done), None)
    return stuck or (first if first and first.running is not None else None)


def failed_container(pod: Object) -> Container | None:
    """The first container besides the trainer that failed."""
    return next((each for each in containers(pod) if each.failed and each.name != CONTAINER), None)


def holding(pod: Object) -> Container | None:
    """The container that keeps a pod from ending although its trainer has ended; None if there is none.

    The kubelet stops sidecars, and all containers of a deleted pod, by itself.
    """
    ends = pod["status"].get("phase") in ("Succeeded", "Failed") or "deletionTimestamp" in pod.get("metadata", {})
    if ends or trainer(pod).terminated is None:
        return None
    others = [each for each in containers(pod) if each.kind == "container" and each.name != CONTAINER]
    return next((each for each in others if each.terminated is None), None)


def culprit(pod: Object) -> str:
    """The name of the container that keeps a pod from starting or ending, or made it fail: the trainer's by default."""
    if trainer(pod).terminated and trainer(pod).failed:
        return CONTAINER
    found = unready(pod) or failed_container(pod) or holding(pod)
    return found.name if found else CONTAINER


def describe_end(container: Container) -> str:
    """How a container ended, now or the last time, for a sentence: exited with 137 (OOMKilled): MESSAGE."""
    end = container.terminated or container.status.get("lastState", {}).get("terminated") or {}
    if not end:
        return ""
    reason, message = end.get("reason") or "", (end.get("message") or "").strip()
    text = f"exited with {end.get('exitCode')}" + ("" if reason in UNSPECIFIC else f" ({reason})")
    return text + (f": {message.splitlines()[-1][:300]}" if message else "")
