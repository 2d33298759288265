"""Causes that keep a run from starting or continuing: preflight reports them before, and `why` afterwards."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from k8s.render.render import GPU
from k8s.state.names import trainer_of
from tests.cluster.namespace import conditions, wait_until

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from tests.cluster.namespace import Breaker, Namespace


def assert_refused(namespace: Namespace, sentence: str, *flags: str) -> None:
    """`submit` exits with 2 and creates no Job; sentence is a regular expression for its output."""
    output = namespace.launcher("submit", *namespace.submission("refused", flags=flags), code=2)
    assert re.search(sentence, output), output
    assert namespace.cluster.get("Job", "refused") is None


def assert_explained(namespace: Namespace, job: Object, sentence: str) -> None:
    """`why` explains a Job that was created without preflight; sentence is a regular expression for its output."""
    namespace.send(job)
    name = job["metadata"]["name"]
    wait_until(lambda: re.search(sentence, namespace.why(name)), f"{sentence!r} instead of {namespace.why(name)!r}")
    namespace.kubectl("delete", "job", name, "--wait=false")


def test_image_that_does_not_exist(shared: Namespace) -> None:
    """The image does not exist on any node, and cannot be pulled."""
    job = shared.render("no-image", image="no-such-image:0")
    assert_explained(
        shared, job, r"worker 0 cannot pull the image no-such-image:0: .*\n?remedy: check the image's name"
    )


def test_nodes_too_small(shared: Namespace) -> None:
    """A worker requests more CPUs than any node has."""
    warning = r"warning +nodes: no node that accepts this job has room for 1 worker .999 cpu"
    assert re.search(warning, shared.launcher("preflight", *shared.submission("large", flags=["--cpu=999"])))
    sentence = r"worker 0 cannot be scheduled: .* too little cpu free; requested per worker: cpu 999"
    assert_explained(shared, shared.render("large", cpu="999"), sentence)


def test_no_gpu(shared: Namespace) -> None:
    """A worker requests a GPU in a cluster that has none."""
    flags = ["--overlay=gpu", "--cpu=100m"]
    warning = r"warning +gpus: no node has a GPU; the run waits for a suitable node; add a node with GPUs"
    assert re.search(warning, shared.launcher("preflight", *shared.submission("gpu", flags=flags)))
    sentence = r"worker 0 cannot be scheduled: .* no free GPU; requested per worker: .*\nremedy: add a node with GPUs"
    assert_explained(shared, shared.render("gpu", overlay="gpu", memory="1Gi"), sentence)


def test_a_node_without_the_gpu_that_it_advertises(shared: Namespace, breaker: Breaker) -> None:
    """A pod on a node that only advertises a GPU leaves it for another node; `why` names the node."""
    node = str(shared.nodes()[-1]["metadata"]["name"])
    breaker.advertise(node, 1)
    shared.submit("gpu", workers=1, flags=["--overlay=gpu", "--memory=1Gi"])
    shared.wait_until_failed("gpu")
    pods = shared.pods("gpu")
    assert len(pods) > 1
    for pod in pods:
        assert pod["spec"]["nodeName"] == node
        assert trainer_of(pod)["resources"]["limits"][GPU] == "1"
        assert "--device=gpu" in trainer_of(pod)["args"]
    output = shared.why("gpu")
    assert "worker 0 exited with 75 (no-gpu): --device gpu: TensorFlow finds no GPU on gpu-0, which has no" in output
    assert f"remedy: check the node: `kubectl describe node {node} " in output


def test_claim_missing(shared: Namespace) -> None:
    """The claim does not exist."""
    assert_refused(shared, r"failed +volume: the claim nowhere does not exist; create the claim", "--claim=nowhere")
    assert_explained(
        shared,
        shared.render("no-claim", claim="nowhere"),
        r"worker 0 cannot be scheduled: the claim nowhere does not exist .*\nremedy: create the claim",
    )


def test_read_write_once_over_two_nodes(shared: Namespace) -> None:
    """Only one node can use the claim, and the workers do not all fit there."""
    if len(shared.nodes()) < 2:
        pytest.skip("only one node accepts pods")
    shared.claim("once", "ReadWriteOnce", shared.storage_class)
    most = max(float(node["status"]["allocatable"]["cpu"].rstrip("m")) for node in shared.nodes())
    each = f"--cpu={most * 0.7:g}" if most < 1000 else f"--cpu={most * 0.7:g}m"
    warning = "warning +nodes: the volume needs all workers on one node, and no node has room for 2 workers"
    assert re.search(warning, shared.launcher("preflight", *shared.submission("once", flags=["--claim=once", each])))


def test_quota_exceeded(shared: Namespace) -> None:
    """The quota has room for one worker of two."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}}
    shared.kubectl("create", "-f", "-", stdin=json.dumps({**quota, "spec": {"hard": {"requests.cpu": "700m"}}}))
    wait_until(lambda: (shared.cluster.get("ResourceQuota", "small") or {}).get("status", {}).get("hard"), "the quota")
    assert_refused(shared, r"failed +quota: quota small has 0 of 700m requests\.cpu used; 2 workers would use 1 more")
    sentence = (
        r"in quota small, 500m of 700m requests\.cpu are used, and a worker requests 500m more .*\nremedy: request"
    )
    assert_explained(shared, shared.render("quota", workers=2), sentence)


