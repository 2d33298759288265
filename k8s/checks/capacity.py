"""Whether the quotas and nodes have room for all workers of a run, and each worker has enough memory."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from k8s.api.errors import ApiError
from k8s.checks.check import Check
from k8s.diagnose import catalogue
from k8s.diagnose.evidence import is_node_ready
from k8s.render.render import GPU
from k8s.state.names import QUEUE_LABEL, trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


# Signs of an autoscaler: the Cluster Autoscaler's status, and Karpenter's pools.
AUTOSCALERS = (("ConfigMap", "metadata.name=cluster-autoscaler-status"), ("NodePool", ""))
# Measured: one worker finishes two epochs in 500 MiB, and is killed by the kernel in 450.
LEAST_MEMORY = 450 * 2**20
PEAK_MEMORY = 850e6  # bytes


def check_memory(job: Object) -> Check:
    """Whether a worker's memory limit is enough for TensorFlow."""
    limit = trainer_of(job["spec"]["template"])["resources"].get("limits", {}).get("memory")
    if limit is None or amount(limit) >= PEAK_MEMORY:
        return Check("memory", "ok", f"a worker's limit is {limit}" if limit else "a worker has no limit")
    remedy = "raise it with --memory 1Gi"
    if amount(limit) <= LEAST_MEMORY:
        return Check("memory", "failed", f"a worker's limit is {limit}; TensorFlow needs more than 450Mi", remedy)
    return Check("memory", "warning", f"a worker's limit is {limit}; a worker uses up to 850 MB", remedy)


def check_quota(cluster: Cluster, job: Object) -> Check:
    """Whether the namespace's quotas have room for all workers: the dry run of a pod checks one alone."""
    workers, trainer = job["spec"]["completions"], trainer_of(job["spec"]["template"])
    requested = requests(trainer)
    for each in cluster.select("ResourceQuota"):
        if not counts_workers(each):
            continue
        used, hard = each.get("status", {}).get("used", {}), each.get("status", {}).get("hard", {})
        for resource, most in hard.items():
            total = workers * used_by_one(resource, requested, trainer)
            if total and amount(used.get(resource, "0")) + total > amount(most):
                message = f"quota {each['metadata']['name']} has {used.get(resource, '0')} of {most} {resource} used"
                message += f"; {worker_count(workers)} would use {as_quantity(resource, total)} more"
                return Check("quota", "failed", message, catalogue.remedy("quota"))
    return Check("quota", "ok", f"room for {worker_count(workers)}")


def counts_workers(quota: Object) -> bool:
    """Whether a quota applies to the workers' pods, which have requests and no deadline of their own."""
    spec = quota.get("spec", {})
    return "scopeSelector" not in spec and set(spec.get("scopes", [])) <= {"NotTerminating", "NotBestEffort"}


def worker_count(workers: int) -> str:
    """A number of workers."""
    return f"{workers} worker{'s' * (workers > 1)}"


def describe_workers(workers: int, trainer: Object) -> str:
    """A number of workers, and what each requests."""
    each = ", ".join(f"{quantity} {resource}" for resource, quantity in requests_as_written(trainer).items())
    return f"{worker_count(workers)} ({each}{' each' * (workers > 1)})"


def as_quantity(resource: str, value: float) -> str:
    """An amount of a resource, as a user would write it."""
    return f"{value / 2**30:.4g}Gi" if "memory" in resource or "storage" in resource else f"{value:g}"


def used_by_one(resource: str, requested: dict[str, float], container: Object) -> float:
    """How much of a quota's resource one worker uses."""
    if resource in ("pods", "count/pods"):
        return 1
    if resource.startswith("limits."):
        return amount(container["resources"].get("limits", {}).get(resource.removeprefix("limits."), "0"))
    return requested.get(resource.removeprefix("requests."), 0)


def check_nodes(cluster: Cluster, job: Object, *, one_node: bool) -> Check:
    """Whether the nodes have room for each worker and for all at once; on one node where the volume needs that."""
    template, workers = job["spec"]["template"], job["spec"]["completions"]
    trainer, most = trainer_of(template), max if one_node else sum
    nodes = [node for node in cluster.select("Node") if accepts(node, template)]
    usable = {node["metadata"]["name"]: amounts(node["status"]["allocatable"]) for node in nodes}
    room = [fits(allocatable, requests(trainer)) for allocatable in usable.values()]
    problem = ""
    if not usable:
        problem = "no ready node accepts this job's pods: the labels or taints of the nodes do not match"
    elif not any(room):
        problem = f"no node that accepts this job has room for {describe_workers(1, trainer)}"
    elif most(room) < workers:
        place = "the volume needs all workers on one node, and no node has" if one_node else "the cluster has no"
        problem = f"{place} room for {describe_workers(workers, trainer)}"
    if problem:
        return Check("nodes", *without_nodes(cluster, job, problem, catalogue.remedy("scheduling")))
    try:
        # There may be 100,000 pods: they are summed up as they come.
        used = usage_by_node(
            cluster.each("Pod", fields="status.phase!=Succeeded,status.phase!=Failed", everywhere=True)
        )
    except ApiError as error:
        if error.code != 403:
            raise
        message = f"the nodes are large enough; this user may not read how much of them is free: {error.message}"
        return Check("nodes", "not checked", message)
    unused = [{key: value - used[node][key] for key, value in total.items()} for node, total in usable.items()]
    free = most(fits(each, requests(trainer)) for each in unused)
    if free < workers:
        message = f"there is room for {free} of {worker_count(workers)} now; the run waits for the rest"
        return Check("nodes", "warning", message, "wait, or request less (--cpu, --memory, --workers)")
    return Check("nodes", "ok", f"room for {describe_workers(workers, trainer)}")


