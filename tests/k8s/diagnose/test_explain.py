"""The first cause of a run's state, in whole sentences, where no recorded run shows it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from job.errors import MEANINGS, Exit
from job.output import promotion
from job.output.significance import WorseClass
from k8s.diagnose.explain import explain_run, start_error
from k8s.state.names import CANCELLED, QUEUE_LABEL
from k8s.state.run import Run
from tests.k8s.objects import (
    condition,
    cut_off,
    elastic,
    ended,
    event,
    job,
    pod,
    record,
    running,
    termination,
    unscheduled,
    waiting,
)

if TYPE_CHECKING:
    from k8s.api.objects import Object

BOTH = (running(0), running(1))
TOO_OFTEN = job(2, "Failed", "MaxFailedIndexesExceeded", "Job has exceeded the limit", failedIndexes="1")
LATE = job(2, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
NO_PROGRAM = 'runc create failed: unable to start container process: exec: "train": not found in $PATH: unknown'
NOT_IN_TIME = "the run did not finish within its deadline of 600 s"
OUT_OF_MEMORY = (
    "worker 1 exited with 137 (out-of-memory): the kernel killed the worker because it exceeded its memory limit of 2Gi"
)
REMEDY_MEMORY = (
    "remedy: once the run has failed, raise the limit: `mnist-job retry demo --memory 4Gi -n team --context kind`; "
    "or submit it with a smaller --batch-size under another --name"
)
TAINT = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
REMEDY_NODE = (
    "remedy: bring the node back, delete it (`kubectl delete node node-1 -n team --context kind`) or, once it is shut "
    f"down, mark it as such: `kubectl taint node node-1 {TAINT} -n team --context kind`"
)
MARKED = "2026-01-01T00:00:30Z"
REFUSED = event("Job", "demo", "FailedCreate", 'Error creating: pods "demo-1-x" is forbidden: no such luck')
KILLED = "exit code 137: its main process was killed by SIGKILL"


def why(run: Run) -> list[str]:
    """The lines of the explanation."""
    return str(explain_run(dataclasses.replace(run, flags="-n team --context kind"))).splitlines()


def being_deleted(found: Object) -> Object:
    """A pod that is being deleted."""
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:50Z"
    return found


def test_published() -> None:
    """Nothing is wrong; the accuracy is given, the classes that became worse, and why `latest` was not changed."""
    pods = (ended(0, 0, message=termination(0, "promoted", "first", accuracy=0.92614)), running(1))
    run = Run(job(2, "SuccessCriteriaMet", "SuccessPolicy"), pods)
    said = "nothing is wrong: the model is published with a test accuracy of 0.9261"
    assert why(run) == [said]
    new = promotion.Candidate("new", "2", "c", 0.92614, 0.9, 0.95, ["no"], {}, "unless-worse", 0, 0)
    verdict = promotion.decide_verdict(
        new, dataclasses.replace(new, run="old", started="1"), [WorseClass("no", 0.8, 0.9, 0.001)]
    )
    worse = ended(0, 0, message=termination(0, verdict.verdict, verdict.reason, accuracy=new.accuracy))
    assert why(Run(run.job, (worse,))) == [
        f"{said}; the new model is worse beyond chance for class no (recall 0.8000 after 0.9000, p = 0.001)"
    ]
    kept = ended(0, 0, message=termination(0, "kept", "the current latest, a, was tested on other data", accuracy=0.9))
    [line] = why(Run(run.job, (kept,)))
    assert line.startswith("nothing is wrong: the model is published with a test accuracy of 0.9000; `latest` was not ")
    assert line.endswith("the current latest, a, was tested on other data")


def test_out_of_memory_under_cgroup_v2() -> None:
    """The kernel kills the whole container: 137 and OOMKilled, without a message of the worker."""
    run = Run(job(), (running(0), ended(1, 137, reason="OOMKilled")), record=record("waiting", joined=1))
    first = f"{OUT_OF_MEMORY}; it is replaced (failure 1 of at most 4) (2026-01-01T00:00:05Z)"
    assert why(run) == [first, KILLED, REMEDY_MEMORY]


def test_out_of_memory_too_often() -> None:
    """The first cause is the worker that was killed, not the one that waited for it and ended first."""
    missing = termination(75, "peers-missing", "not all of the 2 workers came within 900 s: worker 1 had not come")
    kills = [ended(1, 137, number, "OOMKilled") for number in range(4)]
    run = Run(TOO_OFTEN, (ended(0, 75, message=missing), *kills))
    first = f"worker 1 failed 4 times, the most that the Job allows; first cause: {OUT_OF_MEMORY}"
    assert why(run) == [f"{first} (2026-01-01T00:00:05Z)", KILLED, REMEDY_MEMORY]


def test_the_workers_message_goes_before_the_kubelets_reason() -> None:
    """Under cgroup v1, the kubelet reports OOMKilled for each container in which a trainer was ever killed."""
    message = termination(
        75, "output-io", "the output folder failed at /output: Stale file handle", "start the run again"
    )
    run = Run(job(1), (ended(0, 75, reason="OOMKilled", message=message),))
    assert why(run)[0] == (
        "worker 0 exited with 75 (output-io): the output folder failed at /output: Stale file handle; it is replaced "
        "(failure 1 of at most 4) (2026-01-01T00:00:05Z)"
    )


def test_failures_for_different_reasons() -> None:
    """The first failure and the last one are given."""
    ends = [
        ended(1, 139),
        *(ended(1, 75, n, message=termination(75, "restarts-used-up", "gave up")) for n in (1, 2, 3)),
    ]
    assert why(Run(TOO_OFTEN, (running(0), *ends))) == [
        (
            "worker 1 failed 4 times, the most that the Job allows; first cause: worker 1 exited with 139 (killed): "
            "it left no message; last failure: worker 1 exited with 75 (restarts-used-up): gave up "
            "(2026-01-01T00:00:05Z)"
        ),
        "exit code 139: its main process was killed by SIGSEGV",
        (
            "remedy: run `mnist-job retry demo -n team --context kind`; if it happens again, report it with the last "
            "lines of the log"
        ),
    ]


def test_failures_of_deleted_pods() -> None:
    """Without the pods no more is known, and where the log is."""
    assert why(Run(TOO_OFTEN)) == [
        (
            "worker 1 failed 4 times, the most that the Job allows; its pods were deleted, and their messages with "
            "them (2026-01-01T00:00:59Z)"
        ),
        (
            "remedy: `mnist-job logs demo --rank 1 -n team --context kind` shows its last lines; fix the cause, then "
            "run `mnist-job retry demo -n team --context kind`"
        ),
    ]


def test_failed_at_once() -> None:
    """The worker's own message, the meaning of its code and its hint."""
    message = "Container trainer for pod team/demo-1-aaaa0 failed with exit code 76 matching FailJob rule at index 1"
    said = termination(76, "loss-not-finite", "the loss was nan at step 7", "a smaller --learning-rate", step=7)
    pods = (ended(0, 75, message=termination(75, "stopped", "asked to stop")), ended(1, 76, message=said))
    run = Run(job(2, "FailureTarget", "PodFailurePolicy", message), pods)
    assert why(run) == [
        "worker 1 exited with 76 (loss-not-finite): the loss was nan at step 7 (2026-01-01T00:00:05Z)",
        f"exit code 76: {MEANINGS[Exit.NOT_FINITE]}",
        "remedy: a smaller --learning-rate",
    ]
    found = explain_run(run)
    assert (found.reason, found.rank, found.code, found.pod) == ("loss-not-finite", 1, 76, "demo-1-aaaa0")


