"""The first cause of what befalls a run, in whole sentences, where no recorded run shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k8s.diagnose.explain import explain_run
from k8s.state.names import CANCELLED, QUEUE_LABEL
from k8s.state.run import Run
from tests.k8s.objects import (
    condition,
    cut_off,
    ended,
    event,
    job,
    pod,
    record,
    running,
    told,
    unscheduled,
    waiting,
)

if TYPE_CHECKING:
    from k8s.api.objects import Object

BOTH = (running(0), running(1))
GIVEN_UP = job(2, "Failed", "MaxFailedIndexesExceeded", "Job has exceeded the limit", failedIndexes="1")
LATE = job(2, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
DO_MEMORY = "do: give it more: --memory 4Gi, or a smaller --batch-size"
TAINT = "`kubectl taint node NODE node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`"
DO_NODE = f"do: bring the node back, delete the Node, or taint it: {TAINT}"
MOUNT = 'MountVolume.SetUp failed for volume "nfs" : timed out'
PULL = 'Failed to pull image "a:1": a:1: not found'
MARKED = "2026-01-01T00:00:30Z"
KILLED = "exit code 137: its first process was killed by SIGKILL"


def why(run: Run) -> list[str]:
    """The lines of the explanation."""
    return str(explain_run(run)).splitlines()


def leaving(found: Object) -> Object:
    """A pod that was told to end."""
    found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:50Z"
    return found


def test_published() -> None:
    """Nothing is wrong; the accuracy is told."""
    pods = (ended(0, 0, message=told(0, "promoted", "first", accuracy=0.92614)), running(1))
    run = Run(job(2, "SuccessCriteriaMet", "SuccessPolicy"), pods)
    assert why(run) == ["nothing is wrong: it is published with a test accuracy of 0.9261"]
    kept = ended(0, 0, message=told(0, "kept", "the present latest, a, was tested on other data", accuracy=0.9))
    moved = "`latest` did not move: kept, for the present latest, a, was tested on other data"
    assert why(Run(run.job, (kept,))) == [f"nothing is wrong: it is published with a test accuracy of 0.9000; {moved}"]


def test_out_of_memory_under_cgroup_v2() -> None:
    """The kernel ends the whole container: 137 and OOMKilled, without a word of the worker's own."""
    run = Run(job(), (running(0), ended(1, 137, reason="OOMKilled")), record=record("waiting", joined=1))
    assert why(run) == [
        (
            "worker 1 ended with 137 (out-of-memory): the kernel killed the worker for memory, for its limit is 2Gi; "
            "it is replaced (end 1 of the 4 after which it is given up) (2026-01-01T00:00:05Z)"
        ),
        KILLED,
        DO_MEMORY,
    ]


def test_out_of_memory_until_given_up() -> None:
    """The first cause is the worker that was killed, not the one that waited for it in vain and ended first."""
    missing = told(75, "peers-missing", "not all of the 2 workers came within 900 s: worker 1 had not come")
    kills = [ended(1, 137, number, "OOMKilled") for number in range(4)]
    run = Run(GIVEN_UP, (ended(0, 75, message=missing), *kills))
    assert why(run) == [
        (
            "worker 1 was given up after 4 ends; the first cause: worker 1 ended with 137 (out-of-memory): "
            "the kernel killed the worker for memory, for its limit is 2Gi (2026-01-01T00:00:05Z)"
        ),
        KILLED,
        DO_MEMORY,
    ]


def test_a_word_of_the_workers_own_goes_before_the_kubelets() -> None:
    """Under cgroup v1 every end of a container in which a trainer was once killed is called OOMKilled."""
    message = told(75, "output-io", "the output folder failed at /output: Stale file handle", "start it again")
    run = Run(job(1), (ended(0, 75, reason="OOMKilled", message=message),))
    assert why(run)[0] == (
        "worker 0 ended with 75 (output-io): the output folder failed at /output: Stale file handle; it is replaced "
        "(end 1 of the 4 after which it is given up) (2026-01-01T00:00:05Z)"
    )


