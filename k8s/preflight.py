"""preflight: say whether the cluster can run the job, a line for each check, with its remedy.

What may not be asked is `not checked`, never `failed`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from k8s import capacity, troubles
from k8s.check import Check
from k8s.contract import CLAIM, INDEX_LABEL, JOB_NAME_LABEL, QUEUE_LABEL, claim_of
from k8s.errors import ApiError, Status

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.cluster import Cluster
    from k8s.contract import Object

AT_A_TIME = 8
OLDEST = (1, 31)  # the first with all that the Job's spec says: success policy, limits for each index
# What the launcher does with a run.
NEEDED = (
    ("create", "Job", ""),
    ("get", "Job", ""),
    ("list", "Job", ""),
    ("watch", "Job", ""),
    ("list", "Pod", ""),
    ("watch", "Pod", ""),
    ("create", "Pod", ""),
    ("get", "Pod", "log"),
    ("list", "Event", ""),
    ("get", "PersistentVolumeClaim", ""),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `preflight` takes: submit's flags."""
    from k8s.submit import add_submission_flags  # noqa: PLC0415 - submit calls this module

    add_submission_flags(parser)


def run(arguments: argparse.Namespace, reach: Callable[[], Cluster]) -> int:
    """Make all checks; returns the exit status."""
    from k8s.submit import prepare, read  # noqa: PLC0415 - submit calls this module

    submission = read(arguments, datetime.now(UTC))
    cluster = reach()
    job, claim = prepare(cluster, submission)
    found = checks(cluster, job, claim)
    if arguments.output == "json":
        print(json.dumps([dataclasses.asdict(check) for check in found]))
    else:
        for check in found:
            print(check)
    return Status.REFUSED if any(check.failed for check in found) else 0


def checks(cluster: Cluster, job: Object, claim: Object | None) -> list[Check]:
    """All checks of a rendered Job, asked at the same time.

    Args:
        cluster: where it is to run.
        job: it.
        claim: the claim that it names; None where there is none of that name.
    """
    asked: list[tuple[str, Callable[[], Check | list[Check]]]] = [
        ("server version", functools.partial(version, cluster)),
        ("permissions", functools.partial(permissions, cluster)),
        ("name", functools.partial(name, cluster, job)),
        ("volume", functools.partial(volume, cluster, job, claim)),
        ("pod", functools.partial(pod, cluster, job)),
        ("quota", functools.partial(capacity.quota, cluster, job)),
        ("nodes", functools.partial(capacity.nodes, cluster, job, one_node=needs_one_node(claim))),
        ("queue", functools.partial(queue, cluster, job)),
    ]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(lambda one: asking(*one), asked))


def asking(what: str, check: Callable[[], Any]) -> Check:
    """Make a check; one that this user may not make is not checked."""
    try:
        found: Check = check()
    except ApiError as error:
        if error.code != 403:
            raise
        return Check(what, "not checked", f"this user may not ask: {error.message}")
    return found


def version(cluster: Cluster) -> Check:
    """Whether the API server knows what the Job says."""
    major, minor = cluster.version()
    if (major, minor) < OLDEST:
        remedy = "upgrade the cluster"
        return Check("server version", "failed", f"{major}.{minor}, and 1.31 is the oldest that can run this", remedy)
    return Check("server version", "ok", f"{major}.{minor}")


def permissions(cluster: Cluster) -> Check:
    """Whether this user may do what the launcher does with a run."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        allowed = list(pool.map(lambda needed: cluster.may(*needed), NEEDED))
    lacking = [
        f"{verb} {kind}{'/' + sub if sub else ''}"
        for (verb, kind, sub), may in zip(NEEDED, allowed, strict=True)
        if not may
    ]
    if not lacking:
        return Check("permissions", "ok", f"this user may run jobs in namespace {cluster.namespace}")
    vital = [what for what in lacking if what.startswith("create Job")]
    message = f"this user may not {', '.join(lacking)} in namespace {cluster.namespace}"
    return Check("permissions", "failed" if vital else "warning", message, "bind the role in k8s/manifests/rbac")


def name(cluster: Cluster, job: Object) -> Check:
    """Whether the run's name is free."""
    run = job["metadata"]["name"]
    if cluster.get("Job", run) is None:
        return Check("name", "ok", run)
    remedy = f"give another --name, or `mnist-job retry {run}`"
    return Check("name", "failed", f"there is a Job {run} already", remedy)


