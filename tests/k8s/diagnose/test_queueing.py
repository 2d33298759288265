"""Why Kueue has not started a run, where recorded/kueue-*.json do not show it."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.api.errors import ApiError
from k8s.diagnose.evidence import gather_evidence
from k8s.diagnose.explain import explain_run
from k8s.diagnose.queueing import NO_REASON, kueue_says
from tests.k8s.fakes import FakeCluster, volume_job

NO_ROOM = "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 1 more needed"


def condition(kind: str, reason: str, message: str, status: str = "True") -> dict[str, str]:
    """A condition of a Workload."""
    return {"type": kind, "status": status, "reason": reason, "message": message}


def workload(*conditions: Any, active: bool = True, **status: Any) -> Any:
    """A Workload of the run `digits`."""
    metadata = {
        "name": "job-digits-1",
        "labels": {"kueue.x-k8s.io/job-uid": "digits-uid"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    spec = {"queueName": "night", "active": active}
    return {"kind": "Workload", "metadata": metadata, "spec": spec, "status": {"conditions": [*conditions], **status}}


PENDING = condition("QuotaReserved", "Pending", NO_ROOM, "False")


@pytest.mark.parametrize(
    ("workloads", "said"),
    [
        (
            [],
            "Kueue has no Workload for it yet; if none appears, check that Kueue runs and manages this namespace",
        ),
        ([{**workload(), "status": {}}], NO_REASON),
        (
            [
                workload(
                    condition("QuotaReserved", "Pending", "Exceeded the PodsReady timeout a/b", "False"),
                    condition("Evicted", "PodsReadyTimeout", "Exceeded the PodsReady timeout a/b"),
                    condition("PodsReady", "WaitForStart", "Not all pods are ready or succeeded", "False"),
                )
            ],
            "Kueue stopped it (PodsReadyTimeout): Exceeded the PodsReady timeout a/b",
        ),
        (
            [
                workload(
                    condition("QuotaReserved", "QuotaReserved", "Quota reserved in ClusterQueue cluster"),
                    admissionChecks=[
                        {"name": "capacity", "state": "Pending", "message": "waiting for a node"},
                        {"name": "budget", "state": "Ready", "message": "paid"},
                        {"name": "other", "state": "Retry"},
                    ],
                )
            ],
            "admission check capacity is Pending: waiting for a node; admission check other is Retry",
        ),
        (
            [workload(condition("Evicted", "Deactivated", "The workload is deactivated"), active=False)],
            (
                "its Workload is deactivated, so Kueue does not admit it; "
                "Kueue stopped it (Deactivated): The workload is deactivated"
            ),
        ),
        (
            [workload(condition("Finished", "FailedToStart", "invalid podset information"), PENDING)],
            "Kueue will not start it: FailedToStart: invalid podset information",
        ),
        (
            [
                workload(
                    condition("QuotaReserved", "QuotaReserved", "Quota reserved in ClusterQueue cluster"),
                    condition("Admitted", "Admitted", "The workload is admitted"),
                )
            ],
            "Kueue has admitted it, and is about to start it",
        ),
        (
            [
                workload(PENDING),
                {**workload(), "metadata": {"name": "old", "creationTimestamp": "2025-01-01T00:00:00Z"}},
            ],
            f"Pending: {NO_ROOM}",
        ),
    ],
)
def test_what_a_workload_says(workloads: list[Any], said: str) -> None:
    """Kueue's reasons and messages are given as they are, the newest Workload's."""
    assert kueue_says(workloads) == said


class Refusing(FakeCluster):
    """A cluster that refuses a request for Workloads."""

    code = 0

    def select(self, kind: str, selector: str = "", fields: str = "", **more: Any) -> Any:
        """The objects, but no Workloads."""
        if kind == "Workload" and self.code:
            raise ApiError(self.code, "", "no", "list Workloads")
        return super().select(kind, selector, fields, **more)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, f"Pending: {NO_ROOM}"),
        (403, "this user may not read Kueue's Workloads, which give the reason"),
        (404, "Kueue is not installed in this cluster, so nothing starts it"),
    ],
)
def test_why(code: int, said: str) -> None:
    """`why` says what Kueue says, or why that is not known."""
    job = volume_job("digits", queue="night", suspend=True)
    cluster = Refusing(job, workload(PENDING))
    cluster.code = code
    explanation = explain_run(gather_evidence(cluster.given(), "digits"))
    assert (explanation.reason, explanation.sentence) == ("queued", f"the run waits in the queue night: {said}")


@pytest.mark.parametrize("job", [volume_job("digits", queue="night"), volume_job("digits", suspend=True)])
def test_a_run_that_does_not_wait_for_kueue(job: Any) -> None:
    """Kueue is not asked about it."""
    cluster = Refusing(job)
    cluster.code = 500
    assert gather_evidence(cluster.given(), "digits").kueue == ""
