"""The checks of the version, the namespace, the permissions, the name, and the pods."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import pytest

from k8s.api.errors import ApiError, refusal
from k8s.checks import admission, trial
from k8s.checks.check import Check
from k8s.diagnose import catalogue
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.state.names import APP, INDEX_LABEL, JOB_NAME_LABEL, NAME_LABEL, UID_LABEL
from k8s.volume import start as volume_start
from tests.k8s.checks.cluster import CheckedCluster, named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.api.permissions import Needed

# The API server's words while Kueue's controller does not run.
ADDRESS = "kueue-webhook-service.kueue-system.svc"
AWAY = (
    'Internal error occurred: failed calling webhook "vpod.kb.io": failed to call webhook: '
    f'Post "https://{ADDRESS}:443/validate--v1-pod?timeout=10s": no endpoints available'
)


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
    assert admission.check_version(CheckedCluster(runs=runs).given()) == check


def test_namespace_missing(job: Object) -> None:
    """A missing namespace fails its own check; the pod's dry run in it is not checked."""
    missing = ApiError(404, "NotFound", 'namespaces "here" not found', "post")
    cluster = CheckedCluster(refuses={"Pod": missing}).given()
    assert admission.check_namespace(cluster) == Check(
        "namespace",
        "failed",
        "namespace here does not exist",
        "create it with `kubectl create namespace here`, or choose another one with --namespace",
    )
    assert admission.check_pod(cluster, job) == Check("pod", "not checked", 'namespaces "here" not found')


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
    assert admission.check_permissions(CheckedCluster(may_not=may_not).given()) == Check(
        "permissions", state, message, remedy
    )


@pytest.mark.parametrize(
    ("role", "needed"),
    [
        ("runner", [*admission.NEEDED, *volume_start.NEEDED, ("patch", "Job", ""), ("delete", "Job", "")]),
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


@pytest.mark.parametrize(
    ("labels", "more"), [({NAME_LABEL: APP}, ", or run `mnist-job retry digits -n here`"), ({}, "")]
)
def test_name_taken(job: Object, labels: dict[str, str], more: str) -> None:
    """A Job of the same name fails the check; only a run can be started again."""
    taken = {**copy.deepcopy(job), "metadata": {"name": "digits", "labels": labels, "creationTimestamp": ""}}
    expected = Check("name", "failed", "a Job named digits already exists", f"choose another --name{more}")
    assert admission.check_name(CheckedCluster(taken).given(), job) == expected


@pytest.mark.parametrize(
    ("labels", "more"), [({NAME_LABEL: APP}, ", or run `mnist-job trigger digits -n here`"), ({}, "")]
)
def test_name_of_a_schedule(job: Object, labels: dict[str, str], more: str) -> None:
    """A CronJob of the same name fails the check; only a schedule can be triggered."""
    metadata = {"name": "digits", "labels": labels}
    cronjob = {"kind": "CronJob", "metadata": metadata, "spec": {"jobTemplate": {"spec": job["spec"]}}}
    expected = Check("name", "failed", "a CronJob named digits already exists", f"choose another --name{more}")
    assert admission.check_name(CheckedCluster(cronjob).given(), job) == expected


def test_the_pod_is_as_the_controller_makes_it(job: Object) -> None:
    """It has the template's spec and the controller's labels; a service account that does not exist yet is left out."""
    template = job["spec"]["template"]
    expected: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template["metadata"],
            "generateName": "digits-0-",
            "labels": {
                **template["metadata"]["labels"],
                JOB_NAME_LABEL: "digits",
                UID_LABEL: "00000000-0000-0000-0000-000000000000",
                INDEX_LABEL: "0",
            },
        },
        "spec": template["spec"],
    }
    before = json.dumps(job)
    assert admission.worker_pod(CheckedCluster(named("ServiceAccount", APP)).given(), job) == expected
    del (expected := json.loads(json.dumps(expected)))["spec"]["serviceAccountName"]
    assert admission.worker_pod(CheckedCluster().given(), job) == expected
    assert json.dumps(job) == before


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ('violates PodSecurity "restricted:latest": runAsNonRoot != true', "pod-security"),
        ("exceeded quota: small, requested: cpu=2", "quota"),
        ("maximum cpu usage per Container is 1, but limit is 2", "limits"),
        ("not by us", "refused"),
    ],
)
def test_pod_refused(job: Object, told: str, reason: str) -> None:
    """A refusal of the workers' pods is reported before there are any."""
    refused = ApiError(403, "Forbidden", f'pods "digits-0-x" is forbidden: {told}', "post")
    cluster = CheckedCluster(refuses={"Pod": refused}).given()
    message = f"the API server would refuse a worker's pod: {told}"
    assert admission.check_pod(cluster, job) == Check("pod", "failed", message, catalogue.remedy(reason))