def volume(cluster: Cluster, job: Object, claim: Object | None) -> Check:
    """Whether the claim is there and fits the number of workers."""
    wanted, workers = claim_name(job), job["spec"]["completions"]
    if claim is None:
        if wanted != CLAIM:
            return Check("volume", "failed", f"there is no claim {wanted}", troubles.REMEDIES["claim-missing"])
        return will_be_made(cluster)
    modes, phase = set(claim["spec"]["accessModes"]), claim.get("status", {}).get("phase")
    said = f"the claim {wanted} is {', '.join(sorted(modes))}"
    if modes == {"ReadWriteOncePod"} and workers > 1:
        remedy = "name a ReadWriteMany or ReadWriteOnce claim with --claim"
        return Check("volume", "failed", f"{said}, and {workers} workers cannot share it", remedy)
    if modes == {"ReadOnlyMany"}:
        return Check("volume", "failed", f"{said}, and nothing can be written to it", "name another one with --claim")
    if phase != "Bound" and not waits_for_pods(cluster, claim):
        state, lacks = ("failed", "has lost its volume") if phase == "Lost" else ("warning", "has no volume yet")
        return Check("volume", state, f"the claim {wanted} {lacks}", troubles.REMEDIES["claim-unbound"])
    return Check(
        "volume", "ok", said + ("; all workers go to one node" if workers > 1 and needs_one_node(claim) else "")
    )


def will_be_made(cluster: Cluster) -> Check:
    """Whether the setup's own claim can get a volume."""
    classes = cluster.select("StorageClass")
    default = "storageclass.kubernetes.io/is-default-class"
    if not any(c["metadata"].get("annotations", {}).get(default) == "true" for c in classes):
        remedy = "make a claim with a class of your own, and name it with --claim"
        return Check(
            "volume", "failed", f"the claim {CLAIM} is to be made, and there is no default storage class", remedy
        )
    return Check(
        "volume", "ok", f"the claim {CLAIM} will be made by the default storage class; all workers go to one node"
    )


def waits_for_pods(cluster: Cluster, claim: Object) -> bool:
    """Whether a claim gets its volume only once a pod wants it."""
    wanted = claim["spec"].get("storageClassName")
    found = cluster.get("StorageClass", wanted) if wanted else None
    return found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"


def pod(cluster: Cluster, job: Object) -> Check:
    """Whether the API server would take the Job's pods: it takes a Job whose pods it refuses."""
    try:
        cluster.create(pod_of(cluster, job), dry_run=True)
    except ApiError as error:
        told = error.message.partition("forbidden: ")[2] or error.message
        if 'cannot create resource "pods"' in error.message:
            raise
        kinds = {"exceeded quota": "quota", "violates PodSecurity": "pod-security"}
        reason = next((kind for text, kind in kinds.items() if text in told), "refused")
        return Check("pod", "failed", f"the API server would refuse a worker's pod: {told}", troubles.REMEDIES[reason])
    return Check("pod", "ok", "the API server would take a worker's pod")


def pod_of(cluster: Cluster, job: Object) -> Object:
    """A pod as the Job controller would make it."""
    template = copy.deepcopy(job["spec"]["template"])
    run = job["metadata"]["name"]
    labels = {**template["metadata"]["labels"], JOB_NAME_LABEL: run, INDEX_LABEL: "0"}
    # It may not be there yet; what it may do is nothing in any case.
    if cluster.get("ServiceAccount", template["spec"]["serviceAccountName"]) is None:
        del template["spec"]["serviceAccountName"]
    metadata = {"generateName": f"{run}-0-", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def queue(cluster: Cluster, job: Object) -> Check:
    """Whether the queue is there, if one is asked for."""
    wanted = job["metadata"]["labels"].get(QUEUE_LABEL)
    if wanted is None:
        return Check("queue", "ok", "none is asked for")
    try:
        found = cluster.get("LocalQueue", wanted)
    except ApiError as error:
        if error.code != 404:
            raise
        found = None
    if found is None:
        message = f"there is no local queue {wanted}, or no Kueue, in this cluster"
        return Check("queue", "failed", message, "make the LocalQueue, or leave out --queue")
    return Check("queue", "ok", f"the local queue {wanted} is there")


def claim_name(job: Object) -> str:
    """The claim that a rendered Job mounts."""
    return claim_of(job["spec"]["template"]) or ""


def needs_one_node(claim: Object | None) -> bool:
    """Whether all pods that use a claim must be on one node; one that is not there yet will be made so."""
    return claim is None or not {"ReadWriteMany"} & set(claim["spec"]["accessModes"])
