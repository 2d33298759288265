"""A run in a queue of Kueue. The test itself admits and preempts the run, as Kueue would."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from k8s.state.names import QUEUE_LABEL, trainer_of
from tests.cluster.namespace import conditions, wait_until
from tests.cluster.test_faults import STEP, TRAINING, assert_same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.namespace import Namespace
    from tests.cluster.test_faults import Undisturbed

# Enough of Kueue's LocalQueue for the launcher, which checks only whether one of a name exists.
QUEUES = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "localqueues.kueue.x-k8s.io"},
    "spec": {
        "group": "kueue.x-k8s.io",
        "names": {"kind": "LocalQueue", "plural": "localqueues"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
QUEUE = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "LocalQueue", "metadata": {"name": "night"}}


@pytest.fixture
def queue(shared: Namespace) -> Iterator[str]:
    """The name of a queue in a cluster without Kueue."""
    if shared.kubectl("get", "crd", "localqueues.kueue.x-k8s.io", "--ignore-not-found"):
        pytest.skip("Kueue is installed in this cluster")
    shared.kubectl("create", "-f", "-", stdin=json.dumps(QUEUES))
    try:
        shared.kubectl("wait", "crd", "localqueues.kueue.x-k8s.io", "--for=condition=Established", "--timeout=600s")
        made = wait_until(
            lambda: shared.kubectl("create", "-f", "-", stdin=json.dumps(QUEUE), check=False), "the queue"
        )
        assert "localqueue.kueue.x-k8s.io/night created" in made
        yield "night"
    finally:
        shared.kubectl("delete", "crd", "localqueues.kueue.x-k8s.io")


FLAVOUR = "beta.kubernetes.io/os"  # a label of every node


def admit(namespace: Namespace, run: str) -> None:
    """Start a run on the nodes of a flavour, as Kueue does."""
    flavour = {"template": {"spec": {"nodeSelector": {FLAVOUR: "linux"}}}}
    namespace.cluster.patch("Job", namespace.job(run)["metadata"]["name"], {"spec": {"suspend": False, **flavour}})


def preempt(namespace: Namespace, run: str) -> None:
    """Suspend a run, and remove its start time and the flavour from its Job, as Kueue does."""
    namespace.cluster.patch("Job", run, {"spec": {"suspend": True}})
    namespace.kubectl(
        "patch", "job", run, "--subresource=status", "--type=merge", '--patch={"status":{"startTime":null}}'
    )
    namespace.cluster.patch("Job", run, {"spec": {"template": {"spec": {"nodeSelector": {FLAVOUR: None}}}}})


def state_and_why(namespace: Namespace, run: str) -> tuple[str, str]:
    """The state of a run, and the output of `why`."""
    state: dict[str, Any] = json.loads(namespace.launcher("status", run, "--output=json"))
    return state["state"], namespace.why(run)


def test_kueue_starts_and_preempts(shared: Namespace, undisturbed: Undisturbed, queue: str) -> None:
    """A run waits for Kueue, trains, is preempted, and resumes from its checkpoint when it is admitted again."""
    refusal = shared.launcher("submit", *shared.submission("run", flags=["--queue=day"]), code=2)
    assert "failed      queue: local queue day does not exist in namespace" in refusal
    shared.submit("run", *TRAINING, flags=[f"--queue={queue}"])
    job = shared.job("run")
    assert (job["spec"]["suspend"], job["metadata"]["labels"][QUEUE_LABEL]) == (True, queue)
    assert {"cpu", "memory"} <= trainer_of(job["spec"]["template"])["resources"]["requests"].keys()
    wait_until(lambda: "Suspended" in conditions(shared.job("run")), "the suspension")
    remedy = (
        "remedy: none needed if the queue only lacks room: Kueue starts the run once it has room; otherwise correct "
        f"what Kueue names; `kubectl describe workloads -n {shared.name}` shows the details\n"
    )
    sentence = f"the run waits in the queue {queue}: Kueue is not installed in this cluster, so nothing starts it"
    waits = ("queued", f"run: queued\n{sentence}\n{remedy}")
    assert state_and_why(shared, "run") == waits
    assert shared.pods("run") == []

    admit(shared, "run")
    shared.wait_for_step("run", STEP)
    state, sentence = state_and_why(shared, "run")
    assert state == "training"
    assert re.fullmatch(r"run: training \d+%\nnothing is wrong: training \d+%\n", sentence)
    for command in ("suspend", "resume"):
        assert f"Kueue decides when run runs: it is in the queue {queue}" in shared.launcher(command, "run", code=2)

    preempt(shared, "run")
    wait_until(lambda: not shared.pods("run"), "the end of the pods")
    assert state_and_why(shared, "run") == waits
    assert shared.launcher("status").splitlines()[1].split()[:2] == ["run", "queued"]

    admit(shared, "run")
    record = shared.wait_for_step("run", 1)
    assert (record.step or 0) > STEP
    assert_same(shared, undisturbed)

    # The new Job has nothing that the admission added to the last one, and Kueue can admit it.
    shared.launcher("retry", "run")
    job = shared.job("run")
    assert (job["metadata"]["name"], job["spec"]["suspend"]) == ("run-2", True)
    assert FLAVOUR not in job["spec"]["template"]["spec"]["nodeSelector"]
    assert shared.cluster.get("Job", "run") is None
    admit(shared, "run")
    shared.wait_until_published("run")


def test_a_schedule_asks_for_the_queue(shared: Namespace, queue: str) -> None:
    """The Jobs of a schedule have the queue's label and wait for Kueue; the schedule itself has no such label."""
    shared.launcher("schedule", "0 2 * * *", *shared.submission("nightly", flags=[f"--queue={queue}"]))
    made = shared.cluster.get("CronJob", "nightly")
    assert made
    assert QUEUE_LABEL not in made["metadata"]["labels"]
    shared.kubectl("create", "job", "by-hand", "--from=cronjob/nightly")
    job = shared.job("by-hand")
    assert (job["spec"]["suspend"], job["metadata"]["labels"][QUEUE_LABEL]) == (True, queue)
