"""The checks of quotas, nodes, GPUs and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from job.errors import JobError
from k8s.checks import capacity
from k8s.checks.capacity import amount
from k8s.checks.check import Check
from k8s.checks.matching import accepts
from k8s.diagnose import catalogue
from k8s.render.render import GPU
from k8s.state.names import trainer_of
from tests.k8s.checks.cluster import CheckedCluster, named, node, pod_on

if TYPE_CHECKING:
    from k8s.api.objects import Object

WAITS = "the run waits for a suitable node"


SCHEDULING = f"{WAITS}; {catalogue.remedy('scheduling')}"


ONE_NODE = ("kubernetes.io/hostname",)


QUOTA = catalogue.remedy("quota")


WAIT = "wait, or request less (--cpu, --memory, --workers)"


EACH = "(500m cpu, 1Gi memory each)"


TAINT = {"key": "team", "value": "vision", "effect": "NoSchedule"}


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


def test_a_run_that_can_do_with_fewer_workers_is_not_refused(job: Object) -> None:
    """If the quota has room for as many as it needs; else it is. A run with fewer trains, and does not wait."""
    trainer_of(job["spec"]["template"])["args"].append("--min-workers=1")
    for most, state in (("1", "warning"), ("0", "failed")):
        assert capacity.check_quota(CheckedCluster(quota({"pods": most})).given(), job).state == state
    cluster = CheckedCluster(node("a", "1"), pod_on("a", "500m")).given()
    assert "the run trains with fewer workers until there is more room" in capacity.check_nodes(cluster, job).message


@pytest.mark.parametrize(
    ("nodes", "together", "state", "message", "remedy"),
    [
        ([node("a")], ONE_NODE, "ok", "room for 2 workers (500m cpu, 1Gi memory each)", ""),
        (
            [node("a", "600m"), node("b", "600m")],
            (),
            "ok",
            "room for 2 workers (500m cpu, 1Gi memory each)",
            "",
        ),
        (
            [node("a", "600m"), node("b", "600m")],
            ONE_NODE,
            "warning",
            f"the volume needs all workers on one node, and no node has room for 2 workers {EACH}",
            SCHEDULING,
        ),
        (
            [node("a", "400m"), node("b", "400m")],
            (),
            "warning",
            "no node that accepts this job has room for 1 worker (500m cpu, 1Gi memory)",
            SCHEDULING,
        ),
        ([node("a", "900m")], (), "warning", f"the cluster has no room for 2 workers {EACH}", SCHEDULING),
        (
            [node("a", ready=False), node("b", unschedulable=True), node("c", taints=[TAINT])],
            (),
            "warning",
            (
                "no ready node accepts this job's pods: the labels or taints of the nodes do not match; "
                "node selector: kubernetes.io/arch=amd64, kubernetes.io/os=linux"
            ),
            SCHEDULING,
        ),
        (
            [node("a", taints=[{**TAINT, "effect": "PreferNoSchedule"}])],
            (),
            "ok",
            "room for 2 workers (500m cpu, 1Gi memory each)",
            "",
        ),
        (
            [node("a", "1"), node("b", "1"), pod_on("a", "900m"), pod_on("b", "300m", "another")],
            (),
            "warning",
            "there is room for 1 of 2 workers now; the run waits for the rest, and fails after about 60 minutes",
            WAIT,
        ),
        (
            [node("a", "1"), node("b", "1"), pod_on("a", "100m"), pod_on("", "4", "waiting")],
            ONE_NODE,
            "ok",
            "room for 2 workers (500m cpu, 1Gi memory each)",
            "",
        ),
        (
            [node("a", "1"), node("b", "900m"), pod_on("a", "100m")],
            ONE_NODE,
            "warning",
            "there is room for 1 of 2 workers now; the run waits for the rest, and fails after about 60 minutes",
            WAIT,
        ),
    ],
)
def test_nodes(
    job: Object, nodes: list[Object], together: tuple[str, ...], state: str, message: str, remedy: str
) -> None:
    """The nodes that accept the job have room for all workers; a single node, if the volume needs that."""
    found = capacity.check_nodes(CheckedCluster(*nodes).given(), job, together)
    assert found == Check("nodes", state, message, remedy)


def test_nodes_where_pods_may_not_be_asked_for(job: Object) -> None:
    """If pods may not be listed, free room is not checked, but a node that is too small is still a warning."""
    message = 'pods is forbidden: User "u" cannot list resource "pods"'
    cluster = CheckedCluster(node("a"), forbidden=["Pod"]).given()
    told = f"the nodes are large enough; this user may not read how much of them is free: {message}"
    assert capacity.check_nodes(cluster, job, ONE_NODE) == Check("nodes", "not checked", told)
    small = CheckedCluster(node("a", "100m"), forbidden=["Pod"]).given()
    assert capacity.check_nodes(small, job, ONE_NODE).state == "warning"


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
        assert accepts(labelled, job["spec"]["template"]) == takes
        assert not accepts(node("b", taints=[TAINT]), job["spec"]["template"])


@pytest.mark.parametrize(
    ("nodes", "state", "message", "remedy"),
    [
        ([node("a", gpus=1), node("b", gpus=2), node("c")], "ok", "3 on nodes that accept this job", ""),
        (
            [node("a")],
            "warning",
            "no node has a GPU",
            f"{WAITS}; {catalogue.remedy('gpu')}",
        ),
        (
            [node("a", gpus=1, taints=[TAINT]), node("b", gpus=1, ready=False)],
            "warning",
            "the nodes with GPUs (a, b) are not ready, or do not accept this job's pods",
            f"{WAITS}; `kubectl describe node` shows their taints and labels",
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


def test_what_is_no_quantity() -> None:
    """An overlay's typing error is one sentence."""
    with pytest.raises(JobError) as refused:
        amount("2GB")
    assert str(refused.value) == "'2GB' is not a Kubernetes quantity; write, for example, 500m, 2 or 1Gi"
