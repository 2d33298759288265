"""Which events `status` shows: recorded on kind, from the submission to the end of runs without a fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k8s.state.relevant_events import relevant_events, relevant_schedule_events
from k8s.state.run import Run
from k8s.state.schedule import Schedule
from tests.k8s.objects import cut_off, ended, event, job, pod, running, unscheduled, waiting

if TYPE_CHECKING:
    from k8s.api.objects import Object

CONFLICT = 'running PreBind plugin "VolumeBinding": Operation cannot be fulfilled on persistentvolumeclaims "output"'
FAILED_PROBE = "Liveness probe failed: Get http://10.244.0.5:9100/healthz: connection refused"
STARTUP = "Startup probe failed: Get http://10.244.0.5:9100/healthz: connection refused"
BOUND, PENDING = {"status": {"phase": "Bound"}}, {"status": {"phase": "Pending"}}
LATE_JOB = job(1)
LATE_JOB["metadata"]["creationTimestamp"] = "2026-01-01T00:00:30Z"
OF_THE_CLAIM = event("PersistentVolumeClaim", "output", "WaitForFirstConsumer", "waiting for first consumer")


def warning(kind: str, name: str, reason: str, message: str = "m") -> Object:
    """A Warning."""
    return event(kind, name, reason, message, type_="Warning")


def deleted(found: Object) -> Object:
    """The pod while it is being deleted."""
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:40Z"
    return found


@pytest.mark.parametrize(
    ("run", "passed"),
    [
        (Run(LATE_JOB, ()), OF_THE_CLAIM),
        (Run(LATE_JOB, (), claim=BOUND), warning("PersistentVolumeClaim", "output", "ProvisioningFailed")),
        (Run(job(1), (running(0),)), warning("Pod", "demo-0-aaaa0", "FailedScheduling", CONFLICT)),
        (Run(job(1), (running(0),)), warning("Pod", "demo-0-aaaa0", "Unhealthy", FAILED_PROBE)),
        (Run(job(2), (running(0),)), warning("Pod", "demo-1-aaaa0", "Unhealthy", FAILED_PROBE)),
        (Run(job(1), (running(0, conditions=[]),)), warning("Pod", "demo-0-aaaa0", "Unhealthy", STARTUP)),
        (Run(job(1), (deleted(running(0)),)), warning("Pod", "demo-0-aaaa0", "Unhealthy", FAILED_PROBE)),
        (Run(job(1), (ended(0, 70),)), warning("Pod", "demo-0-aaaa0", "Unhealthy", FAILED_PROBE)),
        (Run(job(1, "Complete"), (ended(0, 0),)), warning("Pod", "demo-0-aaaa0", "Unhealthy", FAILED_PROBE)),
        (Run(job(1, "SuccessCriteriaMet"), (ended(0, 0),)), warning("Pod", "demo-1-aaaa0", "FailedMount")),
        (Run(job(1), (running(0),)), warning("Job", "demo", "FailedCreate", "exceeded quota")),
    ],
)
def test_what_has_passed_is_left_out(run: Run, passed: Object) -> None:
    """Events of the claim from before the run, and warnings about a pod that is ready, that ends or that is gone."""
    now = event("Pod", "demo-0-aaaa0", "Started", "Container started", 50)
    assert relevant_events(Run(run.job, run.pods, (passed, now), claim=run.claim)) == [now]


@pytest.mark.parametrize(
    ("run", "lasting"),
    [
        (Run(job(1), ()), OF_THE_CLAIM),
        (Run(LATE_JOB, (), claim=PENDING), warning("PersistentVolumeClaim", "output", "ProvisioningFailed")),
        (Run(job(1), (), claim=BOUND), warning("PersistentVolumeClaim", "output", "FileSystemResizeFailed")),
        (Run(job(1), (unscheduled(0, "no room"),)), warning("Pod", "demo-0-aaaa0", "FailedScheduling")),
        (Run(job(1), (waiting(0, "ImagePullBackOff"),)), warning("Pod", "demo-0-aaaa0", "Failed")),
        (Run(job(1), (running(0, conditions=[]),)), warning("Pod", "demo-0-aaaa0", "Unhealthy", FAILED_PROBE)),
        (Run(job(1), (cut_off(0),)), warning("Pod", "demo-0-aaaa0", "NodeNotReady")),
        (Run(job(1), (pod(0, phase="Failed", reason="Evicted"),)), warning("Pod", "demo-0-aaaa0", "Evicted")),
        (Run(job(1), (running(0, 1),)), warning("Pod", "demo-0-aaaa0", "Evicted")),
        (Run(job(2), (running(0),)), warning("Job", "demo", "FailedCreate", "exceeded quota")),
        (Run(job(2), (running(0), ended(1, 75))), warning("Job", "demo", "FailedCreate", "exceeded quota")),
        (Run(job(1), (running(0),)), event("Pod", "demo-0-aaaa0", "Killing", "Stopping container trainer")),
        (Run(job(1, "Failed"), (ended(0, 70),)), warning("Job", "demo", "BackoffLimitExceeded")),
    ],
)
def test_what_may_explain_the_state_is_shown(run: Run, lasting: Object) -> None:
    """Events of the run, and warnings about what has not passed, or about why a pod was replaced."""
    assert relevant_events(Run(run.job, run.pods, (lasting,), claim=run.claim)) == [lasting]


def test_a_schedule_does_not_warn_of_a_run_that_was_cancelled() -> None:
    """`cancel` replaces its Job by one that the CronJob's controller does not wait for."""
    missing = warning("CronJob", "nightly", "MissingJob", "Active job went missing: nightly-29")
    late = warning("CronJob", "nightly", "MissSchedule", "Missed scheduled time to start a job")
    assert relevant_schedule_events(Schedule(job(1), (), (missing, late))) == [late]
