"""What keeps a run from starting or going on: preflight says it before, `why` afterwards, each in a sentence."""

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
    """`submit` refuses with 2 and a line, a regular expression, and makes no Job."""
    said = lab.launcher("submit", *lab.submission("refused", flags=flags), code=2)
    assert re.search(sentence, said), said
    assert lab.cluster.get("Job", "refused") is None


def stuck(lab: Lab, job: Object, sentence: str) -> None:
    """`why` comes to say a sentence, a regular expression, of a Job that is sent whatever preflight would say."""
    lab.send(job)
    name = job["metadata"]["name"]
    until(lambda: re.search(sentence, lab.why(name)), f"{sentence!r} instead of {lab.why(name)!r}", 60)
    lab.kubectl("delete", "job", name, "--wait=false")


def test_image_that_does_not_exist(shared: Lab) -> None:
    """An image that no node has or can get."""
    job = shared.render("no-image", image="no-such-image:0")
    stuck(shared, job, r"worker 0 cannot get its image no-such-image:0: .*\n?do: check the name and that the nodes may")


def test_nodes_too_small(shared: Lab) -> None:
    """A worker that asks for more CPU than any node has."""
    refused(
        shared, r"failed +nodes: no node that takes this job can hold a worker, which asks for 999 of cpu", "--cpu=999"
    )
    sentence = r"worker 0 has no node: .* too little cpu free; it asks for 999 of cpu"
    stuck(shared, shared.render("large", cpu="999"), sentence)


def test_no_gpu(shared: Lab) -> None:
    """A worker that asks for a GPU where no node has one."""
    refused(shared, r"failed +gpus: no node has a GPU; add a node with GPUs", "--overlay=gpu", "--cpu=100m")
    sentence = r"worker 0 has no node: .* no GPU free; it asks for .*\ndo: add a node with GPUs"
    stuck(shared, shared.render("gpu", overlay="gpu", memory="1Gi"), sentence)


def test_a_node_that_only_says_that_it_has_a_gpu(shared: Lab, breaker: Breaker) -> None:
    """The gpu overlay with the CPU image is scheduled where GPUs are advertised; the pod says that it finds none."""
    node = str(shared.nodes()[-1]["metadata"]["name"])
    breaker.advertise(node, 1)
    shared.submit("gpu", workers=1, flags=["--overlay=gpu", "--memory=1Gi"])
    shared.until_failed("gpu")
    [pod] = shared.pods("gpu")
    assert pod["spec"]["nodeName"] == node
    assert trainer_of(pod)["resources"]["limits"][GPU] == "1"
    assert "--device=gpu" in trainer_of(pod)["args"]
    assert r"worker 0 ended with 64 (usage): --device gpu: TensorFlow finds no GPU here" in shared.why("gpu")


def test_claim_missing(shared: Lab) -> None:
    """A claim that is not there."""
    refused(shared, r"failed +volume: there is no claim nowhere; make the claim", "--claim=nowhere")
    stuck(
        shared,
        shared.render("no-claim", claim="nowhere"),
        r"worker 0 has no node: there is no claim nowhere .*\ndo: make the claim",
    )


def test_read_write_once_over_two_nodes(shared: Lab) -> None:
    """A claim that one node alone can have, and more workers than fit there."""
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
    sentence = r"quota small has 500m of 700m requests\.cpu used, and a worker asks for 500m more .*\ndo: ask for less"
    stuck(shared, shared.render("quota", workers=2), sentence)


def test_restricted_violation(shared: Lab) -> None:
    """Pods that the namespace's Pod Security refuses."""
    job = shared.render("root")
    job["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = False
    sentence = r'the API server refuses its pods: violates PodSecurity "restricted.*\ndo: use the manifests\' own'
    stuck(shared, job, sentence)


def test_deadline_passed(shared: Lab) -> None:
    """A run that is not done within its deadline, and what it waited for."""
    shared.send(shared.render("late", cpu="999", deadline_s=3))
    shared.until_failed("late")
    said = shared.why("late")
    sentence = "it was not done within its deadline of 3 s; what held it up: a worker has no node: all"
    assert said.startswith(f"late: failed: deadline-exceeded\n{sentence}"), said


def test_a_pod_on_a_dead_node(shared: Lab, breaker: Breaker) -> None:
    """A worker whose node does not come back hangs in its end; `why` names the node and what to do."""
    if len(shared.nodes()) < 2:
        pytest.skip("this cluster has one node")
    shared.submit("run", "--epochs=100000", "--evaluate-every=0")
    shared.until_step("run", 500)
    node = shared.pod("run", 1)["spec"]["nodeName"]
    breaker.cut(node)
    sentence = rf"worker 1 waits for nothing but its end: its node {node} does not answer.*\ndo: bring the node back"
    until(lambda: re.search(sentence, shared.why("run")), "the dead node's name", 120)


def test_running_and_suspended(shared: Lab) -> None:
    """Of a run that is well, and of one that is suspended, `why` says that."""
    shared.submit("run", "--epochs=100000", "--evaluate-every=0", workers=1)
    shared.until_step("run", 500)
    assert re.search(r"^run: training \d+%\nnothing is wrong: training \d+%\n$", shared.why("run"))
    states: dict[str, Any] = json.loads(shared.launcher("status", "--output=json"))
    assert [(run["name"], run["state"].split()[0]) for run in states["runs"]] == [("run", "training")]
    shared.launcher("suspend", "run")
    until(lambda: "Suspended" in conditions(shared.job("run")), "the suspension")
    assert shared.why("run").startswith("run: suspended\nit is suspended, its checkpoint kept\ndo: `mnist-job resume`")
