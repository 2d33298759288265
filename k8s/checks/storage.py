"""Whether a run's claims exist, fit its workers, and have or will get a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.checks.check import Check
from k8s.checks.matching import HOSTNAME, follows
from k8s.diagnose import catalogue
from k8s.state.find import get_if_allowed
from k8s.state.names import CLAIM, claim_of, claims, data_claim_of, trainer_of
from k8s.state.pods import has_finished, is_scheduled

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
UNREADABLE: Object = {"spec": {"accessModes": []}}  # in place of a claim that this user may not read


def output_claim(cluster: Cluster, job: Object) -> Object | None:
    """The claim for the output that a rendered Job mounts, as read_claim() gives it."""
    return read_claim(cluster, claim_name(job))


def read_claim(cluster: Cluster, name: str) -> Object | None:
    """A claim; None where it does not exist, UNREADABLE where this user may not read it."""
    return get_if_allowed(cluster, "PersistentVolumeClaim", name, UNREADABLE)


def check_volume(cluster: Cluster, job: Object, claim: Object | None) -> Check:
    """Whether the output's claim exists, and its access mode fits the number of workers."""
    name, workers = claim_name(job), job["spec"]["completions"]
    together = "; all workers run on one node" if workers > 1 and needs_one_node(claim) else ""
    if claim is None and name == CLAIM:
        return Check("volume", "ok", f"submit creates the claim {name}{together}")
    if claim is None:
        return Check("volume", "failed", f"the claim {name} does not exist", catalogue.remedy("claim-missing"))
    if claim is UNREADABLE:
        return Check("volume", "not checked", f"this user may not read the claim {name}{together}")
    modes = set(claim["spec"]["accessModes"])
    if modes == {"ReadOnlyMany"}:
        message = f"the claim {name} is ReadOnlyMany: a run cannot write to it"
        return Check("volume", "failed", message, "choose another one with --claim")
    remedy = "choose a ReadWriteMany or ReadWriteOnce claim with --claim"
    return shared(cluster, job, claim, "volume", remedy, one_node=needs_one_node(claim))


def check_data(cluster: Cluster, job: Object) -> Check:
    """Whether all workers can read the dataset's claim, if the run names one."""
    name = data_claim_of(job["spec"]["template"])
    if name is None:
        return Check("data", "ok", "the image's own dataset")
    claim = read_claim(cluster, name)
    if claim is None:
        return Check(
            "data", "failed", f"the claim {name} does not exist", "create it, or choose another one with --data"
        )
    if claim is UNREADABLE:
        return Check("data", "not checked", f"this user may not read the claim {name}")
    if claim.get("status", {}).get("phase") != "Bound":
        message = f"the claim {name} has no volume yet, so it holds no dataset"
        image = trainer_of(job["spec"]["template"])["image"]
        remedy = f"copy one there: `mnist-job data put data/mnist --claim {name} --image {image} {cluster.flags}`"
        return Check("data", "failed", message, remedy)
    remedy = "choose a claim with another access mode: --data"
    return shared(cluster, job, claim, "data", remedy, one_node=not is_read_by_many(claim))


def shared(cluster: Cluster, job: Object, claim: Object, check: str, remedy: str, *, one_node: bool) -> Check:
    """Whether all workers can mount a claim at the same time, together with the pods that use it now.

    Args:
        cluster: gives the pods.
        job: the rendered Job.
        claim: as the API server has it.
        check: the name of the check.
        remedy: for a claim that the workers cannot share.
        one_node: whether the pods that use the claim must share a node.
    """
    name, modes, workers = claim["metadata"]["name"], claim["spec"]["accessModes"], job["spec"]["completions"]
    message, alone = f"the claim {name} is {', '.join(sorted(modes))}", modes == ["ReadWriteOncePod"]
    if alone and workers > 1:
        return Check(check, "failed", f"{message}: {workers} workers cannot share it", remedy)
    if not one_node:
        return Check(check, "ok", message)
    together = "; all workers run on one node" if workers > 1 else ""
    others = [pod for pod in users(cluster, name) if alone or not follows(job["spec"]["template"], pod)]
    if not others:
        return Check(check, "ok", f"{message}{together}")
    user, node = others[0]["metadata"]["name"], others[0]["spec"]["nodeName"]
    message += f", and pod {user} on node {node} uses it; a worker {'' if alone else 'on another node '}waits until "
    flag = "--data" if check == "data" else "--claim"
    here = f"place the workers on its node: submit them with --node-selector {HOSTNAME}={node}"
    wait = f"choose another claim with {flag}, or wait"
    return Check(check, "warning", f"{message}that pod has ended", wait if alone else here)