@pytest.mark.parametrize(
    ("code", "reason", "hint", "remedy"),
    [
        (
            73,
            "output-not-writable",
            "use a writable folder: --output",
            "free space, or change the volume's mode and owner: the workers write as user and group 65532",
        ),
        (
            64,
            "run-taken",
            "use another --run, or --continue",
            (
                "submit it under another --name; or continue that run, if the flags are those that it had: "
                "`mnist-job retry demo -n team --context kind`"
            ),
        ),
    ],
)
def test_remedies_of_the_launcher_go_before_the_workers_hint(code: int, reason: str, hint: str, remedy: str) -> None:
    """The worker knows its flags, but neither the volume nor the launcher's commands."""
    run = Run(job(2, "Failed", "PodFailurePolicy"), (ended(0, code, message=termination(code, reason, "no", hint)),))
    assert why(run)[2:] == [f"remedy: {remedy}"]


def test_a_node_without_the_gpu_that_it_promises_is_named() -> None:
    """The worker knows its pod's name only."""
    message = "--device gpu: TensorFlow finds no GPU on demo-1-x, which has no NVIDIA driver"
    pod = ended(1, 75, message=termination(75, "no-gpu", message, "check the driver"))
    node = pod["spec"]["nodeName"]
    flags = "-n team --context kind"
    first, _, remedy = why(Run(TOO_OFTEN, (running(0), pod)))
    assert f"first cause: worker 1 exited with 75 (no-gpu): {message} (" in first
    assert remedy == (
        f"remedy: check the node: `kubectl describe node {node} {flags}`; `kubectl cordon {node} {flags}` keeps "
        "workers away from it until it is repaired; once the run has failed, "
        f"`mnist-job retry demo {flags}`"
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            {"reason": "Evicted", "message": "The node was low on resource: memory. "},
            "worker 1 ended (evicted): The node was low on resource: memory.",
        ),
        (
            {"reason": "OutOfcpu", "message": "Pod was rejected: Node didn't have enough resource: cpu"},
            "worker 1 ended (out-ofcpu): Pod was rejected: Node didn't have enough resource: cpu",
        ),
    ],
)
def test_ended_by_the_kubelet_before_it_began(status: Object, said: str) -> None:
    """The kubelet's message is given where there is no container."""
    lost = pod(1, phase="Failed", conditions=[condition("DisruptionTarget", reason="TerminationByKubelet")], **status)
    by = "; the cluster stopped it (TerminationByKubelet), which does not count as a failure; it is replaced"
    assert why(Run(job(), (running(0), lost)))[0] == f"{said}{by} (2026-01-01T00:00:00Z)"


