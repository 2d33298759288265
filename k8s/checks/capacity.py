"""Whether the quotas and nodes have room for all workers of a run, and each worker has enough memory."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from job.config import Config, usage_error
from k8s.api.errors import ApiError
from k8s.checks.check import Check
from k8s.checks.matching import HOSTNAME, accepts, follows, place_of
from k8s.diagnose import catalogue
from k8s.render.render import GPU
from k8s.state.names import least_workers, number_of, trainer_of
from k8s.state.pods import node_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


WAITS = "the run waits for a suitable node"  # which an autoscaler or Kueue may provide
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
    workers, spec = job["spec"]["completions"], job["spec"]["template"]["spec"]
    uses = {f"requests.{name}": value for name, value in pod_amounts(spec, requests).items()}
    uses |= {f"limits.{name}": value for name, value in pod_amounts(spec, limits).items()}
    uses |= {"pods": 1, "count/pods": 1}
    for each in cluster.select("ResourceQuota"):
        if not counts_workers(each):
            continue
        used, hard = each.get("status", {}).get("used", {}), each.get("status", {}).get("hard", {})
        for resource, most in hard.items():
            total = workers * uses.get(resource, uses.get(f"requests.{resource}", 0))
            if total and exceeds(amount(used.get(resource, "0")) + total, amount(most)):
                message = f"quota {each['metadata']['name']} has {used.get(resource, '0')} of {most} {resource} used"
                message += f"; {worker_count(workers)} would use {as_quantity(resource, total)} more"
                fewest = total * least_workers(job) / workers
                fits_some = not exceeds(amount(used.get(resource, "0")) + fewest, amount(most))
                return Check("quota", "warning" if fits_some else "failed", message, catalogue.remedy("quota"))
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


def check_nodes(cluster: Cluster, job: Object, together: Sequence[str] = (), volumes: Sequence[Object] = ()) -> Check:
    """Whether the nodes have room for each worker and for all; only the scheduler knows, so this check never fails.

    Args:
        cluster: gives the nodes and the pods on them.
        job: the rendered Job.
        together: labels whose values must be the same on all workers' nodes: kubernetes.io/hostname for one node.
        volumes: the PersistentVolumes that the workers mount.
    """
    template, workers = job["spec"]["template"], job["spec"]["completions"]
    trainer, requested = trainer_of(template), pod_amounts(template["spec"], requests)
    nodes = [node for node in cluster.select("Node") if accepts(node, template, volumes)]
    usable = {node["metadata"]["name"]: amounts(node["status"]["allocatable"]) for node in nodes}
    places = {node["metadata"]["name"]: place_of(node, together) for node in nodes}

    def most(room: dict[str, int]) -> int:
        by_place: dict[tuple[str, ...], int] = defaultdict(int)
        for name, count in room.items():
            by_place[places[name]] += count
        return max(by_place.values(), default=0)

    room = {name: fits(allocatable, requested) for name, allocatable in usable.items()}
    problem = ""
    if not usable:
        problem = "no ready node accepts this job's pods: the labels or taints of the nodes do not match"
        problem += node_labels(template["spec"])
    elif not any(room.values()):
        problem = f"no node that accepts this job has room for {describe_workers(1, trainer)}"
    elif most(room) < workers:
        problem = f"{where(together)} room for {describe_workers(workers, trainer)}"
    if problem:
        return Check("nodes", "warning", problem, f"{WAITS}; {catalogue.remedy('scheduling')}")
    try:
        # There may be 100,000 pods, so they are added up one by one.
        pods = cluster.each("Pod", fields="status.phase!=Succeeded,status.phase!=Failed", everywhere=True)
        used, beside = usage_by_node(pods, lambda pod: must_be_beside(pod, template, cluster.namespace))
    except ApiError as error:
        if error.code != 403:
            raise
        message = f"the nodes are large enough; this user may not read how much of them is free: {error.message}"
        return Check("nodes", "not checked", message)
    unused = {name: {key: value - used[name][key] for key, value in total.items()} for name, total in usable.items()}
    free = most({name: fits(left, requested) for name, left in unused.items() if name in (beside or unused)})
    if free < workers:
        there = f" on node {', '.join(sorted(beside))}, where the claim is in use" if beside else ""
        message = f"there is room for {free} of {worker_count(workers)} now{there}; the run {does_with(job, free)}"
        return Check("nodes", "warning", message, "wait, or request less (--cpu, --memory, --workers)")
    return Check("nodes", "ok", f"room for {describe_workers(workers, trainer)}")


def does_with(job: Object, workers: int) -> str:
    """What a run does while only so many of its workers have a node."""
    if workers >= least_workers(job):
        return "trains with fewer workers until there is more room"
    if not workers:
        return "waits"
    spec = job["spec"]
    # Each worker gives up after --join-timeout, and is replaced.
    seconds = (number_of(job, "--join-timeout") or Config().join_timeout) * (spec.get("backoffLimitPerIndex", 0) + 1)
    seconds = min(seconds, spec.get("activeDeadlineSeconds", seconds))
    return f"waits for the rest, and fails after about {seconds / 60:.0f} minutes"


def where(together: Sequence[str]) -> str:
    """The beginning of a sentence about missing room, which says where the workers must run."""
    if HOSTNAME in together:
        return "the volume needs all workers on one node, and no node has"
    if together:
        return f"all workers need nodes with the same {' and '.join(together)}, and no such nodes have"
    return "the cluster has no"


def check_gpus(cluster: Cluster, job: Object) -> Check:
    """Whether nodes that accept the job have GPUs, if it requests them; only the scheduler knows, so it never fails."""
    template = job["spec"]["template"]
    if not requests(trainer_of(template)).get(GPU):
        return Check("gpus", "ok", "none requested")
    gpu_nodes = [node for node in cluster.select("Node") if amount(node["status"]["allocatable"].get(GPU, "0"))]
    if not gpu_nodes:
        return Check("gpus", "warning", "no node has a GPU", f"{WAITS}; {catalogue.remedy('gpu')}")
    count = sum(int(amount(node["status"]["allocatable"][GPU])) for node in gpu_nodes if accepts(node, template))
    if not count:
        names = ", ".join(sorted(node["metadata"]["name"] for node in gpu_nodes))
        message = f"the nodes with GPUs ({names}) are not ready, or do not accept this job's pods"
        return Check("gpus", "warning", message, f"{WAITS}; `kubectl describe node` shows their taints and labels")
    return Check("gpus", "ok", f"{count} on nodes that accept this job")


def must_be_beside(pod: Object, template: Object, namespace: str) -> bool:
    """Whether a pod has a node, and the scheduler places a run's pods on it."""
    return pod["metadata"].get("namespace", namespace) == namespace and follows(template, pod)


