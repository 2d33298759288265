"""What the manifests' folders make is taken by the API server itself, as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s.checks import objects
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.volume.template import base_template, volume_pod

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from tests.cluster.lab import Lab

# Refuses a field that the API server does not know.
STRICT = ("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")


def taken(lab: Lab, found: Object) -> Object:
    """An object as the API server would make it."""
    made: Object = json.loads(lab.kubectl(*STRICT, given=json.dumps(found)))
    return made


def test_every_folder(lab: Lab) -> None:
    """Each overlay alone, with each component and with all of them, and its pod; setup, roles and the volume pod."""
    components = sorted((MANIFESTS / "components").iterdir())
    for overlay in (MANIFESTS / "overlays").iterdir():
        for chosen in ([], *([component] for component in components), components):
            [job] = kustomize(overlay, *chosen)
            spec = taken(lab, job)["spec"]
            # An API server drops without a word a field whose feature is switched off.
            for field in ("podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "podReplacementPolicy"):
                assert field in spec
        pod = objects.pod_of(lab.cluster, job)
        assert taken(lab, pod)["status"]["phase"] == "Pending"
    for folder in ("setup", "rbac"):
        for found in kustomize(MANIFESTS / folder):
            taken(lab, found)
    pod = volume_pod(base_template(lab.image), "v", node="n1")
    del pod["spec"]["serviceAccountName"]  # which does not exist yet
    taken(lab, pod)


def test_dry_run_is_what_kubectl_takes(lab: Lab) -> None:
    """The YAML of `submit --dry-run` goes into `kubectl apply` as it is; a failed check is no matter to it."""
    flags = [f"--image={lab.image}", "--name=digits", "--workers=3", "--queue=night"]
    printed = lab.launcher("submit", "--dry-run", *flags, "--", "--epochs=2")
    command = ("apply", "--dry-run=server", "-o", "json", "-f", "-")
    *setup, made = json.loads(lab.kubectl(*command, given=printed))["items"]
    assert (made["metadata"]["name"], made["spec"]["completions"]) == ("digits", 3)
    kinds = ["NetworkPolicy", "PersistentVolumeClaim", "Service", "ServiceAccount"]
    assert sorted(found["kind"] for found in setup) == kinds
    # Without asking a cluster it is the same, where nothing is there yet.
    nowhere = Path("/nowhere")
    assert lab.launcher("submit", "--dry-run=client", *flags, "--", "--epochs=2", kubeconfig=nowhere) == printed


def test_preflight_alone(lab: Lab) -> None:
    """A fresh namespace is fit for a run, and one that is not there is told with its remedy."""
    found = {check["name"]: check for check in json.loads(lab.launcher("preflight", "--output=json", "--cpu=100m"))}
    assert {name for name, check in found.items() if check["state"] == "failed"} == set()
    assert found["pod"]["message"] == "the API server would take a worker's pod"
    told = lab.launcher("preflight", "--namespace=nowhere-at-all", code=2)
    assert (
        "failed      namespace: namespace nowhere-at-all does not exist; create it with `kubectl create namespace"
        in told
    )
    assert lab.launcher("submit", "--", "--epochs=0", code=Exit.USAGE) == "error: --epochs must be at least 1, not 0\n"
    assert lab.kubectl("get", "jobs,services,persistentvolumeclaims", "-o", "name") == ""
