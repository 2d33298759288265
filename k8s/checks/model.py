"""Whether the model that a Job mounts is there, or can be created."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.api import permissions
from k8s.api.errors import ApiError
from k8s.checks.check import Check
from k8s.checks.trial import check_creation
from k8s.state.names import MODEL_FILE, model_of

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


def check_model(cluster: Cluster, job: Object, model: Object | None) -> Check:
    """Whether a Job's pods find the model that they mount.

    Args:
        cluster: where the Job would run.
        job: the rendered Job.
        model: the ConfigMap that is created if it does not exist; None for a run that was submitted before.
    """
    name = model_of(job["spec"]["template"])
    if name is None:
        return Check("model", "ok", "the image's own model.py")
    existing = cluster.get("ConfigMap", name)
    if existing is None and model is None:
        message = f"the ConfigMap {name}, which holds the run's model, does not exist in namespace {cluster.namespace}"
        command = f"kubectl create configmap {name} {cluster.flags} --from-file={MODEL_FILE}=FILE"
        return Check("model", "failed", message, f"create it from the original file: `{command}`")
    if existing and model and existing.get("data") != model["data"]:
        message = f"the ConfigMap {name} exists and holds another model than --model"
        return Check("model", "failed", message, f"delete it: `kubectl delete configmap {name} {cluster.flags}`")
    # After the run has started, it becomes an owner of the model: see commands/model.py.
    needed = [("create", "ConfigMap", "")] if existing is None else []
    needed += [(verb, "ConfigMap", "") for verb in ("get", "update", "delete")]
    needed += [("list", "CronJob", "")]
    if denied := permissions.denied(cluster, needed):
        return Check("model", "failed", permissions.sentence(cluster, denied), permissions.bind("runner"))
    return check_creation(
        cluster,
        "model",
        absent(cluster, model),
        f"the ConfigMap {name}" if existing else f"submit creates the ConfigMap {name}",
    )


def absent(cluster: Cluster, model: Object | None) -> list[Object]:
    """The model's ConfigMap if it is to be created; one that this user may not read is assumed not to exist."""
    try:
        return [model] if model and cluster.get("ConfigMap", model["metadata"]["name"]) is None else []
    except ApiError as error:
        if error.code != 403 or model is None:
            raise
        return [model]
