"""Kubernetes objects as plain JSON, and where the API server serves their kinds."""

from __future__ import annotations

import re
from typing import Any

Object = dict[str, Any]

# The kinds that the launcher uses: API, plural, and whether they are namespaced. Of a group without a version the
# launcher uses the version that the cluster prefers, which depends on what is installed.
KINDS: dict[str, tuple[str, str, bool]] = {
    "Pod": ("/api/v1", "pods", True),
    "Event": ("/api/v1", "events", True),
    "Service": ("/api/v1", "services", True),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims", True),
    "PersistentVolume": ("/api/v1", "persistentvolumes", False),
    "ResourceQuota": ("/api/v1", "resourcequotas", True),
    "Node": ("/api/v1", "nodes", False),
    "Namespace": ("/api/v1", "namespaces", False),
    "Job": ("/apis/batch/v1", "jobs", True),
    "CronJob": ("/apis/batch/v1", "cronjobs", True),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies", True),
    "StorageClass": ("/apis/storage.k8s.io/v1", "storageclasses", False),
    "LocalQueue": ("/apis/kueue.x-k8s.io", "localqueues", True),
    "ClusterQueue": ("/apis/kueue.x-k8s.io", "clusterqueues", False),
    "Workload": ("/apis/kueue.x-k8s.io", "workloads", True),
}


def leave_out_unused(item: Object) -> None:
    """Remove from an object of a list the fields that no command needs: a third of a pod, and most of a node."""
    item["metadata"].pop("managedFields", None)
    if "images" in item.get("status", {}):
        del item["status"]["images"]


def matches(fields: str, item: Object) -> bool:
    """Whether an object has the fields of a field selector, such as `metadata.name=a,status.phase!=Failed`."""
    for term in filter(None, fields.split(",")):
        path, value = re.split("!?==?", term, maxsplit=1)
        found: Any = item
        for name in path.split("."):
            found = (found or {}).get(name)
        if (str(found or "") == value) == ("!=" in term):
            return False
    return True