def check_storage_class(cluster: Cluster, job: Object, claim: Object | None) -> Check:
    """Whether the output's claim has a volume, or a storage class that can provision one."""
    if claim is UNREADABLE:
        return Check("storage class", "not checked", f"this user may not read the claim {claim_name(job)}")
    result = default_class(cluster, claim_name(job)) if claim is None else provisioning(cluster, claim)
    return Check("storage class", *result)


def default_class(cluster: Cluster, name: str) -> tuple[str, str, str]:
    """State, message and remedy for a claim that does not exist yet."""
    if name != CLAIM:
        return "not checked", f"the claim {name} does not exist", ""
    for each in cluster.select("StorageClass"):
        if each["metadata"].get("annotations", {}).get(DEFAULT_CLASS) == "true":
            return "ok", f"{each['metadata']['name']}, the default class, provisions the volume", ""
    message = f"submit would create the claim {name}, but the cluster has no default storage class"
    return "failed", message, "create a claim with a class of your own, and pass it with --claim"


def provisioning(cluster: Cluster, claim: Object) -> tuple[str, str, str]:
    """State, message and remedy for an existing claim."""
    name, phase = claim["metadata"]["name"], claim.get("status", {}).get("phase")
    class_name = claim["spec"].get("storageClassName")
    remedy = catalogue.remedy("claim-unbound", flags=cluster.flags, claim=name)
    if phase == "Bound":
        return "ok", f"the claim {name} has its volume", ""
    if phase == "Lost":
        return "failed", f"the claim {name} has lost its volume", remedy
    if not class_name:
        return "warning", f"the claim {name} has no volume yet, and no storage class", remedy
    storage = cluster.get("StorageClass", class_name)
    if storage is None:
        return "failed", f"the claim {name} names the storage class {class_name}, which does not exist", remedy
    if storage.get("volumeBindingMode") == "WaitForFirstConsumer":
        return "ok", f"{class_name} provisions the volume of the claim {name} once a worker waits for it", ""
    return "warning", f"{class_name} has not provisioned a volume for the claim {name} yet", remedy


def users(cluster: Cluster, claim: str) -> list[Object]:
    """The pods that have a claim's volume mounted on their node; none if this user may not list pods."""
    try:
        return [pod for pod in cluster.each("Pod") if has_mounted(pod, claim)]
    except ApiError as error:
        if error.code != 403:
            raise
        return []


def has_mounted(pod: Object, claim: str) -> bool:
    """Whether a pod has a claim's volume mounted on its node."""
    return is_scheduled(pod) and not has_finished(pod) and claim in [name for _, name in claims(pod)]


def volumes(cluster: Cluster, job: Object) -> list[Object]:
    """The existing PersistentVolumes that a rendered Job's pods mount, if this user may read them."""
    found = [read_claim(cluster, name) for _, name in claims(job["spec"]["template"])]
    try:
        mounted = [
            cluster.get("PersistentVolume", c["spec"]["volumeName"]) for c in found if c and "volumeName" in c["spec"]
        ]
    except ApiError as error:
        if error.code != 403:
            raise
        return []
    return [volume for volume in mounted if volume]


def claim_name(job: Object) -> str:
    """The name of the output's claim in a rendered Job."""
    return claim_of(job["spec"]["template"]) or ""


def needs_one_node(claim: Object | None) -> bool:
    """Whether all pods that use a claim must share a node; assumed of a missing or unreadable one."""
    return claim is None or not {"ReadWriteMany"} & set(claim["spec"]["accessModes"])


def data_needs_one_node(cluster: Cluster, job: Object) -> bool:
    """Whether all pods must share a node to read the dataset's claim, if the run names one."""
    name = data_claim_of(job["spec"]["template"])
    return name is not None and not is_read_by_many(read_claim(cluster, name))


def is_read_by_many(claim: Object | None) -> bool:
    """Whether pods on several nodes can read a claim; not assumed of a missing or unreadable one."""
    return claim is not None and not {"ReadWriteMany", "ReadOnlyMany"}.isdisjoint(claim["spec"]["accessModes"])
