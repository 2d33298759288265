"""The state that a run is in."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from job.errors import Exit
from k8s.state.find import gather, gather_every, own_pods
from k8s.state.names import CANCELLED, JOB_NAME_LABEL, QUEUE_LABEL, RUN_LABEL, UID_LABEL
from k8s.state.run import Run, State, state, trains_with_fewer
from tests.k8s import fakes
from tests.k8s.fakes import FakeCluster
from tests.k8s.objects import cut_off, elastic, ended, job, pod, record, running, termination, unscheduled, waiting

if TYPE_CHECKING:
    from k8s.api.objects import Object

BOTH = (running(0), running(1))
NO_ROOM = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate."


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (Run(job()), "starting 0 of 2 pods created"),
        (Run(job(), (unscheduled(0, NO_ROOM), waiting(1))), "waiting for nodes 1 of 2 scheduled"),
        (Run(job(), (waiting(0), waiting(1))), "starting 0 of 2 running"),
        (Run(job(), (running(0), waiting(1, sandbox=True))), "pulling 1 of 2 running"),
        (Run(job(), (running(0), waiting(1, "ErrImagePull"))), "pulling 1 of 2 running, ErrImagePull"),
        (
            Run(job(), (running(0), waiting(1, "CreateContainerConfigError", sandbox=True))),
            "starting 1 of 2 running, CreateContainerConfigError",
        ),
        (Run(job(), BOTH), "starting 2 of 2 running"),
        (Run(job(), (cut_off(0), running(1))), "out of reach node node-1 does not answer"),
        (Run(job(), BOTH, record=record("waiting", joined=1)), "joining 1/2"),
        (Run(job(), (running(0), ended(1, 75)), record=record("waiting", joined=1)), "joining 1/2"),
        (Run(job(), BOTH, record=record("data")), "loading"),
        (Run(job(), BOTH, record=record("compiling", step=0, steps=9)), "compiling"),
        (Run(job(), BOTH, record=record("training", step=45, steps=100)), "training 45%"),
        (Run(job(), BOTH, record=record("restarting", step=45, steps=100)), "starting"),
        (Run(job(), BOTH, record=record("evaluating", step=9, steps=9)), "evaluating"),
        (Run(job(), BOTH, record=record("publishing", step=9, steps=9)), "publishing"),
    ],
)
def test_a_run_on_its_way(run: Run, said: str) -> None:
    """It has not ended, and its state says how far it is."""
    assert str(state(run)) == said
    assert (state(run).ended, state(run).code) == (False, None)


@pytest.mark.parametrize("condition", ["SuccessCriteriaMet", "Complete"])
def test_published(condition: str) -> None:
    """Either condition means it, and the accuracy is that in rank 0's termination message."""
    pods = (ended(0, 75), ended(0, 0, 1, "Completed", termination(0, "promoted", "first", accuracy=0.9261)), running(1))
    assert state(Run(job(2, condition), pods)) == State("published", ended=True, code=0, accuracy=0.9261)
    assert state(Run(job(2, condition))) == State("published", ended=True, code=0)


@pytest.mark.parametrize("before", ["", "published before: "])
def test_kept(before: str) -> None:
    """Where `latest` did not move, the state says why, also where the run was started again since."""
    pods = (ended(0, 0, message=termination(0, "kept", f"{before}the current latest, a, started later", accuracy=0.9)),)
    found = State("published", "kept because the current latest, a, started later", ended=True, code=0, accuracy=0.9)
    assert state(Run(job(2, "Complete"), pods)) == found


@pytest.mark.parametrize(
    "message",
    [
        '{"message": 5, "reason": [], "accuracy": "x"}',
        '{"accuracy": 1' + "0" * 400 + "}",
        "[" * 5000,
        '{"accuracy": NaN}',
    ],
    ids=["types", "size", "depth", "no number"],
)
def test_a_termination_message_that_no_worker_writes(message: str) -> None:
    """A program in a pod may write any. It does not keep the states of other runs from being shown."""
    pods = (ended(0, 0, message=message),)
    assert state(Run(job(2, "Complete"), pods)) == State("published", ended=True, code=0)


@pytest.mark.parametrize("condition", ["FailureTarget", "Failed"])
def test_rejected(condition: str) -> None:
    """Code 69 is shown as rejected, also if only the Job's condition is left."""
    message = "Container trainer for pod team/demo-0-aaaa0 failed with exit code 69 matching FailJob rule at index 1"
    failed = job(2, condition, "PodFailurePolicy", message)
    pods = (ended(0, 69, message=termination(69, "rejected", "too bad", accuracy=0.5)), ended(1, 75))
    assert state(Run(failed, pods)) == State("rejected", "too bad", ended=True, code=69, accuracy=0.5)
    assert str(state(Run(failed, pods))) == "rejected: too bad"
    assert state(Run(failed)) == State("rejected", ended=True, code=69)


def test_failed_at_once() -> None:
    """The reason and the code are those of the worker that failed it, not of one that was stopped before."""
    message = "Container trainer for pod team/demo-1-aaaa0 failed with exit code 64 matching FailJob rule at index 1"
    failed = job(2, "Failed", "PodFailurePolicy", message)
    pods = (
        ended(0, 75, message=termination(75, "stopped", "asked to stop")),
        ended(1, 64, message=termination(64, "run-taken", "no")),
    )
    assert state(Run(failed, pods)) == State("failed", "run-taken", ended=True, code=64)
    assert state(Run(failed)) == State("failed", "usage", ended=True, code=64)


