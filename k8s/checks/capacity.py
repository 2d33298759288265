"""Whether quotas and nodes have room for all workers of a run, and a worker for itself."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from k8s.api.errors import ApiError
from k8s.checks.check import Check
from k8s.diagnose import catalogue
from k8s.render.render import GPU
from k8s.state.names import QUEUE_LABEL, trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


# What shows that nodes come by themselves: the Cluster Autoscaler's status, and Karpenter's pools.
AUTOSCALERS = (("ConfigMap", "metadata.name=cluster-autoscaler-status"), ("NodePool", ""))
# Two epochs by one worker end in 500 MiB, and are killed for memory in 450.
LEAST_MEMORY = 450 * 2**20
PEAK_MEMORY = 850e6  # bytes of a worker, its libraries included


def memory(job: Object) -> Check:
    """Whether a worker's limit leaves it the memory that TensorFlow takes."""
    limit = trainer_of(job["spec"]["template"])["resources"].get("limits", {}).get("memory")
    if limit is None or amount(limit) >= PEAK_MEMORY:
        return Check("memory", "ok", f"a worker's limit is {limit}" if limit else "a worker has no limit")
    remedy = "give it more: --memory 1Gi"
    if amount(limit) <= LEAST_MEMORY:
        return Check("memory", "failed", f"a worker's limit is {limit}, and TensorFlow cannot train in 450Mi", remedy)
    return Check("memory", "warning", f"a worker's limit is {limit}, and it takes up to 850 MB", remedy)


def quota(cluster: Cluster, job: Object) -> Check:
    """Whether the namespace's quotas have room for all workers: the dry run of a pod tells of one alone."""
    workers, trainer = job["spec"]["completions"], trainer_of(job["spec"]["template"])
    asked = requests(trainer)
    for each in cluster.select("ResourceQuota"):
        if not counts_workers(each):
            continue
        used, hard = each.get("status", {}).get("used", {}), each.get("status", {}).get("hard", {})
        for resource, most in hard.items():
            wanted = workers * each_asks(resource, asked, trainer)
            if wanted and amount(used.get(resource, "0")) + wanted > amount(most):
                message = f"quota {each['metadata']['name']} has {used.get(resource, '0')} of {most} {resource} used"
                message += f", and {worded(workers)} for {shown(resource, wanted)} more"
                return Check("quota", "failed", message, catalogue.REMEDIES["quota"])
    return Check("quota", "ok", f"there is room for {workers} worker{'s' * (workers > 1)}")


def counts_workers(quota: Object) -> bool:
    """Whether a quota is for pods as the workers: these have requests, and no deadline of their own."""
    spec = quota.get("spec", {})
    return "scopeSelector" not in spec and set(spec.get("scopes", [])) <= {"NotTerminating", "NotBestEffort"}


def worded(workers: int) -> str:
    """The subject of what they ask for."""
    return f"{workers} workers ask" if workers > 1 else "a worker asks"


def shown(resource: str, value: float) -> str:
    """An amount of a resource, as a user would write it."""
    return f"{value / 2**30:.4g}Gi" if "memory" in resource or "storage" in resource else f"{value:g}"


def each_asks(resource: str, asked: dict[str, float], container: Object) -> float:
    """What a worker adds to a resource of a quota."""
    if resource in ("pods", "count/pods"):
        return 1
    if resource.startswith("limits."):
        return amount(container["resources"].get("limits", {}).get(resource.removeprefix("limits."), "0"))
    return asked.get(resource.removeprefix("requests."), 0)


