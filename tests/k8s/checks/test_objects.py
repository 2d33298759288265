"""The checks of the name, the service account, the pods and the queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from k8s.api.errors import ApiError
from k8s.checks import objects
from k8s.checks.check import Check
from k8s.diagnose import catalogue
from k8s.state.names import APP, INDEX_LABEL, JOB_NAME_LABEL, UID_LABEL
from tests.k8s.checks.cluster import CheckedCluster, named

if TYPE_CHECKING:
    from k8s.api.objects import Object


def test_name_taken(job: Object) -> None:
    """A Job of the same name fails the check."""
    cluster = CheckedCluster(named("Job", "digits")).given()
    message, remedy = (
        "a Job named digits exists already",
        "give another --name, or run `mnist-job retry digits -n here`",
    )
    assert objects.name(cluster, job) == Check("name", "failed", message, remedy)


def test_name_of_a_schedule(job: Object) -> None:
    """A schedule of the same name fails the check."""
    message, remedy = (
        "a schedule named digits exists already",
        "give another --name, or run `mnist-job trigger digits -n here`",
    )
    assert objects.name(CheckedCluster(named("CronJob", "digits")).given(), job) == Check(
        "name", "failed", message, remedy
    )


def test_the_pod_is_as_the_controller_makes_it(job: Object) -> None:
    """It has the template's spec and the controller's labels; a service account that does not exist yet is left out."""
    template = job["spec"]["template"]
    expected: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
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
    assert objects.pod_of(CheckedCluster(named("ServiceAccount", APP)).given(), job) == expected
    del (expected := json.loads(json.dumps(expected)))["spec"]["serviceAccountName"]
    assert objects.pod_of(CheckedCluster().given(), job) == expected
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
    assert objects.pod(cluster, job) == Check("pod", "failed", message, catalogue.remedy(reason))


def test_queue(job: Object) -> None:
    """The queue that the run names must exist, because nothing else starts the run."""
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "night"
    there = Check("queue", "ok", "local queue night exists")
    assert objects.queue(CheckedCluster(named("LocalQueue", "night")).given(), job) == there
    message = "local queue night does not exist in namespace here, or Kueue is not installed"
    missing = Check("queue", "failed", message, "create the LocalQueue, or leave out --queue")
    assert objects.queue(CheckedCluster().given(), job) == missing


def test_a_service_account_of_the_users_own(job: Object) -> None:
    """A service account that submit does not create must exist; where it may not be read, it is assumed to."""
    job["spec"]["template"]["spec"]["serviceAccountName"] = "mine"
    assert objects.service_account(CheckedCluster(named("ServiceAccount", "mine")).given(), job).state == "ok"
    assert objects.service_account(CheckedCluster(forbidden=["ServiceAccount"]).given(), job).state == "ok"
    assert objects.service_account(CheckedCluster().given(), job) == Check(
        "service account",
        "failed",
        "service account mine does not exist in namespace here",
        "create it with `kubectl create serviceaccount mine -n here`, or name another --service-account",
    )
