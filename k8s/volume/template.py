"""The volume pod as an object: a run's own pod template, with `sleep` in place of the training. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.render.render import set_claim
from k8s.state.names import (
    APP,
    CLAIM_LABEL,
    DATA_VOLUME,
    NAME_LABEL,
    NO_MESH_ANNOTATIONS,
    NO_MESH_LABELS,
    PART_OF_LABEL,
    claim_labels,
    trainer_of,
)

if TYPE_CHECKING:
    from k8s.api.objects import Object

CONTAINER = "volume"
# No label of a run's pods, so that selectors, the Service, the PodMonitor and the NetworkPolicy do not match it.
SELECTED = {PART_OF_LABEL: APP, "app.kubernetes.io/component": "volume"}
LABELS = {NAME_LABEL: f"{APP}-volume", **SELECTED}
VOLUME_POD_SELECTOR = ",".join(f"{name}={value}" for name, value in SELECTED.items())
LIFETIME_S = 3600  # the pod ends by itself if the launcher cannot delete it
# Enough to compare a few hundred runs, whatever a worker of the run needs.
RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
# What decides who the pod is, which files it may read and on which nodes it can start.
SPEC_OF_RUN = (
    "serviceAccountName",
    "enableServiceLinks",
    "imagePullSecrets",
    "tolerations",
    "runtimeClassName",
)
ARCH = "kubernetes.io/arch"
OF_IMAGE = ("kubernetes.io/os", ARCH)  # labels of the nodes on which the image runs
CONTAINER_OF_RUN = ("image", "imagePullPolicy")
# The pod has the rights of the user who creates it, and a Job may be somebody else's: of its security contexts, only
# what decides which files the pod may read is kept.
SECURITY_OF_RUN = (
    "runAsUser",
    "runAsGroup",
    "runAsNonRoot",
    "fsGroup",
    "fsGroupChangePolicy",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
    "seLinuxOptions",
    "seccompProfile",
)
SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def base_template(image: str, claim: str | None = None) -> Object:
    """The pod template of k8s/manifests/run, for a namespace in which no Job is left.

    The architecture of the image is not known: that of the manifests is preferred, but others are allowed.
    """
    [job] = kustomize(MANIFESTS / "run")
    template: Object = job["spec"]["template"]
    expected = {"key": ARCH, "operator": "In", "values": [template["spec"]["nodeSelector"].pop(ARCH)]}
    preferred = [{"weight": 100, "preference": {"matchExpressions": [expected]}}]
    template["spec"]["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    trainer_of(template)["image"] = image
    if claim:
        set_claim(template, claim)
    return template


def volume_pod(template: Object, name: str, *, writes: bool = False, node: str = "") -> Object:
    """The pod to create.

    Args:
        template: the pod template of a Job of a run.
        name: of the pod.
        writes: whether it may write to the volume.
        node: the only node on which it can mount the volume; empty for any.
    """
    spec, trainer = template["spec"], trainer_of(template)
    kept = [volume for volume in spec.get("volumes", []) if "emptyDir" in volume or _is_output(volume)]
    outputs = {volume["name"] for volume in kept if _is_output(volume)}
    mounts = [dict(m) for m in trainer.get("volumeMounts", []) if m["name"] in {volume["name"] for volume in kept}]
    for mount in mounts:
        if mount["name"] in outputs and not writes:
            mount["readOnly"] = True
    container = {key: trainer[key] for key in CONTAINER_OF_RUN if key in trainer}
    container |= {"name": CONTAINER, "command": ["sleep", str(LIFETIME_S)], "resources": RESOURCES}
    container["securityContext"] = _kept(trainer) | SECURITY
    labels = LABELS | {CLAIM_LABEL: claim_labels(template)[CLAIM_LABEL]} | NO_MESH_LABELS
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": NO_MESH_ANNOTATIONS},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": LIFETIME_S,
            **{key: spec[key] for key in SPEC_OF_RUN if key in spec},
            "automountServiceAccountToken": False,
            "securityContext": _kept(spec),
            **_placement(spec, node),
            "containers": [container | {"volumeMounts": mounts}],
            "volumes": kept,
        },
    }


def _kept(of_run: Object) -> Object:
    return {key: value for key, value in of_run.get("securityContext", {}).items() if key in SECURITY_OF_RUN}


def _is_output(volume: Object) -> bool:
    return "persistentVolumeClaim" in volume and volume["name"] != DATA_VOLUME


def _placement(spec: Object, node: str) -> Object:
    """Where the pod can run: wherever the run's pods can, or on the volume's node, if the image runs there."""
    selector = spec.get("nodeSelector", {})
    if node:
        fields = [{"key": "metadata.name", "operator": "In", "values": [node]}]
        required = {"nodeSelectorTerms": [{"matchFields": fields}]}
        affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
        return {"nodeSelector": {key: selector[key] for key in OF_IMAGE if key in selector}, "affinity": affinity}
    placement = {"nodeSelector": selector} if selector else {}
    # Affinity to other pods of the run would keep this one from starting.
    if affinity := spec.get("affinity", {}).get("nodeAffinity"):
        placement["affinity"] = {"nodeAffinity": affinity}
    return placement
