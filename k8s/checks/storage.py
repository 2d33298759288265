"""Whether a run's claim is there, fits its workers, and has or will get a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.checks.check import Check
from k8s.diagnose import catalogue
from k8s.state.names import CLAIM, claim_of, data_claim_of

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


READ_BY_MANY = {"ReadWriteMany", "ReadOnlyMany"}
UNSEEN: Object = {"spec": {"accessModes": []}}  # in place of a claim that this user may not look at


def find(cluster: Cluster, job: Object) -> Object | None:
    """The claim for the output that a rendered Job mounts: None where there is none, UNSEEN if it may not be seen."""
    return seen(cluster, claim_name(job))


def seen(cluster: Cluster, name: str) -> Object | None:
    """A claim: None where there is none of that name, UNSEEN where this user may not look."""
    try:
        return cluster.get("PersistentVolumeClaim", name)
    except ApiError as error:
        if error.code != 403:
            raise
        return UNSEEN


def volume(job: Object, claim: Object | None) -> Check:
    """Whether the claim is there, and its access mode fits the number of workers."""
    wanted, workers = claim_name(job), job["spec"]["completions"]
    together = "; all workers go to one node" if workers > 1 and needs_one_node(claim) else ""
    if claim is None and wanted == CLAIM:
        return Check("volume", "ok", f"submit makes the claim {wanted}{together}")
    if claim is None:
        return Check("volume", "failed", f"there is no claim {wanted}", catalogue.REMEDIES["claim-missing"])
    if claim is UNSEEN:
        return Check("volume", "not checked", f"this user may not look at the claim {wanted}{together}")
    modes = set(claim["spec"]["accessModes"])
    said = f"the claim {wanted} is {', '.join(sorted(modes))}"
    if modes == {"ReadWriteOncePod"} and workers > 1:
        remedy = "name a ReadWriteMany or ReadWriteOnce claim with --claim"
        return Check("volume", "failed", f"{said}, and {workers} workers cannot share it", remedy)
    if modes == {"ReadOnlyMany"}:
        return Check("volume", "failed", f"{said}, and nothing can be written to it", "name another one with --claim")
    return Check("volume", "ok", said + together)


def data(cluster: Cluster, job: Object) -> Check:
    """Whether the claim for the dataset, if one is named, can be read by all workers."""
    wanted, workers = data_claim_of(job["spec"]["template"]), job["spec"]["completions"]
    if wanted is None:
        return Check("data", "ok", "the image's own dataset")
    claim = seen(cluster, wanted)
    if claim is None:
        return Check("data", "failed", f"there is no claim {wanted}", "make it, or name another one with --data")
    if claim is UNSEEN:
        return Check("data", "not checked", f"this user may not look at the claim {wanted}")
    if claim.get("status", {}).get("phase") != "Bound":
        message = f"the claim {wanted} has no volume yet, and so there is no dataset on it"
        return Check("data", "failed", message, "prepare one there: docs/retraining.md, Data on a volume")
    modes = set(claim["spec"]["accessModes"])
    said = f"the claim {wanted} is {', '.join(sorted(modes))}"
    if modes == {"ReadWriteOncePod"} and workers > 1:
        remedy = "name a claim of another access mode with --data"
        return Check("data", "failed", f"{said}, and {workers} workers cannot share it", remedy)
    together = "; all workers go to one node" if workers > 1 and not READ_BY_MANY & modes else ""
    return Check("data", "ok", said + together)


def storage_class(cluster: Cluster, job: Object, claim: Object | None) -> Check:
    """Whether the claim has a volume, or a storage class that can make it one."""
    if claim is UNSEEN:
        return Check("storage class", "not checked", f"this user may not look at the claim {claim_name(job)}")
    state, message, remedy = of_absent(cluster, claim_name(job)) if claim is None else of_claim(cluster, claim)
    return Check("storage class", state, message, remedy)


def of_absent(cluster: Cluster, wanted: str) -> tuple[str, str, str]:
    """State, message and remedy for a claim that is not there."""
    if wanted != CLAIM:
        return "not checked", f"there is no claim {wanted}", ""
    default = "storageclass.kubernetes.io/is-default-class"
    for found in cluster.select("StorageClass"):
        if found["metadata"].get("annotations", {}).get(default) == "true":
            return "ok", f"{found['metadata']['name']}, the default one, makes the volume", ""
    message = f"the claim {wanted} is to be made, and there is no default storage class"
    return "failed", message, "make a claim with a class of your own, and name it with --claim"


def of_claim(cluster: Cluster, claim: Object) -> tuple[str, str, str]:
    """State, message and remedy for a claim that is there."""
    wanted, phase = claim["metadata"]["name"], claim.get("status", {}).get("phase")
    name, remedy = claim["spec"].get("storageClassName"), catalogue.REMEDIES["claim-unbound"]
    if phase == "Bound":
        return "ok", f"the claim {wanted} has its volume", ""
    if phase == "Lost":
        return "failed", f"the claim {wanted} has lost its volume", remedy
    if not name:
        return "warning", f"the claim {wanted} has neither a volume yet nor a storage class", remedy
    found = cluster.get("StorageClass", name)
    if found is None:
        return "failed", f"there is no storage class {name}, which the claim {wanted} names", remedy
    if found.get("volumeBindingMode") == "WaitForFirstConsumer":
        return "ok", f"{name} makes the volume of the claim {wanted} once a worker waits for it", ""
    return "warning", f"{name} has made no volume for the claim {wanted} yet", remedy


def is_on_one_node(job: Object) -> bool:
    """Whether a Job's pods go to one node, by the component or an affinity of the user's own."""
    affinity = job["spec"]["template"]["spec"].get("affinity", {})
    return bool(affinity.get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution"))


def claim_name(job: Object) -> str:
    """The claim that a rendered Job mounts."""
    return claim_of(job["spec"]["template"]) or ""


def needs_one_node(claim: Object | None) -> bool:
    """Whether all pods that use a claim must be on one node; an absent or unseen one is taken to need it."""
    return claim is None or not {"ReadWriteMany"} & set(claim["spec"]["accessModes"])


def data_needs_one_node(cluster: Cluster, job: Object) -> bool:
    """Whether all pods must be on one node for the claim with their dataset, if they have one."""
    wanted = data_claim_of(job["spec"]["template"])
    claim = seen(cluster, wanted) if wanted else None
    return wanted is not None and (claim is None or not READ_BY_MANY & set(claim["spec"]["accessModes"]))
