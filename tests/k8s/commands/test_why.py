"""why: what it reads from the cluster, and what it prints."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from job import telemetry
from k8s.commands import why
from k8s.diagnose.evidence import gather_evidence
from tests.k8s.changing_cluster import ChangingCluster
from tests.k8s.objects import ended, event, job, record, running, termination

if TYPE_CHECKING:
    import pytest

    from job.telemetry import Record

MESSAGE = "Container trainer for pod team/demo-0-aaaa0 failed with exit code 76 matching FailJob rule at index 1"
END = termination(76, "loss-not-finite", "the loss was nan at step 7", "a smaller --learning-rate")


def cluster(log: list[Record]) -> ChangingCluster:
    """A run that failed, an unrelated event, and the log of its worker."""
    unrelated = event("Pod", "other-0-aaaa0", "FailedScheduling", "no")
    return ChangingCluster(
        [job(1, "Failed", "PodFailurePolicy", MESSAGE), ended(0, 76, message=END), unrelated], demo_0_aaaa0=log
    )


def run(asked: ChangingCluster, output: str) -> None:
    """Run the command."""
    assert why.run(argparse.Namespace(name="demo", output=output, image=None, claim=None), asked.given) == 0


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """State, cause, meaning, remedy and the last lines of the log."""
    last = record("failed", code=76, reason="loss-not-finite")
    run(cluster([last]), "text")
    assert capsys.readouterr().out.splitlines() == [
        "demo: failed: loss-not-finite",
        "worker 0 exited with 76 (loss-not-finite): the loss was nan at step 7 (2026-01-01T00:00:05Z)",
        "exit code 76: the loss was not finite",
        "remedy: a smaller --learning-rate",
        "last lines of demo-0-aaaa0:",
        f"  {telemetry.to_logfmt(last)}",
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same in fields."""
    run(cluster([]), "json")
    assert json.loads(capsys.readouterr().out) == {
        "name": "demo",
        "state": "failed",
        "detail": "loss-not-finite",
        "reason": "loss-not-finite",
        "sentence": "worker 0 exited with 76 (loss-not-finite): the loss was nan at step 7",
        "remedy": "a smaller --learning-rate",
        "rank": 0,
        "code": 76,
        "meaning": "the loss was not finite",
        "when": "2026-01-01T00:00:05Z",
        "pod": "demo-0-aaaa0",
        "lines": [],
    }


def test_events_are_those_of_the_run() -> None:
    """Of the Job itself and not of an earlier one, of its pods, deleted ones too, and of its claim."""
    before = event("Job", "demo", "FailedCreate", "quota", 1)
    before["involvedObject"]["uid"] = "another"
    made = event("Job", "demo", "SuccessfulCreate", "Created pod: demo-1-gone", 2)
    gone = event("Pod", "demo-1-gone", "FailedScheduling", "no", 3)
    claim = event("PersistentVolumeClaim", "output", "ProvisioningFailed", "no class", 4)
    other = event("Pod", "else", "Started", "Container started", 5)
    asked = ChangingCluster([job(2), running(0), other, claim, gone, before, made], demo_0_aaaa0=[])
    assert gather_evidence(asked.given(), "demo").events == (made, gone, claim)


def test_a_user_who_may_not_list_nodes() -> None:
    """Everything else is still collected."""
    asked = ChangingCluster([job(1), running(0)], demo_0_aaaa0=[record("compiling")])
    run = gather_evidence(asked.given(), "demo")
    assert (run.down, run.claim, run.events, run.flags) == (None, None, (), "-n here")
    assert run.record == record("compiling")