def test_a_quota_of_no_services(namespace: Namespace) -> None:
    """A quota that refuses a part of the setup is named, and nothing is left behind."""
    namespace.kubectl("create", "quota", "few", "--hard=services=0")
    wait_until(lambda: (namespace.cluster.get("ResourceQuota", "few") or {}).get("status", {}).get("hard"), "the quota")
    sentence = (
        r"failed +setup: the API server would refuse the Service mnist-job: exceeded quota: few, .*raise the quota"
    )
    assert_refused(namespace, sentence)
    left = namespace.kubectl("get", "jobs,services,persistentvolumeclaims,networkpolicies,serviceaccounts", "-o=name")
    assert left.split() == ["serviceaccount/default"]


def test_restricted_violation(shared: Namespace) -> None:
    """The pods violate the namespace's Pod Security level."""
    job = shared.render("root")
    job["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = False
    sentence = r'the API server refuses the run\'s pods: violates PodSecurity "restricted.*\nremedy: keep the security'
    assert_explained(shared, job, sentence)


def test_deadline_passed(shared: Namespace) -> None:
    """`why` explains a run that missed its deadline by what it waited for."""
    shared.reader()  # so that the claim is bound, and nothing else is missing
    shared.send(shared.render("late", cpu="999", deadline_s=30))
    shared.wait_until_failed("late")
    output = shared.why("late")
    sentence = "the run did not finish within its deadline of 30 s; cause: a worker cannot be scheduled: "
    assert output.startswith(f"late: failed: deadline-exceeded\n{sentence}"), output
    assert "too little cpu free" in output


def with_container(job: Object, command: str, where: str = "containers") -> Object:
    """The Job with another container, which runs a command of the job's own image."""
    spec = job["spec"]["template"]["spec"]
    copied = {key: trainer_of(job["spec"]["template"])[key] for key in ("image", "imagePullPolicy", "securityContext")}
    spec.setdefault(where, []).append({**copied, "name": "added", "command": ["python", "-c", command]})
    return job


def test_a_container_that_goes_on_after_the_trainer(shared: Namespace) -> None:
    """The run is published, but its Job does not end: `status` and `why` name the container."""
    shared.send(with_container(shared.render("sidecar", "--epochs=1"), "import time; time.sleep(3600)"))
    said = r"worker 0 cannot end: the trainer ended with 0, but container added still runs, .*\nremedy: keep container"
    wait_until(lambda: re.search(said, shared.why("sidecar")), "the container that goes on")
    assert "ending 0 of 1 pods ended, container added still runs" in shared.launcher("status", "sidecar")
    shared.launcher("cancel", "sidecar")


def test_a_container_that_fails_beside_the_trainer(shared: Namespace) -> None:
    """The pod fails although the model is published; `why` names the container and its exit code."""
    shared.send(with_container(shared.render("broken", "--epochs=1"), "raise SystemExit(3)"))
    said = r"container added( of worker 0)? exited with 3.*\nremedy: `kubectl logs broken-0-.{5} -c added "
    wait_until(lambda: re.search(said, shared.why("broken")), "the container that failed")
    shared.launcher("cancel", "broken")


def test_an_init_container_that_waits_and_one_that_fails(shared: Namespace) -> None:
    """`why` names it, although it looks as if the trainer's image is pulled."""
    job = with_container(shared.render("waits"), "import time; time.sleep(3600)", "initContainers")
    assert_explained(shared, job, "worker 0 cannot start yet: init container added has not ended")
    job = with_container(shared.render("fails"), "raise SystemExit(3)", "initContainers")
    assert_explained(shared, job, r"worker 0 ended .container-failed.: init container added exited with 3")


def test_a_pod_on_a_dead_node(spread: Namespace, breaker: Breaker) -> None:
    """A worker on an unreachable node is not replaced; `why` names the node and the remedy."""
    spread.submit("run", "--epochs=100000", "--evaluate-every=0")
    spread.wait_for_step("run", 500)
    node = spread.pod("run", 1)["spec"]["nodeName"]
    breaker.cut(node)
    sentence = rf"worker 1 cannot be replaced before node {node}, which is unreachable, .*\nremedy: bring the node back"
    wait_until(lambda: re.search(sentence, spread.why("run")), "the dead node's name")


def test_running_and_suspended(shared: Namespace) -> None:
    """`why` says that nothing is wrong with a run that trains, and how to resume a suspended one."""
    shared.submit("run", "--epochs=100000", "--evaluate-every=0", workers=1)
    shared.wait_for_step("run", 500)
    assert re.search(r"^run: training \d+%\nnothing is wrong: training \d+%\n$", shared.why("run"))
    states: dict[str, Any] = shared.told("status")
    assert [(run["name"], run["state"].split()[0]) for run in states["runs"]] == [("run", "training")]
    shared.launcher("suspend", "run")
    wait_until(lambda: "Suspended" in conditions(shared.job("run")), "the suspension")
    assert shared.why("run").startswith(
        "run: suspended\nthe run is suspended; its checkpoint is kept\nremedy: `mnist-job resume run "
    )
