"""The checks of quotas, nodes, GPUs and memory."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from k8s.api.errors import ApiError
from k8s.checks import capacity
from k8s.checks.check import Check
from k8s.diagnose import catalogue
from k8s.render.render import GPU
from k8s.state.names import trainer_of
from tests.k8s.checks.cluster import CheckedCluster, named, node, pod_on

if TYPE_CHECKING:
    from k8s.api.objects import Object

SCHEDULING = catalogue.remedy("scheduling")


QUOTA = catalogue.remedy("quota")


WAIT = "wait, or request less (--cpu, --memory, --workers)"


EACH = "(500m cpu, 1Gi memory each)"


TAINT = {"key": "team", "value": "vision", "effect": "NoSchedule"}


STATUS = named("ConfigMap", "cluster-autoscaler-status")


WAITS = "the run waits for the cluster's autoscaler; if that adds no suitable node"


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> Object:
    """A quota."""
    return named("ResourceQuota", "small", spec=spec, status={"hard": hard, "used": used or {}})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (quota({"requests.cpu": "1", "limits.memory": "4Gi", "pods": "2", "secrets": "0"}), None),
        (
            quota({"requests.cpu": "1200m"}, {"requests.cpu": "300m"}),
            "quota small has 300m of 1200m requests.cpu used; 2 workers would use 1 more",
        ),
        (
            quota({"memory": "2Gi"}, {"memory": "512Mi"}),
            "quota small has 512Mi of 2Gi memory used; 2 workers would use 2Gi more",
        ),
        (
            quota({"limits.cpu": "3"}),
            "quota small has 0 of 3 limits.cpu used; 2 workers would use 4 more",
        ),
        (
            quota({"count/pods": "2"}, {"count/pods": "1"}),
            "quota small has 1 of 2 count/pods used; 2 workers would use 2 more",
        ),
        (quota({"pods": "0"}, scopes=["Terminating"]), None),
        (quota({"pods": "0"}, scopeSelector={"matchExpressions": []}), None),
        (
            quota({"pods": "1"}, scopes=["NotTerminating"]),
            "quota small has 0 of 1 pods used; 2 workers would use 2 more",
        ),
    ],
)
def test_quota(job: Object, found: Object, message: str | None) -> None:
    """All workers together must fit into each quota that applies to them."""
    expected = Check("quota", "ok", "room for 2 workers")
    if message:
        expected = Check("quota", "failed", message, QUOTA)
    assert capacity.check_quota(CheckedCluster(found).given(), job) == expected


@pytest.mark.parametrize(
    ("nodes", "one_node", "state", "message", "remedy"),
    [
        ([node("a")], True, "ok", "room for 2 workers (500m cpu, 1Gi memory each)", ""),
        (
            [node("a", "600m"), node("b", "600m")],
            False,
            "ok",
            "room for 2 workers (500m cpu, 1Gi memory each)",
            "",
        ),
        (
            [node("a", "600m"), node("b", "600m")],
            True,
            "failed",
            f"the volume needs all workers on one node, and no node has room for 2 workers {EACH}",
            SCHEDULING,
        ),
        (
            [node("a", "400m"), node("b", "400m")],
            False,
            "failed",
            "no node that accepts this job has room for 1 worker (500m cpu, 1Gi memory)",
            SCHEDULING,
        ),
        ([node("a", "900m")], False, "failed", f"the cluster has no room for 2 workers {EACH}", SCHEDULING),
        (
            [node("a", ready=False), node("b", unschedulable=True), node("c", taints=[TAINT])],
            False,
            "failed",
            "no ready node accepts this job's pods: the labels or taints of the nodes do not match",
            SCHEDULING,
        ),
        (
            [node("a", taints=[{**TAINT, "effect": "PreferNoSchedule"}])],
            False,
            "ok",
            "room for 2 workers (500m cpu, 1Gi memory each)",
            "",
        ),
        (
            [node("a", "1"), node("b", "1"), pod_on("a", "900m"), pod_on("b", "300m", "another")],
            False,
            "warning",
            "there is room for 1 of 2 workers now; the run waits for the rest",
            WAIT,
        ),
        (
            [node("a", "1"), node("b", "1"), pod_on("a", "100m"), pod_on("", "4", "waiting")],
            True,
            "ok",
            "room for 2 workers (500m cpu, 1Gi memory each)",
            "",
        ),
        (
            [node("a", "1"), node("b", "900m"), pod_on("a", "100m")],
            True,
            "warning",
            "there is room for 1 of 2 workers now; the run waits for the rest",
            WAIT,
        ),
    ],
)
def test_nodes(job: Object, nodes: list[Object], one_node: bool, state: str, message: str, remedy: str) -> None:
    """The nodes that accept the job have room for all workers; a single node, if the volume needs that."""
    found = capacity.check_nodes(CheckedCluster(*nodes).given(), job, one_node=one_node)
    assert found == Check("nodes", state, message, remedy)


def test_nodes_where_pods_may_not_be_asked_for(job: Object) -> None:
    """If pods may not be listed, free room is not checked, but a node that is too small still fails."""
    message = 'pods is forbidden: User "u" cannot list resource "pods"'
    cluster = CheckedCluster(node("a"), forbidden=["Pod"]).given()
    told = f"the nodes are large enough; this user may not read how much of them is free: {message}"
    assert capacity.check_nodes(cluster, job, one_node=True) == Check("nodes", "not checked", told)
    small = CheckedCluster(node("a", "100m"), forbidden=["Pod"]).given()
    assert capacity.check_nodes(small, job, one_node=True).failed


def test_node_selector_and_tolerations(job: Object) -> None:
    """A node selector and tolerations decide which nodes count."""
    spec = job["spec"]["template"]["spec"]
    spec["nodeSelector"] = {"disk": "ssd"}
    labelled = node("a", labels={"disk": "ssd"}, taints=[TAINT])
    tolerations = [
        ({"key": "team", "operator": "Equal", "value": "vision", "effect": "NoSchedule"}, True),
        ({"key": "team", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "team", "value": "speech"}, False),
        ({"key": "team", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ]
    for toleration, takes in tolerations:
        spec["tolerations"] = [toleration]
        assert capacity.accepts(labelled, job["spec"]["template"]) == takes
        assert not capacity.accepts(node("b", taints=[TAINT]), job["spec"]["template"])


@pytest.mark.parametrize(
    ("nodes", "state", "message", "remedy"),
    [
        ([node("a", gpus=1), node("b", gpus=2), node("c")], "ok", "3 on nodes that accept this job", ""),
        (
            [node("a")],
            "failed",
            "no node has a GPU",
            catalogue.remedy("gpu"),
        ),
        (
            [node("a", gpus=1, taints=[TAINT]), node("b", gpus=1, ready=False)],
            "failed",
            "the nodes with GPUs (a, b) are not ready, or do not accept this job's pods",
            "`kubectl describe node` shows their taints and labels",
        ),
        (
            [node("a", gpus=1, taints=[{"key": GPU, "effect": "NoSchedule", "value": "present"}])],
            "ok",
            "1 on nodes that accept this job",
            "",
        ),
    ],
)
def test_gpus(gpu_job: Object, nodes: list[Object], state: str, message: str, remedy: str) -> None:
    """Only GPUs on nodes that accept the job count."""
    assert capacity.check_gpus(CheckedCluster(*nodes).given(), gpu_job) == Check("gpus", state, message, remedy)


@pytest.mark.parametrize(
    ("more", "forbidden", "state"),
    [
        ([STATUS], [], "warning"),
        ([named("NodePool", "default")], [], "warning"),
        ([], ["ConfigMap"], "warning"),
        ([], ["NodePool"], "warning"),
        ([named("ConfigMap", "other")], [], "failed"),
    ],
    ids=["the Cluster Autoscaler's", "Karpenter's", "unseen configmaps", "unseen pools", "none"],
)
def test_nodes_that_come_by_themselves(gpu_job: Object, more: list[Object], forbidden: list[str], state: str) -> None:
    """Without a suitable node, an autoscaler makes it a warning; so does one that may exist but cannot be read."""
    cluster = CheckedCluster(*more, forbidden=forbidden).given()
    gpu = catalogue.remedy("gpu")
    expected = {
        "nodes": ("no ready node accepts this job's pods: the labels or taints of the nodes do not match", SCHEDULING),
        "gpus": ("no node has a GPU", gpu),
    }
    found = [capacity.check_nodes(cluster, gpu_job, one_node=False), capacity.check_gpus(cluster, gpu_job)]
    waits = f"{WAITS}: " if state == "warning" else ""
    assert found == [Check(name, state, told, waits + remedy) for name, (told, remedy) in expected.items()]


def test_nodes_without_karpenter(job: Object) -> None:
    """A missing API means no autoscaler; a failing API server is an error."""
    cluster = CheckedCluster()
    for code, raises in ((404, False), (500, True)):
        cluster.listed["NodePool"] = ApiError(code, "", "no", "list them")
        with pytest.raises(ApiError) if raises else nullcontext():
            assert capacity.check_nodes(cluster.given(), job, one_node=False).failed


def test_nodes_of_a_queue(job: Object) -> None:
    """For a run in a queue, missing room is a warning: Kueue finds it."""
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "night"
    found = capacity.check_nodes(CheckedCluster(node("a", "100m")).given(), job, one_node=False)
    message = "no node that accepts this job has room for 1 worker (500m cpu, 1Gi memory)"
    remedy = f"Kueue starts the run once it finds room; if it never does: {SCHEDULING}"
    assert found == Check("nodes", "warning", message, remedy)


@pytest.mark.parametrize(
    ("limit", "state", "message"),
    [
        ("1Gi", "ok", "a worker's limit is 1Gi"),
        ("850M", "ok", "a worker's limit is 850M"),
        ("512Mi", "warning", "a worker's limit is 512Mi; a worker uses up to 850 MB"),
        ("450Mi", "failed", "a worker's limit is 450Mi; TensorFlow needs more than 450Mi"),
        ("2", "failed", "a worker's limit is 2; TensorFlow needs more than 450Mi"),
        (None, "ok", "a worker has no limit"),
    ],
)
def test_memory(job: Object, limit: str | None, state: str, message: str) -> None:
    """A limit too low for TensorFlow fails; one that may be too low is a warning."""
    limits = trainer_of(job["spec"]["template"])["resources"]["limits"]
    del limits["memory"]
    limits |= {"memory": limit} if limit else {}
    remedy = "" if state == "ok" else "raise it with --memory 1Gi"
    assert capacity.check_memory(job) == Check("memory", state, message, remedy)