def test_given_up_for_different_reasons() -> None:
    """The first end and the last are told."""
    ends = [ended(1, 139), *(ended(1, 75, n, message=told(75, "restarts-used-up", "gave up")) for n in (1, 2, 3))]
    assert why(Run(GIVEN_UP, (running(0), *ends))) == [
        (
            "worker 1 was given up after 4 ends; the first cause: worker 1 ended with 139 (killed): "
            "it said nothing of it; the last time: worker 1 ended with 75 (restarts-used-up): gave up "
            "(2026-01-01T00:00:05Z)"
        ),
        "exit code 139: its first process was killed by SIGSEGV",
        "do: `mnist-job retry`; if it comes back, report it with the lines of the log",
    ]


def test_given_up_and_gone() -> None:
    """Without the pods it is said that no more is known."""
    assert why(Run(GIVEN_UP))[0] == (
        "worker 1 was given up after 4 ends; the pods are gone, and what they said with them (2026-01-01T00:00:59Z)"
    )


def test_failed_at_once() -> None:
    """The worker's own words, the meaning of its code and its hint."""
    message = "Container trainer for pod team/demo-1-aaaa0 failed with exit code 76 matching FailJob rule at index 1"
    said = told(76, "loss-not-finite", "the loss was nan at step 7", "a smaller --learning-rate", step=7)
    pods = (ended(0, 75, message=told(75, "stopped", "told to stop")), ended(1, 76, message=said))
    run = Run(job(2, "FailureTarget", "PodFailurePolicy", message), pods)
    assert why(run) == [
        "worker 1 ended with 76 (loss-not-finite): the loss was nan at step 7 (2026-01-01T00:00:05Z)",
        "exit code 76: the loss was not finite",
        "do: a smaller --learning-rate",
    ]
    found = explain_run(run)
    assert (found.reason, found.rank, found.code, found.pod) == ("loss-not-finite", 1, 76, "demo-1-aaaa0")


def test_failed_for_a_folder() -> None:
    """What is to be done about a folder is said of the volume or the image, not by the worker's own flags."""
    said = told(73, "output-not-writable", "/output: Permission denied", "give a folder that can be written: --output")
    assert why(Run(job(2, "Failed", "PodFailurePolicy"), (ended(0, 73, message=said),)))[1:] == [
        "exit code 73: the output folder cannot be written",
        "do: make room, or see the volume's mode and owner: the workers write as user and group 65532",
    ]


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
    """The kubelet's words are told where there is no container."""
    lost = pod(1, phase="Failed", conditions=[condition("DisruptionTarget", reason="TerminationByKubelet")], **status)
    by = "; the cluster ended it (TerminationByKubelet), which is not counted; it is replaced"
    assert why(Run(job(), (running(0), lost)))[0] == f"{said}{by} (2026-01-01T00:00:00Z)"