def test_given_up() -> None:
    """The reason is the first cause's, the code that with which the worker was given up."""
    failed = job(2, "Failed", "MaxFailedIndexesExceeded", "too many", failedIndexes="1")
    pods = (
        ended(0, 75, message=termination(75, "peers-missing", "worker 1 had not come")),
        ended(1, 137, 0, "OOMKilled"),
        ended(1, 75, 1, message=termination(75, "restarts-used-up", "gave up")),
    )
    assert state(Run(failed, pods)) == State("failed", "out-of-memory", ended=True, code=75)
    assert state(Run(failed)) == State("failed", "max-failed-indexes-exceeded", ended=True)


def test_too_late() -> None:
    """A run that passed its deadline failed without a worker's code."""
    failed = job(2, "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline")
    assert state(Run(failed)) == State("failed", "deadline-exceeded", ended=True)


def test_suspended() -> None:
    """A suspended Job is queued where it names a queue, and cancelled where `cancel` says so."""
    run = Run(job())
    run.job["spec"]["suspend"] = True
    assert str(state(run)) == "suspended"
    run.job["metadata"]["labels"][QUEUE_LABEL] = "night"
    assert str(state(run)) == "queued"
    run.job["metadata"]["annotations"] = {CANCELLED: "2026"}
    assert str(state(run)) == "cancelled"


def test_the_newest_pod_of_each_rank_counts() -> None:
    """A worker whose pod failed and was replaced runs."""
    run = Run(job(), (running(1, number=1), ended(1, int(Exit.TRY_AGAIN)), running(0)))
    assert [found["metadata"]["name"] for found in run.newest.values()] == ["demo-0-aaaa0", "demo-1-aaaa1"]
    assert str(state(dataclasses.replace(run, record=record("training", step=1, steps=2)))) == "training 50%"


@pytest.mark.parametrize("third", [unscheduled(2, NO_ROOM), waiting(2), ended(2, 137), None])
def test_a_run_that_trains_with_fewer_workers(third: Object | None) -> None:
    """Whatever the others wait for. Until the others have met, and where all workers are needed, the run waits."""
    pods = (*BOTH, *([third] if third else []))
    trains = record("training", step=45, steps=100, joined=2)
    run = Run(elastic(3, 2), pods, record=trains)
    assert str(state(run)) == "training 45% with 2 of 3 workers"
    assert state(dataclasses.replace(run, record=record("publishing", step=9, steps=9, joined=2))).word == "publishing"
    for phase in ("data", "joining", "restoring", "compiling", "published"):
        assert trains_with_fewer(dataclasses.replace(run, record=record(phase, joined=2)))
    published = dataclasses.replace(run, pods=(ended(0, 0), *pods[1:]), record=record("published", joined=2))
    assert state(published).word == "published"
    failed = dataclasses.replace(run, job=elastic(3, 2, failedIndexes="0"))
    assert str(state(failed)) == "stuck worker 0 failed too often"
    lost = dataclasses.replace(run, pods=(ended(0, 137), *pods[1:]))
    for other in (dataclasses.replace(run, record=record("waiting", joined=1)), lost):
        assert not trains_with_fewer(other)


def test_pods_of_a_job_before_are_none_of_its_own() -> None:
    """A Job that was deleted and created again does not get the pods of the first one."""
    new, old = pod(0, number=1), pod(0)
    new["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = "job"
    old["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = "before"
    assert own_pods(job(), [old, new]) == (new,)


def jobs_of_digits() -> list[Object]:
    """The Jobs of the run `digits` while `retry` replaces the first one, and that of another run."""
    first, second, other = fakes.job("digits"), fakes.job("digits-2"), fakes.job("letters")
    second["metadata"]["labels"][RUN_LABEL] = "digits"
    second["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    return [second, first, other]


@pytest.mark.parametrize("name", ["digits", "digits-2"])
def test_the_newest_job_of_a_run(name: str) -> None:
    """A run is found by its name, or else by that of any of its Jobs; a Job that is being deleted counts last."""
    second, first, other = jobs_of_digits()
    run = gather(FakeCluster(second, first, other).given(), name)
    assert (run.name, run.job["metadata"]["name"]) == ("digits", "digits-2")
    assert gather(FakeCluster(first, other).given(), "digits").job == first
    retried = fakes.job("digits-2-2")
    retried["metadata"]["labels"][RUN_LABEL] = "digits-2"
    assert gather(FakeCluster(second, first, retried).given(), "digits-2").job == retried
    second["metadata"]["deletionTimestamp"] = "2026-01-03T00:00:00Z"
    assert gather(FakeCluster(second, first, other).given(), "digits").job == first


def test_every_run_once() -> None:
    """A run with two Jobs is listed once, with the pods of its newest Job."""
    pods = [fakes.pod("digits-0-x", 0), fakes.pod("digits-2-0-x", 0)]
    pods[1]["metadata"]["labels"] |= {JOB_NAME_LABEL: "digits-2", UID_LABEL: "digits-2-uid"}
    runs = gather_every(FakeCluster(*jobs_of_digits(), *pods).given())
    assert [run.name for run in runs] == ["digits", "letters"]
    assert runs[0].pods == (pods[1],)
