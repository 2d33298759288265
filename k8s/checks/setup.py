"""The objects that all runs of a namespace share: which of them a Job needs, and which are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.api import permissions
from k8s.api.errors import ApiError
from k8s.checks import storage
from k8s.checks.check import Check
from k8s.checks.trial import check_creation, setup_by_another, tried
from k8s.render import render
from k8s.state.find import get_if_allowed
from k8s.state.names import APP

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

VOLUME_POLICY = "mnist-job-volume"  # a run works without it, and namespaces that were set up earlier do not have it


def check_setup(cluster: Cluster, job: Object) -> Check:
    """Whether this user may create the missing parts of the setup, and the API server would accept them."""
    absent = missing(cluster, job)
    if denied := permissions.denied(
        cluster, [("create", kind, "") for kind in dict.fromkeys(new["kind"] for new in absent)]
    ):
        return Check("setup", "failed", permissions.sentence(cluster, denied), setup_by_another(cluster))
    names = [f"the {new['kind']} {new['metadata']['name']}" for new in absent]
    well = "everything that the runs of a namespace share exists"
    if names:
        well = f"submit creates {' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}"
    check = check_creation(cluster, "setup", absent, well)
    left_out = [new for new in needed(job) if is_optional(new) and new not in absent and is_absent(cluster, new)]
    if check.state != "ok" or not left_out:
        return check
    message = f"the NetworkPolicy {left_out[0]['metadata']['name']} does not exist, and this user may not create it"
    return Check("setup", "warning", message, setup_by_another(cluster))


def check_service(cluster: Cluster, job: Object) -> Check:
    """Whether an existing Service gives the workers the names by which they find each other."""
    template, name = job["spec"]["template"], service_name(job)
    service = cluster.get("Service", name)
    if service is None and name == APP:
        return Check("service", "ok", f"submit creates the Service {name}")
    if service is None:
        message = f"the Service {name} does not exist in namespace {cluster.namespace}"
        return Check("service", "failed", message, "create it, or use an overlay that names the Service mnist-job")
    spec, labels = service["spec"], template["metadata"]["labels"]
    state, problem, effect = "failed", "", "would not find each other"
    if spec.get("clusterIP") != "None":
        problem = "has an address of its own (clusterIP is not None)"
    elif not spec.get("selector", {}).items() <= labels.items():
        problem = "does not select the run's pods"
    elif not spec.get("publishNotReadyAddresses"):
        state, problem = "warning", "does not publish addresses of pods that are not ready"
        effect = "find each other only once they are ready"
    if not problem:
        return Check("service", "ok", name)
    message = f"the Service {name} {problem}, so the workers {effect}"
    remedy = f"delete it, and submit creates it again: `kubectl delete service {name} {cluster.flags}`"
    other = f"correct it, or use an overlay that names the Service {APP}"
    return Check("service", state, message, remedy if name == APP else other)


def needed(job: Object) -> list[Object]:
    """The parts of the setup that a Job needs: all except those that it replaces with others of another name."""
    used = {"PersistentVolumeClaim": storage.claim_name(job), "ServiceAccount": account_name(job)}
    used |= {"Service": service_name(job)}
    objects = [new for new in render.setup_objects() if used.get(new["kind"]) in (None, new["metadata"]["name"])]
    return [renamed(new, service_name(job)) if new["kind"] == "NetworkPolicy" else new for new in objects]


def renamed(new: Object, service: str) -> Object:
    """An object with the prefix and the suffix that an overlay gave to the name of the Service."""
    prefix, app, suffix = service.partition(APP)
    name = f"{prefix}{new['metadata']['name']}{suffix}" if app else new["metadata"]["name"]
    return {**new, "metadata": {**new["metadata"], "name": name}}


def missing(cluster: Cluster, job: Object) -> list[Object]:
    """The missing parts of the setup that a Job needs; the volume pods' policy only if this user may create it."""

    def may_create(new: Object) -> bool:
        return not permissions.denied(cluster, [("create", new["kind"], "")])

    absent = [new for new in needed(job) if is_absent(cluster, new)]
    return [new for new in absent if not is_optional(new) or may_create(new)]


def is_optional(new: Object) -> bool:
    """Whether a run starts without an object of the setup."""
    return VOLUME_POLICY in new["metadata"]["name"]


def is_absent(cluster: Cluster, new: Object) -> bool:
    """Whether an object does not exist; a dry run decides if this user may not read it. If in doubt, it exists."""
    try:
        return cluster.get(new["kind"], new["metadata"]["name"]) is None
    except ApiError as error:
        if error.code != 403:
            raise
        return tried(cluster, new)[0] in ("ok", "warning")


def lacks_account(cluster: Cluster, name: str) -> bool:
    """Whether a service account does not exist; one that this user may not read is assumed to exist."""
    return get_if_allowed(cluster, "ServiceAccount", name, otherwise={}) is None


def service_name(job: Object) -> str:
    """The Service that gives a Job's pods their names."""
    return str(job["spec"]["template"]["spec"].get("subdomain", ""))


def account_name(job: Object) -> str:
    """The service account of a Job's pods."""
    return str(job["spec"]["template"]["spec"].get("serviceAccountName", "default"))
