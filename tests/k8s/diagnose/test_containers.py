"""Containers that a mesh or a user added to the pods: `status` and `why` name the one that is in the way."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from k8s.diagnose.catalogue import PROBLEMS
from k8s.diagnose.evidence import explain_with_log
from k8s.diagnose.explain import explain_run
from k8s.state.run import Run, state
from k8s.view.summary import rank_phase
from tests.k8s.fakes import FakeCluster
from tests.k8s.objects import (
    TIME,
    added,
    ended,
    event,
    job,
    pod,
    record,
    running,
    terminated,
    termination,
    unscheduled,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.objects import Object

RUNS: Object = {"running": {"startedAt": TIME.format(3)}}
DONE = terminated(0, "Completed")
PROMOTED = termination(0, "promoted", "first", accuracy=0.92)
TOO_OFTEN = job(1, "Failed", "MaxFailedIndexesExceeded", "Job has exceeded the limit", failedIndexes="0")
LOG = "`kubectl logs demo-0-aaaa0 -c {} -n team` shows "
FIX = LOG + "why; fix that container, or keep it out of the pods"


def waits(reason: str, message: str = "") -> Object:
    """The state of a container that waits."""
    return {"waiting": {"reason": reason, "message": message}}


def deleted(found: Object) -> Object:
    """The pod while it is being deleted."""
    found["metadata"]["deletionTimestamp"] = TIME.format(6)
    return found


def starting(name: str, state_of: Object, **flags: Any) -> Object:
    """A pod whose trainer waits for another container."""
    return added(waiting(0, "PodInitializing", sandbox=True), name, state_of, init=True, **flags)


@pytest.mark.parametrize(
    ("found", "status", "phase", "sentence", "reason"),
    [
        (
            starting("wait-for-db", RUNS),
            "starting 0 of 1 running, init container wait-for-db runs",
            "init container wait-for-db runs",
            "worker 0 cannot start yet: init container wait-for-db has not ended",
            "container-waits",
        ),
        (
            starting("istio-proxy", RUNS, again=True, started=False),
            "starting 0 of 1 running, sidecar istio-proxy runs",
            "sidecar istio-proxy runs",
            "worker 0 cannot start yet: sidecar istio-proxy is not ready: it has not passed its startup probe",
            "container-waits",
        ),
        (
            starting("istio-init", waits("ErrImagePull", "rpc error: code = NotFound desc = no such image")),
            "pulling 0 of 1 running, ErrImagePull in init container istio-init",
            "ErrImagePull in init container istio-init",
            "worker 0 cannot pull the image registry.example/istio-init:2 of init container istio-init: no such image",
            "image",
        ),
        (
            starting("vault", waits("CreateContainerConfigError", 'secret "vault" not found')),
            "starting 0 of 1 running, CreateContainerConfigError in init container vault",
            "CreateContainerConfigError in init container vault",
            (
                "worker 0 cannot start: init container vault waits (CreateContainerConfigError): "
                'secret "vault" not found'
            ),
            "configuration",
        ),
        (
            starting(
                "istio-proxy",
                waits("CrashLoopBackOff", "back-off 10s restarting failed container"),
                again=True,
                lastState=terminated(255, message="cannot reach istiod"),
            ),
            "starting 0 of 1 running, CrashLoopBackOff in sidecar istio-proxy",
            "CrashLoopBackOff in sidecar istio-proxy",
            (
                "worker 0 cannot start: sidecar istio-proxy waits (CrashLoopBackOff): back-off 10s restarting failed "
                "container; it exited with 255: cannot reach istiod"
            ),
            "container-failed",
        ),
        (
            added(waiting(0), "proxy", waits("ImagePullBackOff", "Back-off pulling image")),
            "pulling 0 of 1 running, ImagePullBackOff in container proxy",
            "ImagePullBackOff in container proxy",
            "worker 0 cannot pull the image registry.example/proxy:2 of container proxy: Back-off pulling image",
            "image",
        ),
    ],
)
def test_before_the_trainer_starts(found: Object, status: str, phase: str, sentence: str, reason: str) -> None:
    """The container and its reason, although it looks as if the trainer's image is pulled."""
    run = Run(job(1), (found,), flags="-n team")
    assert str(state(run)) == status
    assert rank_phase(run, 0) == phase
    why = explain_run(run)
    assert (why.sentence, why.reason) == (sentence, reason)
    assert why.remedy
    assert reason in PROBLEMS