def test_lost_with_its_node() -> None:
    """A node that comes back after its pods were replaced no longer knows their containers."""
    by = condition("DisruptionTarget", reason="DeletionByTaintManager")
    lost = ended(1, 137, 0, "ContainerStatusUnknown", "The container could not be located", conditions=[by])
    lost["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = None
    assert why(Run(job(), (running(0), lost))) == [
        (
            "worker 1 exited with 137 (container-status-unknown): The container could not be located; the cluster "
            "stopped it (DeletionByTaintManager), which does not count as a failure; it is replaced "
            "(2026-01-01T00:00:00Z)"
        ),
        KILLED,
        "remedy: none needed if the worker is replaced; otherwise check that the nodes stay up",
    ]


def test_drained() -> None:
    """A worker that was asked to stop did nothing wrong; the sentence says what stopped it."""
    by = condition("DisruptionTarget", reason="EvictionByEvictionAPI", message="Eviction API: evicting")
    stopped = ended(
        1, 75, message=termination(75, "stopped", "asked to stop at step 800", "start the run again"), conditions=[by]
    )
    assert why(Run(job(), (running(0), stopped), record=record("waiting", joined=1))) == [
        (
            "worker 1 exited with 75 (stopped): asked to stop at step 800; the cluster stopped it "
            "(EvictionByEvictionAPI), which does not count as a failure; it is replaced (2026-01-01T00:00:05Z)"
        ),
        f"exit code 75: {MEANINGS[Exit.TRY_AGAIN]}",
        "remedy: none needed: the run continues from its last checkpoint",
    ]


def test_a_probe_that_failed() -> None:
    """A container that the kubelet killed because its probe failed is not reported as killed by somebody."""
    killing = event("Pod", "demo-1-aaaa0", "Killing", "Container trainer failed liveness probe, will be restarted")
    assert why(Run(job(), (running(0), ended(1, 137)), (killing,)))[0] == (
        "worker 1 exited with 137 (killed): it left no message; the kubelet killed it: Container trainer failed "
        "liveness probe, will be restarted; it is replaced (failure 1 of at most 4) (2026-01-01T00:00:05Z)"
    )


@pytest.mark.parametrize("down", [("node-1",), None])
def test_an_unreachable_node(down: tuple[str, ...] | None) -> None:
    """It is known by the node, or by the pod alone where this user may not list nodes."""
    run = Run(job(), (running(0, conditions=[]), cut_off(1)), down=down)
    run.pods[0]["spec"]["nodeName"] = "node-2"
    unreachable = "worker 1 cannot be reached: node node-1 is unreachable, and its pods are deleted after 30 s"
    assert why(run) == [f"{unreachable} ({MARKED})", REMEDY_NODE]
    being_deleted(run.pods[1])
    assert why(run) == [
        (
            "worker 1 cannot be replaced before node node-1, which is unreachable, confirms that the pod has stopped "
            f"({MARKED})"
        ),
        REMEDY_NODE,
    ]


IN_USE = (
    "none needed if that pod ends soon; otherwise keep all pods that use the claim on one node (--component one-node), "
    "or choose a ReadWriteMany claim with --claim"
)


def test_a_run_that_trains_with_fewer_workers() -> None:
    """What a worker waits for holds up nobody, and is still explained."""
    trains = record("training", step=45, steps=100, joined=2)
    message = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate."
    run = Run(elastic(3, 2), (*BOTH, unscheduled(2, message)), record=trains)
    assert why(run)[0].startswith("nothing is wrong: training 45% with 2 of 3 workers; worker 2 cannot be scheduled: ")
    assert "; once started, it joins at the next checkpoint" in why(run)[0]
    assert why(run)[-1].startswith("remedy: ")
    publishes = dataclasses.replace(run, record=record("publishing", step=9, steps=9, joined=2))
    assert why(publishes)[0].startswith("nothing is wrong: publishing; worker 2 cannot be scheduled: ")
    assert "once started" not in why(publishes)[0]
    assert why(Run(run.job, BOTH, record=trains)) == ["nothing is wrong: training 45% with 2 of 3 workers"]


def test_a_worker_that_failed_for_good_does_not_end_the_run() -> None:
    """Its Job allows that, but the others cannot train without rank 0."""
    trains = record("training", step=45, steps=100, joined=2)
    run = Run(elastic(3, 2, failedIndexes="2"), (*BOTH, ended(2, 137)), record=trains)
    assert why(run) == [
        (
            "nothing is wrong: training 45% with 2 of 3 workers; the run goes on without worker 2, which failed too "
            "often; its last failure: worker 2 exited with 137 (killed): it left no message"
        )
    ]
    waits = Run(elastic(3, 1, failedIndexes="1"), (running(0), ended(1, 137)), record=record("waiting", joined=1))
    assert why(waits) == ["the run waits for worker 2, which has no pod yet"]
    lost = Run(elastic(3, 2, failedIndexes="0"), (ended(0, 137), running(1), running(2)))
    assert why(lost) == [
        "worker 0 failed 4 times, the most that the Job allows, and the others cannot train without it",
        (
            "remedy: `mnist-job logs demo --rank 0 -n team --context kind` shows its last lines; fix the cause, then "
            "run `mnist-job cancel demo -n team --context kind` and `mnist-job retry demo -n team --context kind`"
        ),
    ]


def test_a_pod_that_is_being_deleted_is_not_on_an_unreachable_node() -> None:
    """Within its grace period it writes a checkpoint."""
    run = Run(job(), (running(0), being_deleted(running(1))), down=(), record=record("training", step=1, steps=2))
    assert why(run) == ["nothing is wrong: training 50%"]


@pytest.mark.parametrize(
    ("message", "said", "remedy"),
    [
        (
            'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) demo-0-aaaa0',
            (
                "pod demo-0-aaaa0 on another node uses the claim output, which only one node can use at a time "
                "(ReadWriteOnce)"
            ),
            IN_USE,
        ),
        (
            (
                'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node '
                "and can't be attached to another"
            ),
            "another node uses the claim output, which only one node can use at a time (ReadWriteOnce)",
            IN_USE,
        ),
        (
            'MountVolume.SetUp failed for volume "nfs" : timed out',
            'MountVolume.SetUp failed for volume "nfs" : timed out',
            "see `kubectl describe pod demo-1-aaaa0 -n team --context kind`",
        ),
    ],
)
def test_a_volume_that_cannot_be_mounted(message: str, said: str, remedy: str) -> None:
    """A ReadWriteOnce volume on two nodes is explained; every other message is the kubelet's."""
    failure = event("Pod", "demo-1-aaaa0", "FailedAttachVolume", message)
    assert why(Run(job(), (running(0), waiting(1)), (failure,))) == [
        f"worker 1 cannot mount a volume: {said} (2026-01-01T00:00:20Z)",
        f"remedy: {remedy}",
    ]


def test_a_race_inside_the_cluster_is_no_cause() -> None:
    """A node may ask for a claim before the API server knows that it may; a moment later it succeeds."""
    message = "no relationship found between node 'node-1' and this object"
    failure = event("Pod", "demo-1-aaaa0", "FailedMount", message)
    [line] = why(Run(job(), (running(0), waiting(1)), (failure,)))
    assert line.startswith("the run waits for worker 1, whose pod demo-1-aaaa0 ")


def test_workers_with_one_cause_share_a_sentence() -> None:
    """Many workers without a node are counted, not listed."""
    message = "0/1 nodes are available: 1 Insufficient cpu. preemption: none."
    run = Run(job(6), (running(0), *(unscheduled(rank, message) for rank in range(1, 6))))
    assert why(run)[0] == (
        "workers 1, 2, 3 and 2 more cannot be scheduled: the only node has too little cpu free; requested per worker: "
        "cpu 500m, memory 1Gi (2026-01-01T00:00:30Z)"
    )


def test_a_claim_that_lost_its_volume() -> None:
    """A lost volume is told apart from one that is not bound yet."""
    message = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
    run = Run(job(1), (unscheduled(0, message),), claim={"status": {"phase": "Lost"}})
    lost = "worker 0 cannot be scheduled: the claim output has lost its volume"
    assert why(run)[0] == f"{lost} (2026-01-01T00:00:30Z)"


def test_refused_pods() -> None:
    """A refusal is the cause only while pods are missing and none was created since."""
    assert why(Run(job(), (running(0),), (REFUSED,))) == [
        "the API server refuses the run's pods: no such luck (2026-01-01T00:00:20Z)",
        "remedy: change what the message names, or ask the cluster's administrator",
    ]
    made = event("Job", "demo", "SuccessfulCreate", "Created pod: demo-1-aaaa0", 21)
    assert why(Run(job(), (running(0),), (REFUSED, made))) == ["the run waits for worker 1, which has no pod yet"]
    assert why(Run(job(), BOTH, (REFUSED,))) == ["nothing is wrong: starting 2 of 2 running"]


@pytest.mark.parametrize(
    ("reason", "message", "said"),
    [
        ("Failed", 'Failed to pull image "a:1": a:1: not found', "could not pull the image a:1: not found"),
        ("Failed", "Error: ImagePullBackOff", "could not start: Error: ImagePullBackOff"),
        ("Failed", 'Error: secret "own" not found', 'could not start: Error: secret "own" not found'),
        ("Failed", f"Error: {NO_PROGRAM}", 'could not start: exec: "train": not found in $PATH'),
        ("FailedMount", "timed out", "could not mount a volume: timed out"),
    ],
)
def test_what_delayed_a_run_until_its_deadline(reason: str, message: str, said: str) -> None:
    """The pods were deleted, but their events are left."""
    events = (event("Pod", "demo-0-aaaa0", "Scheduled", "assigned", 19), event("Pod", "demo-0-aaaa0", reason, message))
    assert why(Run(LATE, (), events))[0] == f"{NOT_IN_TIME}; cause: a worker {said} (2026-01-01T00:00:59Z)"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('Failed to pull image "a:1": a:1: not found', "image-missing"),
        ("Error: ErrImagePull", "image"),
        ('Error: secret "own" not found', "configuration"),
        (f"Error: {NO_PROGRAM}", "start-error"),
    ],
)
def test_only_a_pull_tells_that_an_image_is_missing(message: str, reason: str) -> None:
    """Other things are `not found` too, and their remedy is another one."""
    assert start_error(message)[0] == reason


