"""A run in a queue of Kueue's, whose part the test plays: it lets the run start, and takes its place away again."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from k8s.state.names import QUEUE_LABEL, trainer_of
from tests.cluster.lab import conditions, until
from tests.cluster.test_faults import STEP, TRAINING, assert_same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.lab import Lab
    from tests.cluster.test_faults import Quiet

# Kueue's kind as far as the launcher looks at it: whether there is one of a name.
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
def queue(shared: Lab) -> Iterator[str]:
    """The name of a queue; nobody but the test minds it."""
    if shared.kubectl("get", "crd", "localqueues.kueue.x-k8s.io", "--ignore-not-found"):
        pytest.skip("this cluster has a Kueue of its own")
    shared.kubectl("create", "-f", "-", given=json.dumps(QUEUES))
    try:
        shared.kubectl("wait", "crd", "localqueues.kueue.x-k8s.io", "--for=condition=Established", "--timeout=60s")
        made = until(lambda: shared.kubectl("create", "-f", "-", given=json.dumps(QUEUE), check=False), "the queue", 60)
        assert "localqueue.kueue.x-k8s.io/night created" in made
        yield "night"
    finally:
        shared.kubectl("delete", "crd", "localqueues.kueue.x-k8s.io")


def admit(lab: Lab, run: str) -> None:
    """Let a run start, on nodes of a flavour, as Kueue does."""
    flavour = {"template": {"spec": {"nodeSelector": {"kubernetes.io/os": "linux"}}}}
    lab.cluster.patch("Job", lab.job(run)["metadata"]["name"], {"spec": {"suspend": False, **flavour}})


def preempt(lab: Lab, run: str) -> None:
    """Take a run's place away, as Kueue does: the start is forgotten, and the pods' template as it was."""
    lab.cluster.patch("Job", run, {"spec": {"suspend": True}})
    lab.kubectl("patch", "job", run, "--subresource=status", "--type=merge", '--patch={"status":{"startTime":null}}')
    lab.cluster.patch("Job", run, {"spec": {"template": {"spec": {"nodeSelector": None}}}})


def told(lab: Lab, run: str) -> tuple[str, str]:
    """The state of a run, and what `why` says of it."""
    state: dict[str, Any] = json.loads(lab.launcher("status", run, "--output=json"))
    return state["state"], lab.why(run)


def test_kueue_starts_and_preempts(shared: Lab, quiet: Quiet, queue: str) -> None:
    """A run waits for Kueue, trains, loses its place with its checkpoint kept, and goes on from there: the same."""
    refusal = shared.launcher("submit", *shared.submission("run", flags=["--queue=day"]), code=2)
    assert "failed      queue: local queue day does not exist in namespace" in refusal
    shared.submit("run", *TRAINING, flags=[f"--queue={queue}"])
    job = shared.job("run")
    assert (job["spec"]["suspend"], job["metadata"]["labels"][QUEUE_LABEL]) == (True, queue)
    assert {"cpu", "memory"} <= trainer_of(job["spec"]["template"])["resources"]["requests"].keys()
    until(lambda: "Suspended" in conditions(shared.job("run")), "the suspension")
    remedy = (
        "remedy: none needed: Kueue starts it when its queue has room; "
        f"`kubectl describe workloads -n {shared.namespace}` shows what it waits for\n"
    )
    lines = ["run: queued", f"the run waits in the queue {queue}: Kueue has not admitted it yet", remedy]
    waits = ("queued", "\n".join(lines))
    assert told(shared, "run") == waits
    assert shared.pods("run") == []

    admit(shared, "run")
    shared.until_step("run", STEP)
    state, sentence = told(shared, "run")
    assert state == "training"
    assert re.fullmatch(r"run: training \d+%\nnothing is wrong: training \d+%\n", sentence)
    for command in ("suspend", "resume"):
        assert f"Kueue decides when run runs, for it is in the queue {queue}" in shared.launcher(command, "run", code=2)

    preempt(shared, "run")
    until(lambda: not shared.pods("run"), "the pods' end")
    assert told(shared, "run") == waits
    assert shared.launcher("status").splitlines()[1].split()[:2] == ["run", "queued"]

    admit(shared, "run")
    record = shared.until_step("run", 1)
    assert (record.step or 0) > STEP
    assert_same(shared, quiet)

    # The next Job has nothing of what admission added to the one before, and Kueue admits it like any other.
    shared.launcher("retry", "run")
    job = shared.job("run")
    assert (job["metadata"]["name"], job["spec"]["suspend"]) == ("run-2", True)
    assert "nodeSelector" not in job["spec"]["template"]["spec"]
    assert shared.cluster.get("Job", "run") is None
    admit(shared, "run")
    shared.until_published("run")


def test_a_schedule_asks_for_the_queue(shared: Lab, queue: str) -> None:
    """The Jobs of a schedule wait for Kueue as any, for what makes them has the label; the schedule itself has not."""
    shared.launcher("schedule", "0 2 * * *", *shared.submission("nightly", flags=[f"--queue={queue}"]))
    made = shared.cluster.get("CronJob", "nightly")
    assert made
    assert QUEUE_LABEL not in made["metadata"]["labels"]
    shared.kubectl("create", "job", "by-hand", "--from=cronjob/nightly")
    job = shared.job("by-hand")
    assert (job["spec"]["suspend"], job["metadata"]["labels"][QUEUE_LABEL]) == (True, queue)
