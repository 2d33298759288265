"""Take a run out of Kueue's queue, so that Kueue does not start it again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.state.find import workloads_of
from k8s.state.names import LEFT_QUEUE, NO_QUEUE, QUEUE_LABEL

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

STOP_S = 30.0  # for Kueue to stop a Job, which takes it three requests to the API server
POLL_S = 0.2


def suspend_for_good(cluster: Cluster, job: Object, change: Object) -> Object:
    """Suspend a Job, also if Kueue decides when it runs; returns it as changed.

    Kueue starts a suspended Job whose Workload is admitted. The Workloads are therefore deactivated before the Job is
    suspended, and again afterwards, because Kueue may have made another one meanwhile. The Job also gets the name of a
    queue that does not exist, for Workloads that Kueue makes later. Without a name, Kueue would choose the queue
    `default` if the namespace has one (LocalQueueDefaulting, which also forbids a Job to drop its queue).

    Args:
        cluster: where the Job is.
        job: as it is.
        change: a JSON merge patch that suspends it.
    """
    name, queue = job["metadata"]["name"], job["metadata"].get("labels", {}).get(QUEUE_LABEL)
    if queue is None:
        return cluster.patch("Job", name, change)
    deactivate(cluster, job)
    if queue != NO_QUEUE:
        metadata = change.get("metadata", {})
        annotations = {**metadata.get("annotations", {}), LEFT_QUEUE: queue}
        labels = {**metadata.get("labels", {}), QUEUE_LABEL: NO_QUEUE}
        change = {**change, "metadata": {**metadata, "annotations": annotations, "labels": labels}}
    changed = patch_once_stopped(cluster, name, change)
    deactivate(cluster, job)
    return changed


def patch_once_stopped(cluster: Cluster, name: str, change: Object) -> Object:
    """Change the queue of a Job, which Kueue's webhook refuses while Kueue stops the Job (kueue.x-k8s.io/stopping).

    Raises:
        ApiError: Kueue still refuses it after STOP_S, or the API server refuses it for another reason.
    """
    deadline = time.monotonic() + STOP_S
    while True:
        try:
            return cluster.patch("Job", name, change)
        except ApiError as error:
            if "field is immutable" not in error.message or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def deactivate(cluster: Cluster, job: Object) -> None:
    """Deactivate a Job's Workloads: Kueue stops the Job if it runs, and does not admit it again."""
    try:
        workloads = workloads_of(cluster, job)
    except ApiError as error:
        if error.code == 404:  # Kueue is not installed, so it starts nothing
            return
        raise
    for workload in workloads:
        if workload["spec"].get("active", True):
            cluster.patch("Workload", workload["metadata"]["name"], {"spec": {"active": False}})
