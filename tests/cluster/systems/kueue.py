"""Kueue, compiled from its module, on the kind cluster that is kubectl's current context.

`python -m tests.cluster.systems.kueue install NAME` installs it in the kind cluster NAME, with a queue `night` in the
namespace `default`; `remove` removes it. KUEUE chooses another version, such as v0.17.0.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from tests.cluster.namespace import wait_until
from tests.cluster.systems.programs import load, module, program, run

MODULE, VERSION = "sigs.k8s.io/kueue", os.environ.get("KUEUE", "v0.19.0")
IMAGE = f"kueue:{VERSION}"
API = "kueue.x-k8s.io/v1beta2"
NAMESPACE, DEPLOYMENT = "kueue-system", "deployment/kueue-controller-manager"
CONFIG, CONFIG_FILE = "configmap/kueue-manager-config", "controller_manager_config.yaml"
PRIORITY_CLASS = "urgent"  # of Kueue's own: it changes nothing for the scheduler of pods
FLAVOUR, TOPOLOGY = "plain", "hosts"
# What Kueue's own kustomization needs changed: the image, the name of its program and a request that suits two cores.
CHANGES = {
    r"- /manager$": "- /bin/kueue",
    r"image: \S+/kueue:\S+$": f"image: {IMAGE}",
    r"imagePullPolicy: Always$": "imagePullPolicy: IfNotPresent",
    r"cpu: 500m$": "cpu: 100m",
}


def install(kind: str) -> None:
    """Install Kueue, a flavour for all nodes and a priority class, and wait until its webhooks answer."""
    load(kind, IMAGE, program(MODULE, VERSION, "cmd/kueue"), "USER 65532:65532")
    run("kubectl", "apply", "--server-side", "-f", "-", input=manifests())
    wait_for_rollout()
    flavour: dict[str, Any] = {"nodeLabels": {"kubernetes.io/os": "linux"}}
    apply(
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": FLAVOUR}, "spec": flavour},
        {"apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": {"name": PRIORITY_CLASS}, "value": 1000},
        {
            "apiVersion": API,
            "kind": "Topology",
            "metadata": {"name": TOPOLOGY},
            "spec": {"levels": [{"nodeLabel": "kubernetes.io/hostname"}]},
        },
        {
            "apiVersion": API,
            "kind": "ResourceFlavor",
            "metadata": {"name": TOPOLOGY},
            "spec": {**flavour, "topologyName": TOPOLOGY},
        },
    )


def remove() -> None:
    """Remove Kueue with all of its objects. Their finalizers need its controller, so it goes last."""
    kinds = "localqueues,clusterqueues,workloads,resourceflavors,topologies,workloadpriorityclasses"
    run("kubectl", "delete", kinds, "--all", "--all-namespaces", "--timeout=120s")
    run("kubectl", "delete", "--ignore-not-found", "--timeout=300s", "-f", "-", input=manifests())


def manifests() -> str:
    """Kueue's own manifests of its default installation, without the API of its queues' order.

    Compiled here, that API answers 404, and while an API does not answer, Kubernetes deletes no namespace.
    """
    text = run("kubectl", "kustomize", str(module(MODULE, VERSION) / "config/default"))
    text = "\n---\n".join(each for each in text.split("\n---\n") if "\nkind: APIService\n" not in each)
    for pattern, value in CHANGES.items():
        text, count = re.subn(pattern, value, text, flags=re.MULTILINE)
        assert count == 1, (pattern, count)
    return text


def wait_for_rollout() -> None:
    """Wait until the newest controller runs."""
    run("kubectl", "-n", NAMESPACE, "rollout", "status", DEPLOYMENT, "--timeout=300s")


def apply(*objects: dict[str, Any]) -> None:
    """Apply objects; a webhook that does not answer yet is asked again."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})

    def applied() -> bool:
        try:
            run("kubectl", "apply", "-f", "-", input=text)
        except AssertionError as error:
            if "failed calling webhook" not in str(error):
                raise
            return False
        return True

    wait_until(applied, "Kueue's webhooks")


def queue(namespace: str, quota: dict[str, str], flavour: str = FLAVOUR) -> str:
    """Make the local queue `night` of a namespace, with a ClusterQueue of its own; returns the latter's name.

    Args:
        namespace: its name, which is also that of the ClusterQueue.
        quota: nominal quotas by resource.
        flavour: that all of it has.
    """
    resources = [{"name": name, "nominalQuota": value} for name, value in quota.items()]
    group = {"coveredResources": list(quota), "flavors": [{"name": flavour, "resources": resources}]}
    spec: dict[str, Any] = {"namespaceSelector": {}, "resourceGroups": [group]}
    spec |= {"preemption": {"withinClusterQueue": "LowerPriority"}}
    metadata = {"name": "night", "namespace": namespace}
    apply(
        {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": namespace}, "spec": spec},
        {"apiVersion": API, "kind": "LocalQueue", "metadata": metadata, "spec": {"clusterQueue": namespace}},
    )
    return namespace


def configure(addition: str) -> str:
    """Add to Kueue's configuration, and restart it; returns the configuration as it was, for restore()."""
    before = run(
        "kubectl", "-n", NAMESPACE, "get", CONFIG, "-o", f"jsonpath={{.data.{CONFIG_FILE.replace('.', chr(92) + '.')}}}"
    )
    restore(before + addition)
    return before


def restore(text: str) -> None:
    """Set Kueue's configuration, and restart it."""
    patch = json.dumps({"data": {CONFIG_FILE: text}})
    run("kubectl", "-n", NAMESPACE, "patch", CONFIG, "--type=merge", f"--patch={patch}")
    run("kubectl", "-n", NAMESPACE, "rollout", "restart", DEPLOYMENT)
    wait_for_rollout()


if __name__ == "__main__":
    if sys.argv[1:2] == ["install"] and len(sys.argv) == 3:
        install(sys.argv[2])
        queue("default", {"cpu": "2", "memory": "4Gi"})
    elif sys.argv[1:] == ["remove"]:
        remove()
    else:
        sys.exit(__doc__)
