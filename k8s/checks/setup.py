"""The objects that all runs of a namespace share: which of them a Job needs, and which are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.checks import storage
from k8s.render import render

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


def needed(job: Object) -> list[Object]:
    """What a Job needs of the setup: everything except a claim or a service account that it replaces by another one."""
    used = {"PersistentVolumeClaim": storage.claim_name(job), "ServiceAccount": account_name(job)}
    return [new for new in render.setup_objects() if used.get(new["kind"]) in (None, new["metadata"]["name"])]


def missing(cluster: Cluster, job: Object) -> list[Object]:
    """What a Job needs of the setup and does not exist."""
    return [new for new in needed(job) if is_missing(cluster, new["kind"], new["metadata"]["name"])]


def is_missing(cluster: Cluster, kind: str, name: str) -> bool:
    """Whether an object does not exist; one that this user may not read is assumed to exist."""
    try:
        return cluster.get(kind, name) is None
    except ApiError as error:
        if error.code != 403:
            raise
        return False


def account_name(job: Object) -> str:
    """The service account of a Job's pods."""
    return str(job["spec"]["template"]["spec"].get("serviceAccountName", "default"))