def test_lost_with_its_node() -> None:
    """A node that comes back after its pods were given up knows nothing of their containers any more."""
    by = condition("DisruptionTarget", reason="DeletionByTaintManager")
    lost = ended(1, 137, 0, "ContainerStatusUnknown", "The container could not be located", conditions=[by])
    lost["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = None
    assert why(Run(job(), (running(0), lost))) == [
        (
            "worker 1 ended with 137 (container-status-unknown): The container could not be located; "
            "the cluster ended it (DeletionByTaintManager), which is not counted; it is replaced (2026-01-01T00:00:00Z)"
        ),
        KILLED,
        "do: nothing, if it is replaced; else see that the nodes stay up",
    ]


def test_drained() -> None:
    """A worker that was told to stop has done nothing wrong; who told it is said."""
    by = condition("DisruptionTarget", reason="EvictionByEvictionAPI", message="Eviction API: evicting")
    stopped = ended(1, 75, message=told(75, "stopped", "told to stop at step 800", "start it again"), conditions=[by])
    assert why(Run(job(), (running(0), stopped), record=record("waiting", joined=1))) == [
        (
            "worker 1 ended with 75 (stopped): told to stop at step 800; the cluster ended it (EvictionByEvictionAPI), "
            "which is not counted; it is replaced (2026-01-01T00:00:05Z)"
        ),
        "exit code 75: stopped early; running the same command again may succeed",
        "do: nothing: it goes on from its last checkpoint",
    ]


def test_a_probe_that_failed() -> None:
    """What the kubelet ended for want of an answer is not taken for somebody's wish."""
    stopped = ended(1, 137)
    said = event("Pod", "demo-1-aaaa0", "Killing", "Container trainer failed liveness probe, will be restarted")
    assert why(Run(job(), (running(0), stopped), (said,)))[0] == (
        "worker 1 ended with 137 (killed): it said nothing of it; the kubelet ended it: Container trainer failed "
        "liveness probe, will be restarted; it is replaced (end 1 of the 4 after which it is given up) "
        "(2026-01-01T00:00:05Z)"
    )


@pytest.mark.parametrize("down", [("node-1",), None])
def test_a_dead_node(down: tuple[str, ...] | None) -> None:
    """Seen by the node, and by the pod alone where nodes may not be asked; first that it is not told to end yet."""
    run = Run(job(), (running(0, conditions=[]), cut_off(1)), down=down if down is None else ("node-1",))
    run.pods[0]["spec"]["nodeName"] = "node-2"
    assert why(run) == [
        "worker 1 is on node node-1, which does not answer; it is told to end after 30 s of this (" + MARKED + ")",
        DO_NODE,
    ]
    leaving(run.pods[1])
    assert why(run) == [
        (
            "worker 1 waits for nothing but its end: its node node-1 does not answer, and it is replaced once "
            "it is known that it ended (2026-01-01T00:00:30Z)"
        ),
        DO_NODE,
    ]


def test_a_pod_that_is_only_ending_is_no_dead_node() -> None:
    """Within its grace period it writes a checkpoint."""
    run = Run(job(), (running(0), leaving(running(1))), down=(), record=record("training", step=1, steps=2))
    assert why(run) == ["nothing is wrong: training 50%"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) demo-0-aaaa0',
            "demo-0-aaaa0, on another node, uses the claim output, which one node alone can have (ReadWriteOnce)",
        ),
        (
            (
                'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node '
                "and can't be attached to another"
            ),
            "another node has the claim output, which one node alone can have (ReadWriteOnce)",
        ),
        (
            'MountVolume.SetUp failed for volume "nfs" : timed out',
            'MountVolume.SetUp failed for volume "nfs" : timed out',
        ),
    ],
)
def test_a_volume_that_cannot_be_had(message: str, said: str) -> None:
    """A ReadWriteOnce volume on two nodes is said in plain words, everything else in the kubelet's."""
    told_once = event("Pod", "demo-1-aaaa0", "FailedAttachVolume", message)
    assert why(Run(job(), (running(0), waiting(1)), (told_once,))) == [
        f"worker 1 cannot get its volume: {said} (2026-01-01T00:00:20Z)",
        "do: see `kubectl describe pod`; a ReadWriteOnce volume serves one node: --component one-node",
    ]


def test_a_race_inside_the_cluster_is_no_cause() -> None:
    """A node that asked for a claim before the API server knew that it may is let in a moment later."""
    message = "no relationship found between node 'node-1' and this object"
    seen = event("Pod", "demo-1-aaaa0", "FailedMount", message)
    run = Run(job(), (running(0), waiting(1)), (seen,))
    assert why(run) == ["it waits for worker 1, whose pod demo-1-aaaa0 is being set up on node-1"]


def test_workers_of_one_cause_share_a_sentence() -> None:
    """Many workers without a node are counted, not listed."""
    message = "0/1 nodes are available: 1 Insufficient cpu. preemption: none."
    run = Run(job(6), (running(0), *(unscheduled(rank, message) for rank in range(1, 6))))
    assert why(run)[0] == (
        "workers 1, 2, 3 and 2 more have no node: the only node has too little cpu free; each asks for 500m of cpu, "
        "1Gi of memory (2026-01-01T00:00:30Z)"
    )


def test_a_claim_that_lost_its_volume() -> None:
    """Lost is told apart from not yet bound."""
    message = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
    run = Run(job(1), (unscheduled(0, message),), claim={"status": {"phase": "Lost"}})
    assert why(run)[0] == (
        "worker 0 has no node, for the claim output has no volume: it has lost it (2026-01-01T00:00:30Z)"
    )


