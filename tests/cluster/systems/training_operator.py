"""Kubeflow's training operator, from its Go module: its program and manifests, for TFJobs alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from tests.cluster.namespace import wait_until
from tests.cluster.systems.programs import load, module, program, run

if TYPE_CHECKING:
    from k8s.api.objects import Object

MODULE, VERSION = "github.com/kubeflow/training-operator", "v1.8.1"
IMAGE = f"training-operator-of-tests:{VERSION}"
NAMESPACE = "kubeflow"


def manifests(image: str) -> str:
    """The module's standalone overlay, with another image, and with the controller and definition of TFJobs alone."""
    text = run("kubectl", "kustomize", str(module(MODULE, VERSION) / "manifests/overlays/standalone"))
    documents = []
    # The definitions have 40,000 lines, so they are not parsed.
    for document in text.split("\n---\n"):
        if "\nkind: CustomResourceDefinition\n" in document and "\n  name: tfjobs.kubeflow.org\n" not in document:
            continue
        documents.append(with_image(document, image) if "\nkind: Deployment\n" in document else document)
    return "\n---\n".join(documents)


def with_image(document: str, image: str) -> str:
    """The operator's Deployment with this image, whose entrypoint is the program."""
    deployment: Object = yaml.safe_load(document)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    container |= {"image": image, "args": ["--enable-scheme=tfjob"], "imagePullPolicy": "Never"}
    del container["command"]
    return str(yaml.safe_dump(deployment))


def install(kind: str) -> str:
    """Install it in a kind cluster, and wait until it validates TFJobs; returns its manifests."""
    load(kind, IMAGE, program(MODULE, VERSION, "cmd/training-operator.v1"))
    applied = manifests(IMAGE)
    # The definition is too large for `kubectl apply` on the client's side.
    run("kubectl", "apply", "--server-side", "-f", "-", input=applied)
    run("kubectl", "rollout", "status", "--timeout=10m", "-n", NAMESPACE, "deployment/training-operator")
    wait_until(is_validating, "the operator's webhook for TFJobs")
    return applied


def is_validating() -> bool:
    """Whether the operator's webhook has its certificate: it refuses a TFJob without a container."""
    replicas = {"Worker": {"replicas": 1, "template": {"spec": {"containers": []}}}}
    metadata = {"name": "wrong", "namespace": NAMESPACE}
    wrong = {"apiVersion": "kubeflow.org/v1", "kind": "TFJob", "metadata": metadata}
    wrong["spec"] = {"tfReplicaSpecs": replicas}
    answer = run("sh", "-c", "kubectl create --dry-run=server -f - 2>&1 || true", input=json.dumps(wrong))
    return "denied the request" in answer


def remove(applied: str) -> None:
    """Remove it."""
    run("kubectl", "delete", "--ignore-not-found", "--wait", "-f", "-", input=applied)
