"""What keeps a run from starting or continuing: preflight reports it before, `why` afterwards."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from k8s.render.render import GPU
from k8s.state.names import trainer_of
from tests.cluster.lab import conditions, until

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from tests.cluster.lab import Breaker, Lab


def refused(lab: Lab, sentence: str, *flags: str) -> None:
    """`submit` exits with 2 and creates no Job; sentence is a regular expression for its output."""
    said = lab.launcher("submit", *lab.submission("refused", flags=flags), code=2)
    assert re.search(sentence, said), said
    assert lab.cluster.get("Job", "refused") is None


def stuck(lab: Lab, job: Object, sentence: str) -> None:
    """`why` explains a Job that is created without preflight; sentence is a regular expression for its output."""
    lab.send(job)
    name = job["metadata"]["name"]
    until(lambda: re.search(sentence, lab.why(name)), f"{sentence!r} instead of {lab.why(name)!r}", 60)
    lab.kubectl("delete", "job", name, "--wait=false")


def test_image_that_does_not_exist(shared: Lab) -> None:
    """An image that no node has or can pull."""
    job = shared.render("no-image", image="no-such-image:0")
    stuck(shared, job, r"worker 0 cannot pull the image no-such-image:0: .*\n?remedy: check the image's name")


def test_nodes_too_small(shared: Lab) -> None:
    """A worker that requests more CPU than any node has."""
    refused(shared, r"failed +nodes: no node that accepts this job has room for 1 worker .999 cpu", "--cpu=999")
    sentence = r"worker 0 cannot be scheduled: .* too little cpu free; requested per worker: cpu 999"
    stuck(shared, shared.render("large", cpu="999"), sentence)


def test_no_gpu(shared: Lab) -> None:
    """A worker that requests a GPU in a cluster without any."""
    refused(shared, r"failed +gpus: no node has a GPU; add a node with GPUs", "--overlay=gpu", "--cpu=100m")
    sentence = r"worker 0 cannot be scheduled: .* no free GPU; requested per worker: .*\nremedy: add a node with GPUs"
    stuck(shared, shared.render("gpu", overlay="gpu", memory="1Gi"), sentence)


def test_a_node_that_advertises_a_gpu_that_it_lacks(shared: Lab, breaker: Breaker) -> None:
    """The gpu overlay with the CPU image is scheduled where GPUs are advertised; the pod reports that it finds none."""
    node = str(shared.nodes()[-1]["metadata"]["name"])
    breaker.advertise(node, 1)
    shared.submit("gpu", workers=1, flags=["--overlay=gpu", "--memory=1Gi"])
    shared.until_failed("gpu")
    [pod] = shared.pods("gpu")
    assert pod["spec"]["nodeName"] == node
    assert trainer_of(pod)["resources"]["limits"][GPU] == "1"
    assert "--device=gpu" in trainer_of(pod)["args"]
    assert r"worker 0 exited with 64 (usage): --device gpu: TensorFlow finds no GPU here" in shared.why("gpu")


def test_claim_missing(shared: Lab) -> None:
    """A claim that does not exist."""
    refused(shared, r"failed +volume: the claim nowhere does not exist; create the claim", "--claim=nowhere")
    stuck(
        shared,
        shared.render("no-claim", claim="nowhere"),
        r"worker 0 cannot be scheduled: the claim nowhere does not exist .*\nremedy: create the claim",
    )


def test_read_write_once_over_two_nodes(shared: Lab) -> None:
    """A claim that only one node can use, and more workers than fit there."""
    if len(shared.nodes()) < 2:
        pytest.skip("this cluster has one node")
    shared.claim("once", "ReadWriteOnce", shared.storage_class)
    most = max(float(node["status"]["allocatable"]["cpu"].rstrip("m")) for node in shared.nodes())
    each = f"--cpu={most * 0.7:g}" if most < 1000 else f"--cpu={most * 0.7:g}m"
    refused(shared, r"failed +nodes: no node alone, as the volume needs, can hold 2 workers", each)


def test_quota_exceeded(shared: Lab) -> None:
    """A quota with room for one worker of two."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}}
    shared.kubectl("create", "-f", "-", given=json.dumps({**quota, "spec": {"hard": {"requests.cpu": "700m"}}}))
    until(lambda: (shared.cluster.get("ResourceQuota", "small") or {}).get("status", {}).get("hard"), "the quota")
    refused(shared, r"failed +quota: quota small has 0 of 700m requests\.cpu used, and 2 workers ask for 1 more")
    sentence = (
        r"in quota small, 500m of 700m requests\.cpu are used, and a worker requests 500m more .*\nremedy: request"
    )
    stuck(shared, shared.render("quota", workers=2), sentence)


def test_restricted_violation(shared: Lab) -> None:
    """Pods that violate the namespace's Pod Security level."""
    job = shared.render("root")
    job["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = False
    sentence = r'the API server refuses the run\'s pods: violates PodSecurity "restricted.*\nremedy: keep the security'
    stuck(shared, job, sentence)


def test_deadline_passed(shared: Lab) -> None:
    """A run that does not finish within its deadline, and what it waited for."""
    shared.send(shared.render("late", cpu="999", deadline_s=3))
    shared.until_failed("late")
    said = shared.why("late")
    sentence = "the run did not finish within its deadline of 3 s; cause: a worker cannot be scheduled: all"
    assert said.startswith(f"late: failed: deadline-exceeded\n{sentence}"), said


def test_a_pod_on_a_dead_node(shared: Lab, breaker: Breaker) -> None:
    """A worker whose node does not come back is never replaced; `why` names the node and the remedy."""
    if len(shared.nodes()) < 2:
        pytest.skip("this cluster has one node")
    shared.submit("run", "--epochs=100000", "--evaluate-every=0")
    shared.until_step("run", 500)
    node = shared.pod("run", 1)["spec"]["nodeName"]
    breaker.cut(node)
    sentence = rf"worker 1 cannot be replaced before node {node}, which is unreachable, .*\nremedy: bring the node back"
    until(lambda: re.search(sentence, shared.why("run")), "the dead node's name", 120)


def test_running_and_suspended(shared: Lab) -> None:
    """`why` about a run without problems, and about one that is suspended."""
    shared.submit("run", "--epochs=100000", "--evaluate-every=0", workers=1)
    shared.until_step("run", 500)
    assert re.search(r"^run: training \d+%\nnothing is wrong: training \d+%\n$", shared.why("run"))
    states: dict[str, Any] = json.loads(shared.launcher("status", "--output=json"))
    assert [(run["name"], run["state"].split()[0]) for run in states["runs"]] == [("run", "training")]
    shared.launcher("suspend", "run")
    until(lambda: "Suspended" in conditions(shared.job("run")), "the suspension")
    assert shared.why("run").startswith(
        "run: suspended\nthe run is suspended; its checkpoint is kept\nremedy: `mnist-job resume run "
    )