def usage_by_node(
    pods: Iterable[Object], is_special: Callable[[Object], bool]
) -> tuple[dict[str, dict[str, float]], set[str]]:
    """What the pods on each node request, and the nodes with special pods."""
    used: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    nodes = set()
    for pod in pods:
        node = pod["spec"].get("nodeName", "")
        if node and is_special(pod):
            nodes.add(node)
        used[node]["pods"] += 1
        for resource, value in pod_amounts(pod["spec"], requests).items():
            used[node][resource] += value
    return used, nodes


def pod_amounts(spec: Object, of: Callable[[Object], dict[str, float]]) -> dict[str, float]:
    """What a pod requests, or its limits, as the scheduler and quotas count it.

    The sum of its containers and sidecars, or an init container's if that is more, plus the runtime class's overhead.

    Args:
        spec: the pod's.
        of: the amounts of one container.
    """
    inits = spec.get("initContainers", [])
    sidecars = [each for each in inits if each.get("restartPolicy") == "Always"]
    total: dict[str, float] = defaultdict(float)
    for container in [*spec["containers"], *sidecars]:
        for resource, value in of(container).items():
            total[resource] += value
    for container in inits:
        for resource, value in of(container).items():
            total[resource] = max(total[resource], value)
    total |= of(spec)  # requests of the whole pod replace those of its containers
    for resource, value in amounts(spec.get("overhead", {})).items():
        total[resource] += value
    return total


def fits(room: dict[str, float], requested: dict[str, float]) -> int:
    """How many workers a node has room for."""
    counts = [int(room.get(resource, 0) / value + 1e-9) for resource, value in requested.items() if value]
    return max(0, min([*counts, int(room.get("pods", 110))]))


def exceeds(wanted: float, most: float) -> bool:
    """Whether an amount is more than another one. Sums of floats are not exact: three times 0.1 is more than 0.3."""
    return wanted > most + 1e-9 * max(1, wanted)


def requests_as_written(container: Object) -> dict[str, str]:
    """A container's requests; its limits where it has none, as Kubernetes defaults them."""
    resources = container.get("resources", {})
    return {**resources.get("limits", {}), **resources.get("requests", {})}


def requests(container: Object) -> dict[str, float]:
    """A container's requests, as numbers."""
    return amounts(requests_as_written(container))


def limits(container: Object) -> dict[str, float]:
    """A container's limits, as numbers."""
    return amounts(container.get("resources", {}).get("limits", {}))


def amounts(quantities: Object) -> dict[str, float]:
    """Quantities as numbers."""
    return {resource: amount(value) for resource, value in quantities.items()}


@lru_cache(maxsize=1000)  # 20,000 pods request few different quantities
def amount(quantity: Any) -> float:
    """A quantity as a number: cores or bytes.

    Raises:
        JobError: 64, the text is not a quantity.
    """
    from kubernetes.utils.quantity import parse_quantity  # noqa: PLC0415 - 0.3 s, not needed for `--help`

    try:
        return float(parse_quantity(quantity))
    except ValueError:
        raise usage_error(f"{quantity!r} is not a Kubernetes quantity", "write, for example, 500m, 2 or 1Gi") from None
