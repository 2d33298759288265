"""Which nodes the scheduler may choose for a pod, by its labels, affinity, tolerations and volumes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.state.pods import is_node_ready

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s.api.objects import Object

HOSTNAME = "kubernetes.io/hostname"  # a label that differs for each node
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def accepts(node: Object, template: Object, volumes: Sequence[Object] = ()) -> bool:
    """Whether a node accepts a pod, apart from its free room.

    Args:
        node: as the API server has it.
        template: the pod's template.
        volumes: the PersistentVolumes that the pod mounts.
    """
    spec, labels = template["spec"], node["metadata"].get("labels", {})
    hard = [taint for taint in node["spec"].get("taints", []) if taint["effect"] in ("NoSchedule", "NoExecute")]
    affinities = [spec.get("affinity", {}).get("nodeAffinity", {}).get(REQUIRED)]
    affinities += [volume["spec"].get("nodeAffinity", {}).get("required") for volume in volumes]
    return (
        is_node_ready(node)
        and not node["spec"].get("unschedulable")
        and spec.get("nodeSelector", {}).items() <= labels.items()
        and all(is_selected(node, each) for each in affinities if each)
        and all(any(tolerates(each, taint) for each in spec.get("tolerations", [])) for taint in hard)
    )


def is_selected(node: Object, selector: Object) -> bool:
    """Whether a node meets all requirements of one term of a node selector."""
    metadata = node["metadata"]
    labels, fields = metadata.get("labels", {}), {"metadata.name": metadata["name"]}
    return any(
        all(meets(labels, each) for each in term.get("matchExpressions", []))
        and all(meets(fields, each) for each in term.get("matchFields", []))
        for term in selector["nodeSelectorTerms"]
        if term  # an empty term selects no node
    )


def meets(labels: Mapping[str, str], requirement: Object) -> bool:
    """Whether labels meet a requirement of a node selector or of a label selector."""
    value, values = labels.get(requirement["key"]), requirement.get("values", [])
    match requirement["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and value.isdecimal() and int(value) > int(values[0])
        case _:  # Lt
            return value is not None and value.isdecimal() and int(value) < int(values[0])


def tolerates(toleration: Object, taint: Object) -> bool:
    """Whether a toleration matches a taint."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    same = toleration["key"] == taint["key"]
    return same and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))


def shared_labels(template: Object) -> set[str]:
    """The labels whose values must be the same on all workers' nodes, because the pods have an affinity to each other.

    kubernetes.io/hostname stands for one node, topology.kubernetes.io/zone for any nodes of one zone.
    """
    labels, affinity = template["metadata"].get("labels", {}), template["spec"].get("affinity", {})
    return {
        term["topologyKey"]
        for term in affinity.get("podAffinity", {}).get(REQUIRED, [])
        if selects(term.get("labelSelector"), labels)
    }


def follows(template: Object, pod: Object) -> bool:
    """Whether a pod's affinity places it on the node of another pod.

    Args:
        template: the pod's template.
        pod: the other pod.
    """
    labels, others = template["metadata"].get("labels", {}), pod["metadata"].get("labels", {})
    return any(
        term["topologyKey"] == HOSTNAME
        and selects(term.get("labelSelector"), others)
        and all(labels.get(key) == others.get(key) for key in term.get("matchLabelKeys", []))
        for term in template["spec"].get("affinity", {}).get("podAffinity", {}).get(REQUIRED, [])
    )


def selects(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects what has these labels; an absent one selects nothing."""
    if selector is None:
        return False
    same = selector.get("matchLabels", {}).items() <= labels.items()
    return same and all(meets(labels, each) for each in selector.get("matchExpressions", []))


def place_of(node: Object, keys: Sequence[str]) -> tuple[str, ...]:
    """A node's values of these labels; a node without one of them differs from all others."""
    metadata = node["metadata"]
    return tuple(metadata.get("labels", {}).get(key, metadata["name"]) for key in keys)
