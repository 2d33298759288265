"""Whether the cluster is new enough, the namespace exists, and this user may run jobs in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.api import permissions
from k8s.checks.check import Check

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster

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


def version(cluster: Cluster) -> Check:
    """Whether the API server knows every field of the Job."""
    major, minor = cluster.version()
    if (major, minor) < OLDEST:
        message = f"the cluster runs Kubernetes {major}.{minor}; this job needs 1.31 or newer"
        return Check("server version", "failed", message, "upgrade the cluster")
    return Check("server version", "ok", f"{major}.{minor}")


def namespace(cluster: Cluster) -> Check:
    """Whether the namespace exists."""
    name = cluster.namespace
    if cluster.get("Namespace", name) is None:
        remedy = f"create it with `kubectl create namespace {name}`, or name another one with --namespace"
        return Check("namespace", "failed", f"namespace {name} does not exist", remedy)
    return Check("namespace", "ok", name)


def permitted(cluster: Cluster) -> Check:
    """Whether this user may do what the launcher does with a run."""
    denied = permissions.denied(cluster, NEEDED)
    if not denied:
        return Check("permissions", "ok", f"this user may run jobs in namespace {cluster.namespace}")
    state = "failed" if ("create", "Job", "") in denied else "warning"
    return Check("permissions", state, permissions.sentence(cluster, denied), permissions.bind("runner"))
