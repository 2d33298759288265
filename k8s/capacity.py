"""Whether quotas and nodes have room for all workers of a run."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from k8s import troubles
from k8s.check import Check
from k8s.contract import trainer_of
from k8s.render import GPU

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.cluster import Cluster
    from k8s.contract import Object


def quota(cluster: Cluster, job: Object) -> Check:
    """Whether the namespace's quotas have room for all workers: the dry run of a pod tells of one alone."""
    workers, asked = job["spec"]["completions"], requests(trainer_of(job["spec"]["template"]))
    for each in cluster.select("ResourceQuota"):
        used, hard = each.get("status", {}).get("used", {}), each.get("status", {}).get("hard", {})
        for resource, most in hard.items():
            wanted = workers * each_asks(resource, asked, trainer_of(job["spec"]["template"]))
            if wanted and amount(used.get(resource, "0")) + wanted > amount(most):
                message = f"quota {each['metadata']['name']} has {used.get(resource, '0')} of {most} {resource} used"
                message += f", and {workers} workers ask for {wanted:g} more"
                return Check("quota", "failed", message, troubles.REMEDIES["quota"])
    return Check("quota", "ok", f"there is room for {workers} workers")


def each_asks(resource: str, asked: dict[str, float], container: Object) -> float:
    """What a worker adds to a resource of a quota."""
    if resource in ("pods", "count/pods"):
        return 1
    if resource.startswith("limits."):
        return amount(container["resources"].get("limits", {}).get(resource.removeprefix("limits."), "0"))
    return asked.get(resource.removeprefix("requests."), 0)


def nodes(cluster: Cluster, job: Object, *, one_node: bool) -> Check:
    """Whether the nodes can hold the workers: each, and all of them at the same time."""
    template, workers = job["spec"]["template"], job["spec"]["completions"]
    asked = requests(trainer_of(template))
    usable = [node for node in cluster.select("Node") if takes(node, template)]
    wanted = ", ".join(f"{quantity} of {resource}" for resource, quantity in as_written(trainer_of(template)).items())
    whole = [fits(amounts(node["status"]["allocatable"]), asked) for node in usable]
    if GPU in asked and not any(GPU in node["status"]["allocatable"] for node in usable):
        return Check("nodes", "failed", "no node has a GPU", troubles.REMEDIES["gpu"])
    if not any(whole):
        message = f"none of the {len(usable)} nodes that take this job can hold a worker, which asks for {wanted}"
        return Check("nodes", "failed", message, troubles.REMEDIES["scheduling"])
    together = workers > 1 and one_node
    if together and max(whole) < workers:
        message = f"no node alone, as the volume needs, can hold {workers} workers, each of which asks for {wanted}"
        return Check("nodes", "failed", message, troubles.REMEDIES["scheduling"])
    if sum(whole) < workers:
        message = f"the {len(usable)} nodes hold {sum(whole)} workers, not {workers}, each of which asks for {wanted}"
        return Check("nodes", "failed", message, troubles.REMEDIES["scheduling"])
    used = taken(cluster.select("Pod", fields="status.phase!=Succeeded,status.phase!=Failed", everywhere=True))
    free = [fits(left(node, used[node["metadata"]["name"]]), asked) for node in usable]
    if (max(free) if together else sum(free)) < workers:
        room = max(free) if together else sum(free)
        message = f"there is room for {room} of {workers} workers now, and it waits for the rest"
        return Check("nodes", "warning", message, "wait, or ask for less (--cpu, --memory, --workers)")
    return Check("nodes", "ok", f"there is room for {workers} workers, each of which asks for {wanted}")


def taken(pods: Iterable[Object]) -> dict[str, dict[str, float]]:
    """What pods take up, by node."""
    used: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for pod in pods:
        node = pod["spec"].get("nodeName", "")
        used[node]["pods"] += 1
        for container in pod["spec"]["containers"]:
            for resource, value in requests(container).items():
                used[node][resource] += value
    return used


def takes(node: Object, template: Object) -> bool:
    """Whether a node takes a pod, by its state, labels and taints."""
    spec = template["spec"]
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
    labels = node["metadata"].get("labels", {})
    chosen = all(labels.get(key) == value for key, value in spec.get("nodeSelector", {}).items())
    hard = [taint for taint in node["spec"].get("taints", []) if taint["effect"] in ("NoSchedule", "NoExecute")]
    return ready and chosen and all(any(tolerates(t, taint) for t in spec.get("tolerations", [])) for taint in hard)


def tolerates(toleration: Object, taint: Object) -> bool:
    """Whether a toleration is for a taint."""
    if toleration.get("effect") not in (None, taint["effect"]):
        return False
    if toleration.get("key") is None:
        return toleration.get("operator") == "Exists"
    same = toleration["key"] == taint["key"]
    return same and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))


def fits(room: dict[str, float], asked: dict[str, float]) -> int:
    """How many workers a node has room for."""
    counts = [int(room.get(resource, 0) / value + 1e-9) for resource, value in asked.items() if value]
    return max(0, min([*counts, int(room.get("pods", 110))]))


def left(node: Object, used: dict[str, float]) -> dict[str, float]:
    """What a node has left."""
    return {
        resource: value - used.get(resource, 0) for resource, value in amounts(node["status"]["allocatable"]).items()
    }


def as_written(container: Object) -> dict[str, str]:
    """What a container asks for: what it is limited to, where it asks for nothing."""
    resources = container.get("resources", {})
    return {**resources.get("limits", {}), **resources.get("requests", {})}


def requests(container: Object) -> dict[str, float]:
    """What a container asks for, as numbers."""
    return amounts(as_written(container))


def amounts(quantities: Object) -> dict[str, float]:
    """Quantities as numbers."""
    return {resource: amount(value) for resource, value in quantities.items()}


def amount(quantity: Any) -> float:
    """A quantity as a number, of cores or bytes."""
    from kubernetes.utils.quantity import parse_quantity  # noqa: PLC0415

    return float(parse_quantity(quantity))
