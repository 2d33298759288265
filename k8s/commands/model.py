"""The owners of a model's ConfigMap: all Jobs and CronJobs that mount it. Kubernetes deletes it with the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.api.errors import ApiError, LauncherError
from k8s.state.names import RUN_SELECTOR, model_of
from k8s.view.output import note

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

TRIES = 5  # to change a ConfigMap that somebody else changes at the same time


def settle_owners(cluster: Cluster, template: Object, model: Object | None = None) -> bool:
    """Make all Jobs and CronJobs that mount a template's model owners of its ConfigMap; if there are none, delete it.

    Args:
        cluster: where they are.
        template: of a Job, or of the Jobs of a CronJob; nothing is done if it mounts no model.
        model: the ConfigMap, which is created again if Kubernetes has meanwhile deleted it with its last owner.

    Returns:
        Whether it succeeded. A failure is only reported: the Jobs that mount the ConfigMap have started and continue.
    """
    name = model_of(template)
    if name is None:
        return True
    for left in reversed(range(TRIES)):
        try:
            _settle(cluster, name, model)
        except LauncherError as error:
            if isinstance(error, ApiError) and error.code in (404, 409) and left:
                continue
            note(f"the owners of the ConfigMap {name} were not changed: {error}")
            return False
        return True
    return False


def _settle(cluster: Cluster, name: str, model: Object | None) -> None:
    # Read before its owners, so that the change is refused if another command has changed them since.
    current = cluster.get("ConfigMap", name)
    owners = [
        {"apiVersion": "batch/v1", "kind": kind, "name": one["metadata"]["name"], "uid": one["metadata"]["uid"]}
        for kind, template in (("Job", _of_job), ("CronJob", _of_cronjob))
        for one in cluster.select(kind, RUN_SELECTOR)
        if model_of(template(one)) == name
    ]
    if current is None:
        if owners and model:
            cluster.create({**model, "metadata": {**model["metadata"], "ownerReferences": owners}})
    elif not owners:
        cluster.delete("ConfigMap", name, uid=current["metadata"]["uid"])
    elif current["metadata"].get("ownerReferences") != owners:
        cluster.replace({**current, "metadata": {**current["metadata"], "ownerReferences": owners}})


def _of_job(job: Object) -> Object:
    template: Object = job["spec"]["template"]
    return template


def _of_cronjob(cronjob: Object) -> Object:
    return _of_job(cronjob["spec"]["jobTemplate"])
