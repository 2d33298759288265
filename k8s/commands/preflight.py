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
from typing import TYPE_CHECKING

from k8s.api import permissions
from k8s.api.errors import ApiError, Status
from k8s.checks import capacity, storage
from k8s.checks.check import Check
from k8s.diagnose import catalogue
from k8s.state.names import INDEX_LABEL, JOB_NAME_LABEL, QUEUE_LABEL, UID_LABEL
from k8s.state.run import optional

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

AT_A_TIME = 13  # one for each check
NO_DRY_RUN = "does not support dry run"  # what the API server says of such a webhook
UID = "00000000-0000-0000-0000-000000000000"  # a Job gets its own when it is made
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
    from k8s.commands.submit import add_submission_flags  # noqa: PLC0415 - submit calls this module

    add_submission_flags(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Make all checks; returns the exit status."""
    from k8s.commands.submit import prepare, read  # noqa: PLC0415 - submit calls this module

    submission = read(arguments, datetime.now(UTC))
    cluster = connect()
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
    one_node = storage.needs_one_node(claim) or storage.is_on_one_node(job)
    asked: list[tuple[str, Callable[[], Check]]] = [
        ("server version", functools.partial(version, cluster)),
        ("namespace", functools.partial(namespace, cluster)),
        ("permissions", functools.partial(permitted, cluster)),
        ("name", functools.partial(name, cluster, job)),
        ("volume", functools.partial(storage.volume, job, claim)),
        ("storage class", functools.partial(storage.storage_class, cluster, job, claim)),
        ("data", functools.partial(storage.data, cluster, job)),
        ("pod", functools.partial(pod, cluster, job)),
        ("memory", functools.partial(capacity.memory, job)),
        ("quota", functools.partial(capacity.quota, cluster, job)),
        ("nodes", functools.partial(capacity.nodes, cluster, job, one_node=one_node)),
        ("gpus", functools.partial(capacity.gpus, cluster, job)),
        ("queue", functools.partial(queue, cluster, job)),
    ]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(lambda one: asking(*one), asked))


def asking(what: str, check: Callable[[], Check]) -> Check:
    """Make a check; one that this user may not make is not checked."""
    try:
        return check()
    except ApiError as error:
        if error.code != 403:
            raise
        return Check(what, "not checked", f"this user may not ask: {error.message}")


def version(cluster: Cluster) -> Check:
    """Whether the API server knows what the Job says."""
    major, minor = cluster.version()
    if (major, minor) < OLDEST:
        remedy = "upgrade the cluster"
        return Check("server version", "failed", f"{major}.{minor}, and 1.31 is the oldest that can run this", remedy)
    return Check("server version", "ok", f"{major}.{minor}")


def namespace(cluster: Cluster) -> Check:
    """Whether the namespace is there."""
    name = cluster.namespace
    if cluster.get("Namespace", name) is None:
        remedy = f"make it: `kubectl create namespace {name}`, or name another one with --namespace"
        return Check("namespace", "failed", f"there is no namespace {name}", remedy)
    return Check("namespace", "ok", name)


def permitted(cluster: Cluster) -> Check:
    """Whether this user may do what the launcher does with a run."""
    lacking = permissions.lacking(cluster, NEEDED)
    if not lacking:
        return Check("permissions", "ok", f"this user may run jobs in namespace {cluster.namespace}")
    state = "failed" if ("create", "Job", "") in lacking else "warning"
    return Check("permissions", state, permissions.denied(cluster, lacking), "bind the role in k8s/manifests/rbac")


def name(cluster: Cluster, job: Object) -> Check:
    """Whether the run's name is free."""
    run = job["metadata"]["name"]
    if cluster.get("Job", run):
        remedy = f"give another --name, or `mnist-job retry {run}`"
        return Check("name", "failed", f"there is a Job {run} already", remedy)
    if optional(cluster, "CronJob", run):
        return Check(
            "name", "failed", f"there is a schedule {run}", f"give another --name, or `mnist-job trigger {run}`"
        )
    return Check("name", "ok", run)


def pod(cluster: Cluster, job: Object) -> Check:
    """Whether the API server would take the Job's pods: it takes a Job whose pods it refuses."""
    try:
        cluster.create(pod_of(cluster, job), dry_run=True)
    except ApiError as error:
        told = error.message.partition("forbidden: ")[2] or error.message
        if 'cannot create resource "pods"' in error.message:
            raise
        if error.code == 404:
            return Check("pod", "not checked", told)  # there is no namespace
        if NO_DRY_RUN in told:
            return Check("pod", "not checked", told)
        remedy = catalogue.REMEDIES[catalogue.refusal_reason(told)]
        return Check("pod", "failed", f"the API server would refuse a worker's pod: {told}", remedy)
    return Check("pod", "ok", "the API server would take a worker's pod")


def pod_of(cluster: Cluster, job: Object) -> Object:
    """A pod as the Job controller would make it."""
    template = copy.deepcopy(job["spec"]["template"])
    run = job["metadata"]["name"]
    labels = {**template["metadata"]["labels"], JOB_NAME_LABEL: run, UID_LABEL: UID, INDEX_LABEL: "0"}
    # It may not be there yet; what it may do is nothing in any case.
    if is_missing(cluster, "ServiceAccount", template["spec"]["serviceAccountName"]):
        del template["spec"]["serviceAccountName"]
    metadata = {**template["metadata"], "generateName": f"{run}-0-", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def is_missing(cluster: Cluster, kind: str, name: str) -> bool:
    """Whether an object is not there; one that this user may not look at is taken to be."""
    try:
        return cluster.get(kind, name) is None
    except ApiError as error:
        if error.code != 403:
            raise
        return False


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
        message = f"there is no local queue {wanted} in namespace {cluster.namespace}, or no Kueue in the cluster"
        return Check("queue", "failed", message, "make the LocalQueue, or leave out --queue")
    return Check("queue", "ok", f"the local queue {wanted} is there")