def nodes(cluster: Cluster, job: Object, *, one_node: bool) -> Check:
    """Whether the nodes can hold the workers: each, and all of them at the same time; where needed, on one node."""
    template, workers = job["spec"]["template"], job["spec"]["completions"]
    asked = requests(trainer_of(template))
    wanted = ", ".join(f"{quantity} of {resource}" for resource, quantity in as_written(trainer_of(template)).items())
    usable = [node for node in cluster.select("Node") if takes(node, template)]
    most = max if one_node else sum
    room = [fits(amounts(node["status"]["allocatable"]), asked) for node in usable]
    problem = ""
    if not usable:
        problem = "no node is ready and takes this job's pods, by its labels and taints"
    elif not any(room):
        problem = f"no node that takes this job can hold a worker, which asks for {wanted}"
    elif most(room) < workers:
        all_nodes = "no node alone, as the volume needs, can" if one_node else "all nodes together cannot"
        problem = f"{all_nodes} hold {workers} workers, each of which asks for {wanted}"
    if problem:
        return Check("nodes", *of_lacking_nodes(cluster, job, problem, catalogue.REMEDIES["scheduling"]))
    try:
        pods = cluster.select("Pod", fields="status.phase!=Succeeded,status.phase!=Failed", everywhere=True)
    except ApiError as error:
        if error.code != 403:
            raise
        message = f"the nodes are large enough; what is free there now this user may not ask: {error.message}"
        return Check("nodes", "not checked", message)
    used = taken(pods)
    free = [fits(left(node, used[node["metadata"]["name"]]), asked) for node in usable]
    if most(free) < workers:
        now = f"there is room for {most(free)} of {workers} workers" if workers > 1 else "there is no room for a worker"
        remedy = "wait, or ask for less (--cpu, --memory, --workers)"
        return Check("nodes", "warning", f"{now} now; the run waits until there is", remedy)
    return Check("nodes", "ok", f"there is room: {worded(workers)} for {wanted}{' each' * (workers > 1)}")


def gpus(cluster: Cluster, job: Object) -> Check:
    """Whether nodes that take the job have GPUs, if it asks for them."""
    template = job["spec"]["template"]
    if not requests(trainer_of(template)).get(GPU):
        return Check("gpus", "ok", "none is asked for")
    having = [node for node in cluster.select("Node") if amount(node["status"]["allocatable"].get(GPU, "0"))]
    if not having:
        return Check("gpus", *of_lacking_nodes(cluster, job, "no node has a GPU", catalogue.REMEDIES["gpu"]))
    count = sum(int(amount(node["status"]["allocatable"][GPU])) for node in having if takes(node, template))
    if not count:
        names = ", ".join(sorted(node["metadata"]["name"] for node in having))
        message = f"the nodes with GPUs ({names}) are not ready, or do not take this job's pods"
        remedy = "see their taints and labels: `kubectl describe node`"
        return Check("gpus", *of_lacking_nodes(cluster, job, message, remedy))
    return Check("gpus", "ok", f"there are {count} on nodes that take this job")


def of_lacking_nodes(cluster: Cluster, job: Object, problem: str, remedy: str) -> tuple[str, str, str]:
    """State, message and remedy where no node will do: they may come by themselves, also where there are none yet."""
    if QUEUE_LABEL in job["metadata"].get("labels", {}):
        return "warning", problem, f"Kueue lets it start once it finds room; if it never does: {remedy}"
    if is_scaled(cluster):
        return "warning", problem, f"the run waits for the cluster's autoscaler; if that adds no such node: {remedy}"
    return "failed", problem, remedy


def is_scaled(cluster: Cluster) -> bool:
    """Whether nodes may come by themselves; they may where this user must not look."""
    for kind, fields in AUTOSCALERS:
        try:
            if cluster.select(kind, fields=fields, everywhere=True):
                return True
        except ApiError as error:
            if error.code == 403:
                return True
            if error.code != 404:  # there is no Karpenter
                raise
    return False


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
    open_ = not node["spec"].get("unschedulable")
    return (
        ready
        and chosen
        and open_
        and all(any(tolerates(t, taint) for t in spec.get("tolerations", [])) for taint in hard)
    )


def tolerates(toleration: Object, taint: Object) -> bool:
    """Whether a toleration is for a taint."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if not toleration.get("key"):
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
