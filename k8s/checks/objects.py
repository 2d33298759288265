"""Whether a run's name is free, its service account and queue exist, and the API server would accept its pods."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.checks.check import Check
from k8s.checks.setup import account_name, is_missing
from k8s.diagnose import catalogue
from k8s.state.find import find_job, get_if_allowed
from k8s.state.names import APP, INDEX_LABEL, JOB_NAME_LABEL, QUEUE_LABEL, UID_LABEL, run_name

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

NO_DRY_RUN = "does not support dry run"  # the API server's words when an admission webhook has side effects
UID = "00000000-0000-0000-0000-000000000000"  # a Job gets its own when it is created


def name(cluster: Cluster, job: Object) -> Check:
    """Whether the run's name is free."""
    run = job["metadata"]["name"]
    if existing := find_job(cluster, run) or cluster.get("Job", run):
        remedy = f"give another --name, or run `mnist-job retry {run_name(existing)} {cluster.flags}`"
        return Check("name", "failed", f"a Job named {existing['metadata']['name']} exists already", remedy)
    if get_if_allowed(cluster, "CronJob", run):
        remedy = f"give another --name, or run `mnist-job trigger {run} {cluster.flags}`"
        return Check("name", "failed", f"a schedule named {run} exists already", remedy)
    return Check("name", "ok", run)


def service_account(cluster: Cluster, job: Object) -> Check:
    """Whether the pods' service account exists, or is the one that submit creates."""
    account = account_name(job)
    if not is_missing(cluster, "ServiceAccount", account):
        return Check("service account", "ok", account)
    if account == APP:
        return Check("service account", "ok", f"submit creates the service account {account}")
    message = f"service account {account} does not exist in namespace {cluster.namespace}"
    command = f"kubectl create serviceaccount {account} -n {cluster.namespace}"
    return Check("service account", "failed", message, f"create it with `{command}`, or name another --service-account")


def pod(cluster: Cluster, job: Object) -> Check:
    """Whether the API server would accept the Job's pods: it accepts a Job whose pods it refuses."""
    try:
        cluster.create(pod_of(cluster, job), dry_run=True)
    except ApiError as error:
        reason = error.message.partition("forbidden: ")[2] or error.message
        if 'cannot create resource "pods"' in error.message:
            raise
        if error.code == 404 or NO_DRY_RUN in reason:  # 404: the namespace does not exist
            return Check("pod", "not checked", reason)
        account = job["spec"]["template"]["spec"].get("serviceAccountName", "default")
        remedy = catalogue.remedy(catalogue.refusal_reason(reason), flags=cluster.flags, account=account)
        return Check("pod", "failed", f"the API server would refuse a worker's pod: {reason}", remedy)
    return Check("pod", "ok", "the API server would accept a worker's pod")


def pod_of(cluster: Cluster, job: Object) -> Object:
    """A pod like the ones that the Job controller would create."""
    template = copy.deepcopy(job["spec"]["template"])
    run = job["metadata"]["name"]
    labels = {**template["metadata"]["labels"], JOB_NAME_LABEL: run, UID_LABEL: UID, INDEX_LABEL: "0"}
    # The service account has a check of its own, and submit may create it.
    if is_missing(cluster, "ServiceAccount", account_name(job)):
        template["spec"].pop("serviceAccountName", None)
    metadata = {**template["metadata"], "generateName": f"{run}-0-", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def queue(cluster: Cluster, job: Object) -> Check:
    """Whether the queue exists, if the run names one."""
    queue_name = job["metadata"]["labels"].get(QUEUE_LABEL)
    if queue_name is None:
        return Check("queue", "ok", "none requested")
    try:
        local_queue = cluster.get("LocalQueue", queue_name)
    except ApiError as error:
        if error.code != 404:  # 404: Kueue is not installed
            raise
        local_queue = None
    if local_queue is None:
        message = f"local queue {queue_name} does not exist in namespace {cluster.namespace}, or Kueue is not installed"
        return Check("queue", "failed", message, "create the LocalQueue, or leave out --queue")
    return Check("queue", "ok", f"local queue {queue_name} exists")