def test_a_worker_that_failed_before_the_deadline() -> None:
    """It may have been replaced since, so the sentence does not call it the cause."""
    killed = ended(1, 137, reason="OOMKilled")
    run = Run(LATE, (killed, ended(0, 75, message=termination(75, "stopped", "asked to stop"))))
    assert why(run)[0] == f"{NOT_IN_TIME}; before that: {OUT_OF_MEMORY} (2026-01-01T00:00:59Z)"


def test_too_late_and_nothing_left() -> None:
    """After an hour the events are gone too; the sentence says so, and invents no cause."""
    assert why(Run(LATE)) == [
        f"{NOT_IN_TIME}; its pods were deleted, and their messages with them (2026-01-01T00:00:59Z)",
        "remedy: give it more time: `mnist-job retry demo --deadline 1200s -n team --context kind`",
    ]


WITHOUT_NODE = unscheduled(1, "0/1 nodes are available: 1 Insufficient cpu. preemption: none.")


@pytest.mark.parametrize(("pods", "events"), [((running(0), WITHOUT_NODE), ()), ((), (REFUSED,))])
def test_an_admitted_run_that_does_not_start(pods: tuple[Object, ...], events: tuple[Object, ...]) -> None:
    """The quota that it holds is named, because others wait for it."""
    run = Run(job(), pods, events)
    before = why(run)[0]
    run.job["metadata"]["labels"][QUEUE_LABEL] = "night"
    held = "; Kueue has admitted the run, so it keeps its quota of the queue night meanwhile"
    assert why(run)[0].replace(held, "") == before
    assert held in why(run)[0]


