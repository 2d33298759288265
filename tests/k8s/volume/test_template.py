"""The volume pod as an object: what it takes over from a run's pod template, and what it leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.render.render import job
from k8s.render.submission import Submission
from k8s.state.names import CLAIM
from k8s.volume.template import LABELS, base_template, volume_pod
from tests.k8s.fakes import selects

if TYPE_CHECKING:
    from k8s.api.objects import Object

NODES = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}


def template() -> Object:
    """The template of a run with its own user, nodes, runtime and dataset, as a cluster keeps it."""
    submission = Submission("digits", "gpu", ("one-node",), image="mine:1", claim="mine", data="images")
    made: Object = job(submission)["spec"]["template"]
    made["metadata"]["labels"] |= {"batch.kubernetes.io/job-name": "digits", "controller-uid": "u"}
    made["spec"] |= {
        "nodeSelector": {"disk": "fast"},
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "s"}],
        "automountServiceAccountToken": True,
        "securityContext": {"runAsUser": 1000, "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "0"}]},
        "tolerations": [{"key": "team", "operator": "Exists"}],
        "initContainers": [{"name": "init"}],
    }
    made["spec"]["containers"][0]["securityContext"] = {"runAsGroup": 7, "privileged": True}
    made["spec"]["affinity"]["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": NODES}
    return made


@pytest.mark.parametrize("writes", [False, True])
def test_pod(writes: bool) -> None:
    """The pod runs as the run's pods do, where they can, and mounts the output alone: read-only unless it writes.

    It is not privileged, even if they are: a Job can be that of another user, and the pod is the launcher's user's.
    """
    output = {"name": "output", "mountPath": "/output"} | ({} if writes else {"readOnly": True})
    before = template()
    assert volume_pod(before, "v", writes=writes) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "v",
            "labels": {
                "app.kubernetes.io/name": "mnist-job-volume",
                "app.kubernetes.io/part-of": "mnist-job",
                "app.kubernetes.io/component": "volume",
                "mnist-job/claim": "mine",
                "sidecar.istio.io/inject": "false",
                "istio.io/dataplane-mode": "none",
            },
            "annotations": {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"},
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": 3600,
            "serviceAccountName": "mnist-job",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsUser": 1000},
            "imagePullSecrets": [{"name": "s"}],
            "tolerations": [{"key": "team", "operator": "Exists"}],
            "runtimeClassName": "nvidia",
            "nodeSelector": {"disk": "fast"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": NODES}},
            "containers": [
                {
                    "name": "volume",
                    "image": "mine:1",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sleep", "3600"],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "128Mi"},
                        "limits": {"cpu": "1", "memory": "512Mi"},
                    },
                    "securityContext": {
                        "runAsGroup": 7,
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a mount in a container
                        output,
                        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the same
                    ],
                }
            ],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
                {"name": "output", "persistentVolumeClaim": {"claimName": "mine"}},
            ],
        },
    }
    assert before == template()


def test_pinned_to_a_node() -> None:
    """On the node that has the volume, nothing but the image keeps the pod from starting."""
    spec = volume_pod(template(), "v", node="n1")["spec"]
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    required = {"nodeSelectorTerms": [term]}
    assert spec["affinity"] == {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    assert spec["nodeSelector"] == {}


def test_base_template() -> None:
    """Without a Job, the template is that of the manifests, with the image and the claim that were given.

    A node of another architecture is not ruled out: the nodes of a kind cluster on an Apple machine are arm64.
    """
    rendered = job(Submission("digits", image="mine:1", claim="mine"))["spec"]["template"]["spec"]
    arch = rendered["nodeSelector"].pop("kubernetes.io/arch")
    expected = {"key": "kubernetes.io/arch", "operator": "In", "values": [arch]}
    preferred = [{"weight": 100, "preference": {"matchExpressions": [expected]}}]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    assert base_template("mine:1", "mine")["spec"] == rendered | {"affinity": affinity}
    pod = volume_pod(base_template("mine:1", "mine"), "v")["spec"]
    assert (pod["nodeSelector"], pod["affinity"]) == ({"kubernetes.io/os": "linux"}, affinity)
    [output, _] = base_template("mine:1")["spec"]["volumes"]
    assert output["persistentVolumeClaim"] == {"claimName": CLAIM}


def test_no_selector_finds_it() -> None:
    """Neither the Service nor a run's NetworkPolicies nor the PodMonitor take the pod for one of a run's."""
    found = [each for name in ("setup", "monitoring") for each in kustomize(MANIFESTS / name)]
    found = [each for each in found if each["metadata"]["name"] != "mnist-job-volume"]
    selectors = [each["spec"].get("podSelector") or each["spec"].get("selector") for each in found if "spec" in each]
    labels = [s.get("matchLabels", s) for s in selectors if s]
    assert len(labels) == 4
    for wanted in labels:
        assert not selects(",".join(f"{name}={value}" for name, value in wanted.items()), LABELS)
