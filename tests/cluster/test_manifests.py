"""The API server accepts every object of the manifests unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s.checks import admission
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.volume.template import base_template, volume_pod

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from tests.cluster.namespace import Namespace

# With this, the API server refuses unknown fields.
STRICT = ("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")


def dry_run(namespace: Namespace, new: Object) -> Object:
    """An object as the API server would create it."""
    created: Object = json.loads(namespace.kubectl(*STRICT, stdin=json.dumps(new)))
    return created


def test_every_folder(namespace: Namespace) -> None:
    """It accepts each overlay without components, with each one and with all; the setup; the roles; the volume pod."""
    components = sorted((MANIFESTS / "components").iterdir())
    for overlay in (MANIFESTS / "overlays").iterdir():
        for chosen in ([], *([component] for component in components), components):
            [job] = kustomize(overlay, *chosen)
            spec = dry_run(namespace, job)["spec"]
            # An API server silently drops fields of features that are disabled.
            for field in ("podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "podReplacementPolicy"):
                assert field in spec
        pod = admission.worker_pod(namespace.cluster, job)
        assert dry_run(namespace, pod)["status"]["phase"] == "Pending"
    for folder in ("setup", "rbac"):
        for new in kustomize(MANIFESTS / folder):
            dry_run(namespace, new)
    pod = volume_pod(base_template(namespace.image), "v", node="n1")
    del pod["spec"]["serviceAccountName"]  # it does not exist yet
    dry_run(namespace, pod)


def test_kubectl_accepts_the_output_of_dry_run(namespace: Namespace) -> None:
    """`kubectl apply` accepts the YAML of `submit --dry-run` unchanged, even if a check fails."""
    flags = [f"--image={namespace.image}", "--name=digits", "--workers=3", "--queue=night"]
    printed = namespace.launcher("submit", "--dry-run", *flags, "--", "--epochs=2")
    command = ("apply", "--dry-run=server", "-o", "json", "-f", "-")
    *setup, job = json.loads(namespace.kubectl(*command, stdin=printed))["items"]
    assert (job["metadata"]["name"], job["spec"]["completions"]) == ("digits", 3)
    kinds = ["NetworkPolicy", "NetworkPolicy", "PersistentVolumeClaim", "Service", "ServiceAccount"]
    assert sorted(each["kind"] for each in setup) == kinds
    # In an empty namespace, the YAML without contact to a cluster is the same.
    nowhere = Path("/nowhere")
    assert namespace.launcher("submit", "--dry-run=client", *flags, "--", "--epochs=2", kubeconfig=nowhere) == printed


def test_preflight_alone(namespace: Namespace) -> None:
    """In a new namespace no check fails; for one that does not exist, preflight prints the remedy."""
    checks = {check["name"]: check for check in namespace.told("preflight", "--cpu=100m")}
    assert {name for name, check in checks.items() if check["state"] == "failed"} == set()
    assert checks["pod"]["message"] == "the API server would accept a worker's pod"
    output = namespace.launcher("preflight", "--namespace=nowhere-at-all", code=2)
    assert (
        "failed      namespace: namespace nowhere-at-all does not exist; create it with `kubectl create namespace"
        in output
    )
    assert (
        namespace.launcher("submit", "--", "--epochs=0", code=Exit.USAGE)
        == "error: --epochs must be at least 1, not 0\n"
    )
    assert namespace.kubectl("get", "jobs,services,persistentvolumeclaims", "-o", "name") == ""
