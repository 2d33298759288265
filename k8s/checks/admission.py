"""Whether the API server would accept a run: its version, the namespace, permissions, the run's name and its pods."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from k8s.api import permissions
from k8s.checks.check import Check
from k8s.checks.setup import account_name, lacks_account
from k8s.checks.trial import ALL_FIELDS, NEW_NAMESPACE, SAID, TERMINATING, check_creation, tried
from k8s.diagnose import catalogue
from k8s.state.find import find_job, get_if_allowed, is_ours
from k8s.state.names import APP, INDEX_LABEL, JOB_NAME_LABEL, UID_LABEL, run_name

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

OLDEST = (1, 31)  # the first version with every field of the Job's spec
# What the launcher does with a run: verb, kind, subresource.
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
UID = "00000000-0000-0000-0000-000000000000"  # a Job gets its own when it is created


def check_version(cluster: Cluster) -> Check:
    """Whether the API server knows every field of the Job."""
    major, minor = cluster.version()
    if (major, minor) < OLDEST:
        message = f"the cluster runs Kubernetes {major}.{minor}; this job needs 1.31 or newer"
        return Check("server version", "failed", message, "upgrade the cluster")
    return Check("server version", "ok", f"{major}.{minor}")


def check_namespace(cluster: Cluster) -> Check:
    """Whether the namespace exists, and is not being deleted."""
    name = cluster.namespace
    namespace = cluster.get("Namespace", name)
    if namespace is None:
        remedy = f"create it with `kubectl create namespace {name}`, or choose another one with --namespace"
        return Check("namespace", "failed", f"namespace {name} does not exist", remedy)
    if namespace.get("status", {}).get("phase") == "Terminating":
        return Check("namespace", "failed", f"namespace {name} is being deleted", NEW_NAMESPACE)
    return Check("namespace", "ok", name)


def check_permissions(cluster: Cluster) -> Check:
    """Whether this user may do what the launcher does with a run."""
    denied = permissions.denied(cluster, NEEDED)
    if not denied:
        return Check("permissions", "ok", f"this user may run jobs in namespace {cluster.namespace}")
    state = "failed" if ("create", "Job", "") in denied else "warning"
    return Check("permissions", state, permissions.sentence(cluster, denied), permissions.bind("runner"))


def check_name(cluster: Cluster, job: Object) -> Check:
    """Whether the run's name is free."""
    run = job["metadata"]["name"]
    remedy = "choose another --name"
    if existing := find_job(cluster, run) or cluster.get("Job", run):
        if is_ours(existing):
            remedy += f", or run `mnist-job retry {run_name(existing)} {cluster.flags}`"
        return Check("name", "failed", f"a Job named {existing['metadata']['name']} already exists", remedy)
    if existing := get_if_allowed(cluster, "CronJob", run):
        if is_ours(existing):
            remedy += f", or run `mnist-job trigger {run} {cluster.flags}`"
        return Check("name", "failed", f"a CronJob named {run} already exists", remedy)
    return Check("name", "ok", run)


def check_service_account(cluster: Cluster, job: Object) -> Check:
    """Whether the pods' service account exists, or is the one that submit creates."""
    account = account_name(job)
    if not lacks_account(cluster, account):
        return Check("service account", "ok", account)
    if account == APP:
        return Check("service account", "ok", f"submit creates the service account {account}")
    message = f"service account {account} does not exist in namespace {cluster.namespace}"
    command = f"kubectl create serviceaccount {account} {cluster.flags}"
    return Check(
        "service account", "failed", message, f"create it with `{command}`, or choose another --service-account"
    )


def check_pod(cluster: Cluster, job: Object) -> Check:
    """Whether the API server would accept the Job's pods: it accepts a Job whose pods it refuses."""
    state, reason = tried(cluster, worker_pod(cluster, job))
    if 'cannot create resource "pods"' in reason:
        return Check("pod", "not checked", f"this user may not ask: {reason}")
    if state == "failed":
        remedy = catalogue.remedy(catalogue.refusal_reason(reason), flags=cluster.flags, account=account_name(job))
        remedy = NEW_NAMESPACE if TERMINATING in reason else remedy
        return Check("pod", state, f"{SAID[state]} a worker's pod: {reason}", remedy)
    if state == "warning":
        return Check("pod", state, f"{SAID[state]} a worker's pod: {reason}", ALL_FIELDS)
    return Check("pod", state, reason or "the API server would accept a worker's pod")


def check_job(cluster: Cluster, job: Object) -> Check:
    """Whether the API server would accept the Job itself."""
    if cluster.get("Job", job["metadata"]["name"]):
        return Check("job", "not checked", "a Job of this name exists")
    return check_creation(cluster, "job", [job], "the API server would accept the Job")


def worker_pod(cluster: Cluster, job: Object) -> Object:
    """A pod like the ones that the Job controller would create."""
    template = copy.deepcopy(job["spec"]["template"])
    run = job["metadata"]["name"]
    labels = {**template["metadata"]["labels"], JOB_NAME_LABEL: run, UID_LABEL: UID, INDEX_LABEL: "0"}
    # The service account has a check of its own, and submit may create it.
    if lacks_account(cluster, account_name(job)):
        template["spec"].pop("serviceAccountName", None)
    metadata = {**template["metadata"], "generateName": f"{run}-0-", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
