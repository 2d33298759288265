"""The checks of the version, the namespace and the permissions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k8s.api.errors import ApiError
from k8s.checks import access, objects
from k8s.checks.check import Check
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.volume import start as volume_start
from tests.k8s.checks.cluster import CheckedCluster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.objects import Object
    from k8s.api.permissions import Needed


@pytest.mark.parametrize(
    ("runs", "check"),
    [
        ((1, 31), Check("server version", "ok", "1.31")),
        (
            (1, 30),
            Check(
                "server version",
                "failed",
                "the cluster runs Kubernetes 1.30; this job needs 1.31 or newer",
                "upgrade the cluster",
            ),
        ),
    ],
)
def test_server_version(runs: tuple[int, int], check: Check) -> None:
    """Kubernetes 1.31 is the first version with every field of the Job."""
    assert access.version(CheckedCluster(runs=runs).given()) == check


def test_namespace_missing(job: Object) -> None:
    """A missing namespace fails its own check; the pod's dry run in it is not checked."""
    missing = ApiError(404, "NotFound", 'namespaces "here" not found', "post")
    cluster = CheckedCluster(refuses={"Pod": missing}).given()
    assert access.namespace(cluster) == Check(
        "namespace",
        "failed",
        "namespace here does not exist",
        "create it with `kubectl create namespace here`, or name another one with --namespace",
    )
    assert objects.pod(cluster, job) == Check("pod", "not checked", 'namespaces "here" not found')


@pytest.mark.parametrize(
    ("may_not", "state", "lacking"),
    [
        (["get Pod/log", "list Event"], "warning", "get Pod/log, list Event"),
        (["create Job"], "failed", "create Job"),
    ],
)
def test_permissions(may_not: list[str], state: str, lacking: str) -> None:
    """A user who may not create Jobs fails the check; one who may not read logs gets a warning."""
    message = f"this user may not {lacking} in namespace here"
    remedy = "bind the role mnist-job-runner of k8s/manifests/rbac"
    assert access.permitted(CheckedCluster(may_not=may_not).given()) == Check("permissions", state, message, remedy)


@pytest.mark.parametrize(
    ("role", "needed"),
    [
        ("runner", [*access.NEEDED, *volume_start.NEEDED, ("patch", "Job", ""), ("delete", "Job", "")]),
        ("fetcher", volume_start.NEEDED),
    ],
)
def test_a_role_allows_all_that_is_needed(role: str, needed: Sequence[Needed]) -> None:
    """A role allows everything that the commands check permissions for."""
    roles = {found["metadata"]["name"]: found["rules"] for found in kustomize(MANIFESTS / "rbac")}
    rules = roles[f"mnist-job-{role}"]
    given = {(verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    plural = {"Job": "jobs", "Pod": "pods", "Event": "events", "PersistentVolumeClaim": "persistentvolumeclaims"}
    plural["CronJob"] = "cronjobs"
    assert {(verb, plural[kind] + (f"/{sub}" if sub else "")) for verb, kind, sub in needed} <= given