def test_the_trainers_own_problem_is_named_without_its_container() -> None:
    """Beside init containers that are done and a sidecar that runs, the trainer waits for its image alone."""
    found = added(starting("istio-init", DONE), "proxy", RUNS, again=True, started=True)
    assert str(state(Run(job(1), (found,)))) == "pulling 0 of 1 running"
    assert rank_phase(Run(job(1), (found,)), 0) == "pulling"
    found["status"]["containerStatuses"][0]["state"] = waits("ErrImagePull", "no such image")
    run = Run(job(1), (found,))
    assert str(state(run)) == "pulling 0 of 1 running, ErrImagePull"
    assert explain_run(run).sentence == "worker 0 cannot pull the image registry.example/mnist-job:1: no such image"


def test_what_is_not_scheduled_or_has_no_status_yet() -> None:
    """Containers without a status are not in the way."""
    for one in (pod(0, node=None), pod(0), waiting(0)):
        one["spec"]["initContainers"] = [{"name": "istio-init", "image": "a"}]
        assert "istio" not in str(state(Run(job(1), (one,))))
        assert "istio" not in explain_run(Run(job(1), (one,))).sentence


def test_a_mount_that_fails_is_told_while_init_containers_wait() -> None:
    """Every container then waits with PodInitializing, which explains nothing."""
    found = starting("istio-init", waits("PodInitializing"))
    failure = event("Pod", "demo-0-aaaa0", "FailedMount", "MountVolume.SetUp failed : timed out")
    why = explain_run(Run(job(1), (found,), (failure,)))
    assert why.sentence == "worker 0 cannot mount a volume: MountVolume.SetUp failed : timed out"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            added(pod(0, phase="Failed"), "istio-init", terminated(1, message="a\niptables: no permission"), init=True),
            "worker 0 ended (container-failed): init container istio-init exited with 1: iptables: no permission",
        ),
        (
            added(ended(0, 0, message=PROMOTED, phase="Failed"), "proxy", terminated(137, "OOMKilled")),
            (
                "worker 0 ended (container-failed): container proxy exited with 137 (OOMKilled); the trainer had ended "
                "with 0"
            ),
        ),
    ],
)
def test_a_pod_that_another_container_made_fail(found: Object, said: str) -> None:
    """It is not the trainer's failure: the container's name, how it ended, and no exit code of a worker."""
    name = said.split("container ")[1].split(maxsplit=1)[0]
    run = Run(job(1), (found,), flags="-n team")
    why = explain_run(run)
    assert why.sentence == f"{said}; it is replaced (failure 1 of at most 4)"
    assert (why.reason, why.code, why.remedy) == ("container-failed", None, FIX.format(name))
    assert "failed" in rank_phase(run, 0)
    last = explain_run(dataclasses.replace(run, job=TOO_OFTEN))
    assert last.sentence == f"worker 0 failed 4 times, the most that the Job allows; first cause: {said}"
    final = state(dataclasses.replace(run, job=TOO_OFTEN))
    assert (str(final), final.code) == ("failed: container-failed", None)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (added(ended(0, 76, message=termination(76, "bug", "KeyError")), "proxy", terminated(1)), "bug"),
        (added(pod(0, phase="Failed", reason="Evicted", message="low on memory"), "proxy", terminated(137)), "evicted"),
        (added(ended(0, 137, reason="OOMKilled"), "proxy", terminated(143)), "out-of-memory"),
        (added(ended(0, 75, message=termination(75, "stopped", "")), "proxy", terminated(143), again=True), "stopped"),
    ],
)
def test_the_trainers_end_takes_precedence(found: Object, reason: str) -> None:
    """So does what the kubelet says about the whole pod."""
    assert explain_run(Run(job(1), (found,))).reason == reason


@pytest.mark.parametrize(
    ("state_of", "doing"),
    [
        (RUNS, "still runs"),
        (waits("ImagePullBackOff", "Back-off pulling image"), "waits (ImagePullBackOff)"),
        (waits("ContainerCreating"), "has not started"),
        ({}, "has not started"),
    ],
)
@pytest.mark.parametrize("last", [None, record("published")])
def test_a_container_that_goes_on_after_the_trainer(state_of: Object, doing: str, last: Any) -> None:
    """It keeps the Job from ending, so that is what is wrong, whatever the last record says."""
    pods = [added(ended(rank, 0, message=PROMOTED, phase="Running"), "proxy", state_of) for rank in range(2)]
    run = Run(job(2), tuple(pods), record=last, flags="-n team")
    assert str(state(run)) == f"ending 0 of 2 pods ended, container proxy {doing}"
    assert not state(run).ended
    assert rank_phase(run, 1) == f"ended with 0, container proxy {doing}"
    why = explain_run(run)
    assert why.sentence == (
        f"workers 0 and 1 cannot end: the trainer ended with 0, but container proxy {doing}, so the Job does not end "
        "either"
    )
    assert why.reason == "container-goes-on"
    assert "native sidecar" in why.remedy
    assert "`mnist-job cancel demo -n team`" in why.remedy