def check_gpus(cluster: Cluster, job: Object) -> Check:
    """Whether nodes that accept the job have GPUs, if it requests them."""
    template = job["spec"]["template"]
    if not requests(trainer_of(template)).get(GPU):
        return Check("gpus", "ok", "none requested")
    gpu_nodes = [node for node in cluster.select("Node") if amount(node["status"]["allocatable"].get(GPU, "0"))]
    if not gpu_nodes:
        return Check("gpus", *without_nodes(cluster, job, "no node has a GPU", catalogue.remedy("gpu")))
    count = sum(int(amount(node["status"]["allocatable"][GPU])) for node in gpu_nodes if accepts(node, template))
    if not count:
        names = ", ".join(sorted(node["metadata"]["name"] for node in gpu_nodes))
        message = f"the nodes with GPUs ({names}) are not ready, or do not accept this job's pods"
        remedy = "`kubectl describe node` shows their taints and labels"
        return Check("gpus", *without_nodes(cluster, job, message, remedy))
    return Check("gpus", "ok", f"{count} on nodes that accept this job")


def without_nodes(cluster: Cluster, job: Object, problem: str, remedy: str) -> tuple[str, str, str]:
    """State, message and remedy where no node is suitable: an autoscaler or Kueue may still provide some."""
    if QUEUE_LABEL in job["metadata"].get("labels", {}):
        return "warning", problem, f"Kueue starts the run once it finds room; if it never does: {remedy}"
    if may_autoscale(cluster):
        waits = "the run waits for the cluster's autoscaler; if that adds no suitable node"
        return "warning", problem, f"{waits}: {remedy}"
    return "failed", problem, remedy


def may_autoscale(cluster: Cluster) -> bool:
    """Whether an autoscaler may add nodes; assumed where this user may not ask."""
    for kind, fields in AUTOSCALERS:
        try:
            if cluster.select(kind, fields=fields, everywhere=True):
                return True
        except ApiError as error:
            if error.code == 403:
                return True
            if error.code != 404:  # 404: Karpenter is not installed
                raise
    return False


def usage_by_node(pods: Iterable[Object]) -> dict[str, dict[str, float]]:
    """What the pods on each node request."""
    used: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for pod in pods:
        node = pod["spec"].get("nodeName", "")
        used[node]["pods"] += 1
        for container in pod["spec"]["containers"]:
            for resource, value in requests(container).items():
                used[node][resource] += value
    return used


def accepts(node: Object, template: Object) -> bool:
    """Whether a node accepts a pod, by its state, labels and taints."""
    spec, labels = template["spec"], node["metadata"].get("labels", {})
    hard = [taint for taint in node["spec"].get("taints", []) if taint["effect"] in ("NoSchedule", "NoExecute")]
    return (
        is_node_ready(node)
        and not node["spec"].get("unschedulable")
        and spec.get("nodeSelector", {}).items() <= labels.items()
        and all(any(tolerates(each, taint) for each in spec.get("tolerations", [])) for taint in hard)
    )


def tolerates(toleration: Object, taint: Object) -> bool:
    """Whether a toleration matches a taint."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    same = toleration["key"] == taint["key"]
    return same and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))


def fits(room: dict[str, float], requested: dict[str, float]) -> int:
    """How many workers a node has room for."""
    counts = [int(room.get(resource, 0) / value + 1e-9) for resource, value in requested.items() if value]
    return max(0, min([*counts, int(room.get("pods", 110))]))


def requests_as_written(container: Object) -> dict[str, str]:
    """A container's requests; its limits where it has none, as Kubernetes defaults them."""
    resources = container.get("resources", {})
    return {**resources.get("limits", {}), **resources.get("requests", {})}


def requests(container: Object) -> dict[str, float]:
    """A container's requests, as numbers."""
    return amounts(requests_as_written(container))


def amounts(quantities: Object) -> dict[str, float]:
    """Quantities as numbers."""
    return {resource: amount(value) for resource, value in quantities.items()}


def amount(quantity: Any) -> float:
    """A quantity as a number: cores or bytes."""
    from kubernetes.utils.quantity import parse_quantity  # noqa: PLC0415 - 0.3 s, not needed for `--help`

    return float(parse_quantity(quantity))
