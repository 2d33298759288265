"""The image under Kubeflow's training operator: examples/tfjob.yaml, with faults."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from job.errors import Exit
from k8s.render.render import setup_objects
from tests.cluster.namespace import ROOT, wait_until
from tests.cluster.systems import training_operator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s.api.objects import Object
    from tests.cluster.namespace import Namespace

STEPS = ("--epochs=100", "--evaluate-every=0")


@pytest.fixture(scope="module", autouse=True)
def operator(kind: str) -> Iterator[None]:
    """The operator, in the cluster."""
    objects = training_operator.install(kind)
    yield
    training_operator.remove(objects)


@pytest.fixture
def prepared(namespace: Namespace) -> Namespace:
    """A namespace with a claim and the setup's NetworkPolicy."""
    namespace.claim("output", "ReadWriteOnce", os.environ.get("RWO_CLASS"))
    for new in setup_objects():
        if new["kind"] == "NetworkPolicy":
            namespace.cluster.create(new)
    return namespace


def test_a_lost_worker_is_replaced_and_the_run_is_published(
    prepared: Namespace, undisturbed: Callable[..., dict[str, Any]]
) -> None:
    """SIGTERM ended it with 143; the model is that of a Job without a fault."""
    name = "first-worker-1"
    apply(prepared, *STEPS)
    wait_for_training(prepared)
    before = pod(prepared, name)
    prepared.kubectl("exec", name, "--", "python", "-c", "import os; os.kill(1, 15)")
    wait_until(lambda: is_replaced(prepared, name, before), f"another {name}")
    assert wait_for_end(prepared) == "Succeeded"
    assert prepared.result("first") == undisturbed(2, *STEPS)


@pytest.mark.parametrize("how", [["--wait=false"], ["--grace-period=0", "--force"]], ids=["deleted", "by force"])
def test_a_deleted_pod_fails_the_tfjob_and_the_next_one_continues(prepared: Namespace, how: list[str]) -> None:
    """The operator takes a pod that is being deleted as failed; another TFJob of the name continues the run."""
    apply(prepared, *STEPS)
    wait_for_training(prepared)
    prepared.kubectl("delete", "pod", "first-worker-1", *how)
    assert wait_for_end(prepared) == "Failed"
    prepared.kubectl("delete", "tfjob", "first", "--cascade=foreground")
    apply(prepared, *STEPS)
    assert wait_for_end(prepared) == "Succeeded"
    assert "phase=restoring" in prepared.kubectl("logs", "first-worker-0")


@pytest.mark.parametrize(
    ("flag", "code"), [("--epochs=0", Exit.USAGE), ("--min-accuracy=1", Exit.REJECTED)], ids=["refused", "rejected"]
)
def test_a_lasting_failure_fails_the_run_at_once(prepared: Namespace, flag: str, code: Exit) -> None:
    """No pod is replaced."""
    apply(prepared, "--epochs=1", flag)
    assert wait_for_end(prepared) == "Failed"

    def end_of_rank_0() -> Object | None:  # its pod may start and end after the TFJob's end
        [status] = pod(prepared, "first-worker-0")["status"].get("containerStatuses", [{"state": {}}])
        ended: Object | None = status["state"].get("terminated")
        return ended

    ended = wait_until(end_of_rank_0, "the end of rank 0")
    assert (ended["exitCode"], json.loads(ended["message"])["code"]) == (code, code)
    reasons = prepared.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}").split()
    assert "TFJobRestarting" not in reasons


def test_a_chief_is_rank_0(prepared: Namespace) -> None:
    """It publishes the model."""
    tfjob = example(prepared, "--epochs=1")
    replicas = tfjob["spec"]["tfReplicaSpecs"]
    replicas["Worker"]["replicas"] = 1
    replicas["Chief"] = replicas["Worker"]
    prepared.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(tfjob))
    assert wait_for_end(prepared) == "Succeeded"
    assert "rank=0 phase=published" in prepared.kubectl("logs", "first-chief-0")


def example(namespace: Namespace, *training: str) -> Object:
    """The TFJob of examples/tfjob.yaml, with these flags as well."""
    text = (ROOT / "examples/tfjob.yaml").read_text(encoding="utf-8")
    tfjob: Object = yaml.safe_load(text.replace("IMAGE", namespace.image).replace("CLAIM", namespace.output_claim))
    [container] = tfjob["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    container["args"] += training
    return tfjob


def apply(namespace: Namespace, *training: str) -> None:
    """Start the run of examples/tfjob.yaml."""
    namespace.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(example(namespace, *training)))


def pod(namespace: Namespace, name: str) -> Object:
    """A pod."""
    found = namespace.cluster.get("Pod", name)
    assert found, f"no pod {name}"
    return found


def is_replaced(namespace: Namespace, name: str, before: Object) -> bool:
    """Whether there is another pod of this name, whose container runs."""
    found = namespace.cluster.get("Pod", name)
    assert condition(namespace) != "Failed"
    return bool(
        found and found["metadata"]["uid"] != before["metadata"]["uid"] and found["status"]["phase"] == "Running"
    )


def wait_for_training(namespace: Namespace) -> None:
    """Wait until rank 0 trains, in the pod that there is now."""

    def trains() -> bool:
        assert condition(namespace) != "Failed"
        newest = namespace.kubectl("logs", "first-worker-0", "--tail=1", check=False)
        return "phase=training" in newest and " step=" in newest

    wait_until(trains, "the training")


def wait_for_end(namespace: Namespace) -> str:
    """Wait until the run has ended; returns its last condition."""
    ends = "Succeeded", "Failed"
    return wait_until(lambda: ended if (ended := condition(namespace)) in ends else None, "the end of the run")


def condition(namespace: Namespace) -> str:
    """The TFJob's newest condition that is true."""
    found = json.loads(namespace.kubectl("get", "tfjob", "first", "-o", "json")).get("status", {}).get("conditions", [])
    return next((each["type"] for each in reversed(found) if each["status"] == "True"), "")
