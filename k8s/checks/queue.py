"""Whether the queue of Kueue that a run names exists, takes runs and has enough quota for the run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.checks.capacity import amount, as_quantity, exceeds, pod_amounts, requests, worker_count
from k8s.checks.check import Check
from k8s.diagnose.queueing import words
from k8s.state.names import QUEUE_LABEL, least_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

LESS = "request less (--cpu, --memory, --gpus, --workers), or ask the administrator of the ClusterQueue for more quota"


def check_queue(cluster: Cluster, job: Object) -> Check:
    """Whether Kueue can start the run at some time, if the run names a queue."""
    name = job["metadata"]["labels"].get(QUEUE_LABEL)
    if name is None:
        return Check("queue", "ok", "none requested")
    local = cluster.get("LocalQueue", name)
    if local is None:
        return missing(cluster, name)
    shared = local["spec"]["clusterQueue"]
    if problem := inactive(local):
        message = f"the run would wait: local queue {name} takes no runs: {problem}"
        return Check("queue", "warning", message, f"`kubectl describe clusterqueue {shared}` shows the details")
    try:
        cluster_queue = cluster.get("ClusterQueue", shared)
    except ApiError as error:
        if error.code != 403:
            raise
        message = f"local queue {name} exists; this user may not read the quota of its ClusterQueue {shared}"
        return Check("queue", "not checked", message)
    if problems := list(shortages(cluster_queue or {}, job)):
        return Check("queue", "warning", f"Kueue would never start the run: {'; '.join(problems)}", LESS)
    return Check("queue", "ok", f"local queue {name} exists, and its quota is enough for the run")


def missing(cluster: Cluster, name: str) -> Check:
    """The result for a queue that does not exist."""
    try:
        others = sorted(each["metadata"]["name"] for each in cluster.select("LocalQueue"))
    except ApiError as error:
        if error.code == 404:
            message = f"local queue {name} does not exist: Kueue is not installed in this cluster"
            return Check("queue", "failed", message, "leave out --queue, or install Kueue")
        if error.code != 403:
            raise
        others = []
    message = f"local queue {name} does not exist in namespace {cluster.namespace}"
    choose = f"choose another --queue ({', '.join(others)})" if others else "create the LocalQueue"
    return Check("queue", "failed", message, f"{choose}, or leave out --queue")


def inactive(queue: Object) -> str:
    """Why Kueue admits nothing from a queue, in Kueue's words; empty if it admits runs."""
    conditions = queue.get("status", {}).get("conditions", [])
    return next((words(each) for each in conditions if each["type"] == "Active" and each["status"] == "False"), "")


def shortages(cluster_queue: Object, job: Object) -> Iterator[str]:
    """Why a run can never fit into a ClusterQueue, even if nothing else runs: a sentence for each group of resources.

    Kueue admits all workers of a run together, or, with --min-workers, at least that many of them. It takes the
    resources of one group from one of its flavours.
    """
    name, workers = cluster_queue.get("metadata", {}).get("name"), least_workers(job)
    each = pod_amounts(job["spec"]["template"]["spec"], requests)
    asked = {resource: workers * value for resource, value in each.items() if value}
    groups = cluster_queue.get("spec", {}).get("resourceGroups", [])
    for group in groups:
        wanted = {r: v for r, v in {**asked, "pods": float(workers)}.items() if r in group["coveredResources"]}
        lacking = [lacks(cluster_queue, flavour, wanted) for flavour in group["flavors"]]
        if wanted and all(lacking):
            asks = ", ".join(
                f"{as_quantity(r, v)} {r}" for r, v in wanted.items() if any(r in each for each in lacking)
            )
            offers = " or ".join(text for each in lacking for text in each.values())
            yield f"{worker_count(workers)} ask{'s' * (workers == 1)} for {asks}, and ClusterQueue {name} has {offers}"
    covered = {resource for group in groups for resource in group["coveredResources"]}
    if groups and (rest := [resource for resource in asked if resource not in covered]):
        unless = f"unless Kueue's configuration ignores {'it' if len(rest) == 1 else 'them'}"
        yield f"the run asks for {' and '.join(rest)}, for which ClusterQueue {name} has no quota, {unless}"


def lacks(cluster_queue: Object, flavour: Object, wanted: dict[str, float]) -> dict[str, str]:
    """The resources of which a flavour has too little, even with all that the ClusterQueue may borrow; what it has."""
    spec, found = cluster_queue["spec"], {}
    in_cohort = spec.get("cohortName") or spec.get("cohort")  # v1beta2 or v1beta1
    for quota in flavour["resources"]:
        resource, nominal = quota["name"], amount(quota["nominalQuota"])
        borrowed = amount(quota["borrowingLimit"]) if quota.get("borrowingLimit") is not None else math.inf
        most = nominal + (borrowed if in_cohort else 0)
        if exceeds(wanted.get(resource, 0), most):
            limit = f" and a borrowing limit of {as_quantity(resource, borrowed)} {resource}" if in_cohort else ""
            found[resource] = f"a nominal quota of {as_quantity(resource, nominal)} {resource}{limit}"
            found[resource] += f" (flavor {flavour['name']})"
    return found
