"""All checks before a submission, made at the same time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.api.threads import ask_all
from k8s.checks import admission, capacity, image, model, queue, setup, storage
from k8s.checks.check import Check
from k8s.checks.matching import HOSTNAME, shared_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


# Checks that fail if the API server would refuse a submission. The others only predict how the run would go.
NEVER_SKIPPED = {"namespace", "permissions", "name", "model", "setup", "job", "pod"}


def check_all(cluster: Cluster, job: Object, claim: Object | None, model_map: Object | None = None) -> list[Check]:
    """The result of every check, in the order in which a user would fix them.

    Args:
        cluster: where the Job would run.
        job: the rendered Job.
        claim: the output's claim; None if there is none yet.
        model_map: the ConfigMap of the model that is given with the Job; None without one.
    """
    together = sorted(shared_labels(job["spec"]["template"]) | ({HOSTNAME} if storage.needs_one_node(claim) else set()))
    checks: dict[str, Callable[[], Check]] = {
        "server version": lambda: admission.check_version(cluster),
        "namespace": lambda: admission.check_namespace(cluster),
        "permissions": lambda: admission.check_permissions(cluster),
        "name": lambda: admission.check_name(cluster, job),
        "volume": lambda: storage.check_volume(cluster, job, claim),
        "storage class": lambda: storage.check_storage_class(cluster, job, claim),
        "data": lambda: storage.check_data(cluster, job),
        "model": lambda: model.check_model(cluster, job, model_map),
        "service account": lambda: admission.check_service_account(cluster, job),
        "setup": lambda: setup.check_setup(cluster, job),
        "service": lambda: setup.check_service(cluster, job),
        "job": lambda: admission.check_job(cluster, job),
        "pod": lambda: admission.check_pod(cluster, job),
        "memory": lambda: capacity.check_memory(job),
        "quota": lambda: capacity.check_quota(cluster, job),
        "nodes": lambda: capacity.check_nodes(cluster, job, together, storage.volumes(cluster, job)),
        "gpus": lambda: capacity.check_gpus(cluster, job),
        "queue": lambda: queue.check_queue(cluster, job),
        "image": lambda: image.check_image(cluster, job),
    }
    return ask_all(lambda item: result_of(*item), checks.items(), len(checks))


def passed_over(check: Check) -> Check:
    """A check under `--skip-checks`: a failure becomes a warning, unless the API server would refuse the run."""
    skipped = check.failed and check.name not in NEVER_SKIPPED
    return dataclasses.replace(check, state="warning") if skipped else check


def result_of(name: str, check: Callable[[], Check]) -> Check:
    """The result of a check; a question that this user may not ask is `not checked`, never `failed`."""
    try:
        return check()
    except ApiError as error:
        if error.code != 403:
            raise
        return Check(name, "not checked", f"this user may not ask: {error.message}")