@pytest.mark.parametrize(
    ("kind", "check", "field", "what"),
    [
        ("Job", admission.check_job, "successPolicy", "the Job digits"),
        ("Pod", admission.check_pod, "topologySpreadConstraints", "a worker's pod"),
    ],
)
def test_fields_without_their_feature_gate(
    job: Object, kind: str, check: Callable[[Cluster, Object], Check], field: str, what: str
) -> None:
    """A field that the API server accepts and drops is a warning that names the version and the field."""
    cluster = CheckedCluster(runs=(1, 31), drops={kind: [field]}).given()
    assert check(cluster, job) == Check(
        kind.lower(),
        "warning",
        f"the API server would drop a part of {what}: this cluster of Kubernetes 1.31 lacks spec.{field}",
        "upgrade the cluster, or turn on the feature gates of these fields",
    )


def test_what_counts_as_dropped() -> None:
    """An empty value and a changed one do not, nor a list to which a webhook adds; a field of a list's item does."""
    sent = {"a": {"zero": 0, "none": "", "kept": 1}, "items": [{"name": "x", "keys": ["k"]}], "pods": [{"name": "y"}]}
    made = {"a": {"kept": 2, "new": 3}, "items": [{"name": "x"}], "pods": [{"image": "i"}, {"name": "y"}], "uid": "u"}
    assert list(trial.dropped(sent, made)) == ["items[0].keys"]


@pytest.mark.parametrize(
    ("sent", "made"),
    [
        ({"nodeSelector": {"pool": "a"}}, {"nodeSelector": {"pool-of-webhook": "a"}}),
        (
            {"env": [{"name": "A", "value": "1"}]},
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]},
        ),
        ({"pods": [{"name": "x", "keys": ["k"]}]}, {"pods": [{"name": "y"}]}),
    ],
    ids=["a label", "a value", "an item"],
)
def test_what_a_webhook_replaced_is_not_dropped(sent: Object, made: Object) -> None:
    """The API server replaces nothing, so the cluster's version is not to blame."""
    assert list(trial.dropped({"spec": sent}, {"spec": made})) == []


def test_a_webhook_is_away(job: Object) -> None:
    """The webhook and its address are named: `change what the message names` would not help."""
    said = f"admission webhook vpod.kb.io at {ADDRESS} does not answer: no endpoints available"
    refused = refusal(500, json.dumps({"message": AWAY, "reason": "InternalError"}).encode(), "post")
    cluster = CheckedCluster(refuses={"Pod": refused, "Job": refused}).given()
    remedy = catalogue.remedy("webhook")
    pod = Check("pod", "failed", f"the API server would refuse a worker's pod: the {said}", remedy)
    assert admission.check_pod(cluster, job) == pod
    message = f"the API server would refuse the Job digits: the {said}"
    assert admission.check_job(cluster, job) == Check("job", "failed", message, remedy)


def test_a_service_account_of_the_users_own(job: Object) -> None:
    """A service account that submit does not create must exist; where it may not be read, it is assumed to."""
    job["spec"]["template"]["spec"]["serviceAccountName"] = "mine"
    assert admission.check_service_account(CheckedCluster(named("ServiceAccount", "mine")).given(), job).state == "ok"
    assert admission.check_service_account(CheckedCluster(forbidden=["ServiceAccount"]).given(), job).state == "ok"
    assert admission.check_service_account(CheckedCluster().given(), job) == Check(
        "service account",
        "failed",
        "service account mine does not exist in namespace here",
        "create it with `kubectl create serviceaccount mine -n here`, or choose another --service-account",
    )