def test_a_trainer_that_failed_beside_a_container_that_goes_on() -> None:
    """The Job controller looks at an exit code only once the whole pod has ended; the trainer's message is told."""
    message = termination(76, "loss-not-finite", "the loss was nan at step 7")
    found = added(ended(1, 76, message=message, phase="Running"), "proxy", RUNS)
    run = Run(job(2), (running(0), found), record=record("training", step=7, steps=9))
    assert str(state(run)) == "ending 0 of 2 pods ended, container proxy still runs"
    assert explain_run(run).sentence == (
        "worker 1 cannot end: the trainer ended with 76 (the loss was nan at step 7), but container proxy still runs, "
        "so the Job neither ends nor replaces the worker"
    )


@pytest.mark.parametrize(
    "found",
    [
        added(ended(0, 0, message=PROMOTED, phase="Running"), "proxy", RUNS, again=True, started=True),
        added(ended(0, 0, message=PROMOTED, phase="Running"), "proxy", DONE),
        added(ended(0, 0, message=PROMOTED), "proxy", RUNS),
        deleted(added(ended(0, 0, message=PROMOTED, phase="Running"), "proxy", RUNS)),
    ],
)
def test_what_ends_by_itself_is_not_in_the_way(found: Object) -> None:
    """A native sidecar or a deleted pod, which the kubelet stops; a container that has ended; a pod that has."""
    run = Run(job(1), (found,), record=record("published"))
    assert state(run).word == "published"
    assert explain_run(run).reason != "container-goes-on"


def test_an_ephemeral_container_is_not_in_the_way() -> None:
    """`kubectl debug` adds one, and no pod waits for it."""
    found = ended(0, 0, message=PROMOTED, phase="Running")
    found["status"]["ephemeralContainerStatuses"] = [{"name": "debugger", "state": RUNS}]
    assert state(Run(job(1), (found,), record=record("published"))).word == "published"


def test_a_container_that_failed_beside_a_trainer_that_goes_on() -> None:
    """The run trains on, but its pod will count as failed, even though the model will be published."""
    found = added(running(0), "proxy", terminated(1, message="no route"))
    run = Run(job(1), (found,), record=record("training", step=1, steps=2), flags="-n team")
    assert str(state(run)) == "training 50%"
    why = explain_run(run)
    assert why.sentence == (
        "training 50%; but container proxy of worker 0 exited with 1: no route: the pod counts as failed once its "
        "trainer ends"
    )
    assert (why.reason, why.remedy) == ("container-failed", FIX.format("proxy"))


def test_workers_cannot_meet_where_a_container_failed() -> None:
    """Without its proxy, a worker cannot reach the others, so this cause comes before the wait for them."""
    found = added(running(0), "proxy", terminated(1))
    run = Run(job(2), (found, waiting(1)), record=record("waiting", joined=1))
    assert explain_run(run).reason == "container-failed"


def test_what_added_containers_request() -> None:
    """The scheduler needs room for all containers together."""
    found = unscheduled(0, "0/1 nodes are available: 1 Insufficient cpu. preemption: none.")
    resources = {"requests": {"cpu": "2"}}
    found["spec"]["containers"].insert(0, {"name": "proxy", "image": "proxy:1", "resources": resources})
    found["spec"]["initContainers"] = [{"name": "istio-init", "image": "init:1"}]
    said = explain_run(Run(job(1), (found,))).sentence
    assert said.endswith("; requested per worker: cpu 500m, memory 1Gi and cpu 2 for container proxy")


def test_the_trainer_runs_although_the_phase_is_pending() -> None:
    """The phase is that of the slowest container."""
    found = added(running(0, phase="Pending"), "proxy", waits("ErrImagePull", "no such image"))
    run = Run(job(1), (found,), record=record("training", step=1, steps=2))
    assert str(state(run)) == "training 50%"
    assert rank_phase(run, 0) == "training"


def test_the_log_is_that_of_the_container() -> None:
    """The lines under the explanation are of the container that it names."""
    found = {"kind": "Pod", **added(pod(0, phase="Failed"), "istio-init", terminated(1), init=True)}
    asked = []

    class Logs(FakeCluster):
        def logs(self, pod: str, container: str, **_: Any) -> Iterator[str]:
            asked.append((pod, container))
            yield "a line"

    why = explain_with_log(Logs(found).given(), Run(job(1), (found,)))
    assert (why.lines, asked) == (("a line",), [("demo-0-aaaa0", "istio-init")])