def test_queued_and_cancelled() -> None:
    """Kueue's queue and the `cancel` command are named."""
    run = Run(job())
    run.job["spec"]["suspend"] = True
    run.job["metadata"]["labels"][QUEUE_LABEL] = "night"
    assert why(run) == [
        "the run waits in the queue night: Kueue has not admitted it yet",
        (
            "remedy: none needed if the queue only lacks room: Kueue starts the run once it has room; otherwise "
            "correct what Kueue names; `kubectl describe workloads -n team --context kind` shows the details"
        ),
    ]
    run.job["metadata"]["annotations"] = {CANCELLED: "2026"}
    assert why(run) == [
        "the run was cancelled; its checkpoint is kept",
        "remedy: `mnist-job retry demo -n team --context kind` continues it from its last checkpoint",
    ]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (
            Run(job(), BOTH, record=record("waiting", joined=1, message="1 of 2 workers joined")),
            "the run waits for its workers: 1 of 2 workers joined",
        ),
        (
            Run(job(), BOTH, record=record("restarting", reason="killed", message="the trainer was killed by SIGSEGV")),
            "worker 0 restarts its trainer (killed): the trainer was killed by SIGSEGV",
        ),
        (
            Run(job(), (*BOTH, ended(1, 137)), record=record("training", step=45, steps=100)),
            "nothing is wrong: training 45%; 1 pod ended early and was replaced",
        ),
    ],
)
def test_a_run_on_its_way(run: Run, said: str) -> None:
    """Which worker the run waits for, or that nothing is wrong."""
    assert why(run) == [said]


def test_another_failure() -> None:
    """The Job controller's message is passed on where it is not known."""
    run = Run(job(2, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    assert why(run) == ["the Job failed: Job has reached the specified backoff limit (2026-01-01T00:00:59Z)"]