def test_refused_pods() -> None:
    """Only as long as pods are lacking, and none was made since."""
    refused = event("Job", "demo", "FailedCreate", 'Error creating: pods "demo-1-x" is forbidden: no such luck')
    assert why(Run(job(), (running(0),), (refused,))) == [
        "the API server refuses its pods: no such luck (2026-01-01T00:00:20Z)",
        "do: change what the sentence names, or ask who runs the cluster",
    ]
    made = event("Job", "demo", "SuccessfulCreate", "Created pod: demo-1-aaaa0", 21)
    assert why(Run(job(), (running(0),), (refused, made))) == ["it waits for worker 1, whose pod is not made yet"]
    assert why(Run(job(), BOTH, (refused,))) == ["nothing is wrong: starting 2 of 2 run"]


@pytest.mark.parametrize(
    ("kind", "message", "said"),
    [
        (
            "Failed",
            PULL,
            f"a worker could not begin: {PULL}",
        ),
        ("FailedMount", "timed out", "a worker could not get its volume: timed out"),
    ],
)
def test_what_held_up_a_run_until_its_deadline(kind: str, message: str, said: str) -> None:
    """The pods are gone, and their events tell."""
    events = (event("Pod", "demo-0-aaaa0", "Scheduled", "assigned", 19), event("Pod", "demo-0-aaaa0", kind, message))
    assert why(Run(LATE, (), events))[0] == (
        f"it was not done within its deadline of 600 s; what held it up: {said} (2026-01-01T00:00:59Z)"
    )


def test_a_worker_that_ended_before_the_deadline() -> None:
    """It may have been replaced since, and so is not said to have held the run up."""
    killed = ended(1, 137, reason="OOMKilled")
    assert why(Run(LATE, (killed, ended(0, 75, message=told(75, "stopped", "told to stop")))))[0] == (
        "it was not done within its deadline of 600 s; before that: worker 1 ended with 137 (out-of-memory): "
        "the kernel killed the worker for memory, for its limit is 2Gi (2026-01-01T00:00:59Z)"
    )


def test_too_late_and_nothing_left() -> None:
    """After an hour the events are gone too; that is said, and no cause invented."""
    assert why(Run(LATE)) == [
        (
            "it was not done within its deadline of 600 s; its pods are gone, and what they said with them "
            "(2026-01-01T00:00:59Z)"
        ),
        "do: give it longer: retry with --deadline",
    ]


def test_queued_and_cancelled() -> None:
    """Kueue's queue and the `cancel` command are named."""
    run = Run(job())
    run.job["spec"]["suspend"] = True
    run.job["metadata"]["labels"][QUEUE_LABEL] = "night"
    assert why(run) == [
        "it waits in the queue night: Kueue does not let it run now",
        "do: nothing: Kueue starts it when there is room; see its Workload",
    ]
    run.job["metadata"]["annotations"] = {CANCELLED: "2026"}
    assert why(run) == [
        "it was cancelled, its checkpoint kept",
        "do: `mnist-job retry` takes it up again from its last checkpoint",
    ]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (
            Run(job(), (running(0), waiting(1, sandbox=True)), record=record("waiting", joined=1)),
            "it waits for worker 1, whose pod demo-1-aaaa0 gets its image on node-1",
        ),
        (
            Run(job(), BOTH, record=record("waiting", joined=1, message="1 of 2 workers joined")),
            "it waits for all of its 2 workers: 1 of 2 workers joined",
        ),
        (
            Run(job(), BOTH, record=record("restarting", reason="killed", message="the trainer was killed by SIGSEGV")),
            "worker 0 starts its trainer again (killed): the trainer was killed by SIGSEGV",
        ),
        (
            Run(job(), (*BOTH, ended(1, 137)), record=record("training", step=45, steps=100)),
            "nothing is wrong: training 45%; 1 of its pods ended before and was replaced",
        ),
    ],
)
def test_a_run_on_its_way(run: Run, said: str) -> None:
    """Which worker is waited for, or that nothing is wrong."""
    assert why(run) == [said]


def test_another_failure() -> None:
    """What the Job controller says is passed on where it is none of the known."""
    run = Run(job(2, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    assert why(run) == ["the Job failed: Job has reached the specified backoff limit (2026-01-01T00:00:59Z)"]
