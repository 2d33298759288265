"""Tests of where `status` says that the time of a run went."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from job.telemetry import Record
from k8s.state.run import Run
from k8s.view.tables import time_line
from k8s.view.time_spent import time_spent
from tests.k8s.objects import TIME, condition, job, pod

if TYPE_CHECKING:
    from k8s.api.objects import Object


def at(second: int) -> datetime:
    """A time within the minute of the tests' objects."""
    return datetime.fromisoformat(TIME.format(second))


def worker(rank: int, scheduled: int | None, **state: Any) -> Object:
    """A worker's pod that was created at 0 and got its node at that second."""
    times = {"lastTransitionTime": TIME.format(scheduled)} if scheduled is not None else {}
    conditions = [condition("PodScheduled") | times] if times else []
    return pod(rank, conditions=conditions, containerStatuses=[{"name": "trainer", "state": state}])


def record(second: float, phase: str, step: int | None = None) -> Record:
    """A record of rank 0 at that second."""
    return Record(at(0).timestamp() + second, "demo", 0, phase, step=step)


def test_each_part_of_a_finished_run() -> None:
    """Queued until Kueue and the scheduler have let it go, pulling until its container starts, then by its records."""
    ended = {"terminated": {"startedAt": TIME.format(20), "finishedAt": TIME.format(50), "exitCode": 0}}
    pods = (worker(0, 8, **ended), worker(1, 10, running={"startedAt": TIME.format(20)}))
    for each in pods:
        each["metadata"]["creationTimestamp"] = TIME.format(3)
    records = [
        record(21, "waiting"),
        record(24, "starting"),
        record(26, "compiling", 0),
        record(30, "training", 10),
        record(40, "restarting", 10),
        record(44, "training", 20),
        record(46, "evaluating", 20),
        record(48, "publishing", 20),
        record(50, "published", 20),
    ]
    found = time_spent(Run(job(2, startTime=TIME.format(3)), pods), records, at(58), whole=True)
    assert found == {
        "spent_s": {
            "queued": 8.0,
            "pulling": 12.0,
            "importing": 3.0,
            "gathering": 3.0,
            "compiling": 4.0,
            "training": 12.0,
            "recovering": 4.0,
            "evaluating": 2.0,
            "publishing": 2.0,
        },
        "goodput": 0.24,
        "core_seconds": 0.5 * (42 + 48),  # worker 1 still holds its CPUs
    }
    line = time_line(found)
    assert line.startswith("queued 8s, pulling 12s, importing 3s, gathering 3s, compiling 4s, training 12s, ")
    assert line.endswith("; goodput 24%; 45 core-seconds")


def test_time_before_the_lines_that_were_read() -> None:
    """It is named as such; the worker is still training."""
    pods = (worker(0, 1, running={"startedAt": TIME.format(2)}),)
    records = [record(20, "training", 1000), record(30, "training", 2000)]
    found = time_spent(Run(job(1), pods), records, at(40), whole=False)
    assert found
    assert found["spent_s"] == {"queued": 1.0, "pulling": 1.0, "earlier": 18.0, "training": 20.0}


@pytest.mark.parametrize(
    ("state", "parts"),
    [
        ({}, {"pulling": 28.0, "importing": 0.0}),
        ({"terminated": {"exitCode": 137, "finishedAt": None}}, {"pulling": 28.0, "importing": 0.0}),
        ({"running": {"startedAt": TIME.format(12)}}, {"pulling": 10.0, "importing": 18.0}),
    ],
)
def test_a_failed_pod_whose_container_has_no_end(state: Object, parts: dict[str, float]) -> None:
    """An evicted pod, or one that was lost with its node, holds nothing after its conditions have changed last."""
    failed = worker(0, 2, **state)
    failed["status"]["phase"] = "Failed"
    failed["status"]["conditions"] += [condition("DisruptionTarget")]
    found = time_spent(Run(job(1), (failed,)), [], at(50), whole=True)
    assert found == {"spent_s": {"queued": 2.0, **parts}, "goodput": 0.0, "core_seconds": 0.5 * 28}


def test_a_pod_that_was_rejected_without_a_node() -> None:
    """It is no longer queued."""
    rejected = worker(0, None)
    rejected["status"]["phase"] = "Failed"
    found = time_spent(Run(job(1), (rejected,)), [], at(50), whole=True)
    assert found == {"spent_s": {"queued": 0.0}, "goodput": 0.0, "core_seconds": 0.0}


def test_before_the_container_starts() -> None:
    """A pod without a node is queued, one with a node is pulling, and without a pod nothing is known."""
    waits = time_spent(Run(job(1), (worker(0, None),)), [], at(9), whole=True)
    assert waits == {"spent_s": {"queued": 9.0}, "goodput": 0.0, "core_seconds": 0.0}
    pulls = time_spent(Run(job(1), (worker(0, 4),)), [], at(9), whole=True)
    assert pulls == {"spent_s": {"queued": 4.0, "pulling": 5.0, "importing": 0.0}, "goodput": 0.0, "core_seconds": 2.5}
    assert time_spent(Run(job(1)), [], at(9), whole=True) is None
