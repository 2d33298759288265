"""Ask the API server, by a dry run, whether it would accept an object."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from k8s.api import permissions
from k8s.api.errors import ApiError
from k8s.checks.check import Check
from k8s.diagnose import catalogue
from k8s.diagnose.pending import QUOTA
from k8s.state.names import APP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

# Fields whose keys are the user's or the cluster's own names: the API server drops none of them.
MAPS = {"labels", "annotations", "nodeSelector", "matchLabels", "limits", "requests"}
NO_DRY_RUN = "does not support dry run"  # the API server's words when an admission webhook has side effects
OF_CLUSTER = ("webhook", "security-context-constraint")  # refusals that a change of the object does not prevent
CLAIM_KIND = "PersistentVolumeClaim"
TERMINATING = "being terminated"  # its words for a namespace that is being deleted
SAID = {
    "failed": "the API server would refuse",
    "not checked": "the API server cannot try",
    "warning": "the API server would drop a part of",
}
ALL_FIELDS = "upgrade the cluster, or turn on the feature gates of these fields"
NEW_NAMESPACE = "wait until the namespace is gone and create it again, or choose another one with --namespace"


def tried(cluster: Cluster, new: Object) -> tuple[str, str]:
    """The result of a dry run that creates an object: the state of a check or `exists`, and the API server's reason.

    If the namespace is missing, the object is not checked: the namespace has its own check. The API server drops a
    field whose feature gate is off, and says nothing about it: that is a warning.
    """
    try:
        made = cluster.create(new, dry_run=True)
    except ApiError as error:
        reason = error.message.partition("forbidden: ")[2] or error.message
        if error.reason == "AlreadyExists":
            return "exists", reason
        unknown = error.code == 404 or NO_DRY_RUN in reason
        return "not checked" if unknown else "failed", reason
    if lost := list(dropped(new, made)):
        return "warning", "this cluster of Kubernetes {}.{} lacks ".format(*cluster.version()) + ", ".join(lost)
    return "ok", ""


def dropped(new: Any, made: Any, path: str = "") -> Iterator[str]:
    """The paths of the fields that are missing from an object that the API server made, such as `spec.successPolicy`.

    An empty value does not count, because the API server leaves out most of these. Nor does what only a webhook can
    have replaced: a key of a map such as the labels, an item of a list, a field of a named item beside which there is
    a new one (`value` of a variable by `valueFrom`), and a list of another length, such as the containers of a pod
    into which a webhook injects one.
    """
    if isinstance(new, dict) and isinstance(made, dict):
        if "name" in new and new["name"] != made.get("name"):
            return
        replaced = "name" in new and any(made[key] and isinstance(made[key], dict) for key in made.keys() - new.keys())
        for key, value in new.items():
            if key in made:
                yield from () if key in MAPS else dropped(value, made[key], f"{path}.{key}" if path else key)
            elif value and key != "generateName" and not replaced:
                yield f"{path}.{key}" if path else key
    elif isinstance(new, list) and isinstance(made, list) and len(new) == len(made):
        for index, (value, kept) in enumerate(zip(new, made, strict=True)):
            yield from dropped(value, kept, f"{path}[{index}]")


def require(cluster: Cluster, new: Object) -> None:
    """Raise an error if a dry run shows that the API server would refuse an object.

    Raises:
        ApiError: it would.
    """
    try:
        cluster.create(new, dry_run=True)
    except ApiError as error:
        if NO_DRY_RUN not in error.message:
            raise


def check_creation(cluster: Cluster, name: str, objects: list[Object], well: str) -> Check:
    """Whether the API server would accept all these objects.

    Args:
        cluster: where they would be created.
        name: of the check.
        objects: what would be created.
        well: the message if it would.
    """
    results = [(new, *tried(cluster, new)) for new in objects]
    state = next((state for state in SAID if state in [found for _, found, _ in results]), "ok")
    if state == "ok":
        return Check(name, state, well)
    told = [(new["kind"], new["metadata"]["name"], reason) for new, found, reason in results if found == state]
    by_reason: dict[str, list[str]] = {}
    for kind, of, reason in told:
        by_reason.setdefault(reason, []).append(f"the {kind} {of}")
    message = "; ".join(f"{SAID[state]} {', '.join(names)}: {reason}" for reason, names in by_reason.items())
    remedies = [remedy(cluster, kind, reason) for kind, _, reason in told] if state == "failed" else []
    remedies += [ALL_FIELDS] if state == "warning" else []
    return Check(name, state, message, "; ".join(dict.fromkeys(remedies)))


def remedy(cluster: Cluster, kind: str, reason: str) -> str:
    """What to do about a refusal.

    Args:
        cluster: which refused it.
        kind: of the object.
        reason: the API server's.
    """
    if re.search(r"cannot \w+ resource", reason):
        return permissions.bind("runner") if kind in ("Job", "CronJob", "ConfigMap") else setup_by_another(cluster)
    own = "create a claim that is allowed, and pass it with --claim"
    if exceeded := QUOTA.search(reason):
        raised = f"ask an administrator to raise the quota {exceeded[1]}"
        return f"{raised}, or {own.replace(',', '')}" if kind == CLAIM_KIND else raised
    if f"per {CLAIM_KIND}" in reason:
        return own
    if TERMINATING in reason:
        return NEW_NAMESPACE
    told = catalogue.refusal_reason(reason)
    return catalogue.remedy(told if told in OF_CLUSTER else "refused", flags=cluster.flags, account=APP)


def setup_by_another(cluster: Cluster) -> str:
    """The remedy for a user who may not create the setup."""
    # Not with the user's context, whose name another person's kubeconfig need not have.
    return f"ask an administrator to run `kubectl apply -k k8s/manifests/setup -n {cluster.namespace}`"
