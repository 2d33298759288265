"""What preflight says about the nodes, with everything that the scheduler would look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from k8s.checks import preflight
from k8s.render import render
from k8s.render.render import GPU
from tests.k8s.checks.cluster import CheckedCluster, claim, named, node, pod_on

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from k8s.checks.check import Check

ZONE, ARCH = "topology.kubernetes.io/zone", "kubernetes.io/arch"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
OWN = {"labelSelector": {"matchLabels": {"app.kubernetes.io/name": "mnist-job"}}}


def check_of(name: str, job: Object, *objects: Object, mode: str = "ReadWriteMany", volume: str = "") -> Check:
    """One of preflight's checks of a Job in a cluster with these objects."""
    found = claim(mode)
    found["spec"] |= {"volumeName": volume} if volume else {}
    cluster = CheckedCluster(*objects, found)
    return {check.name: check for check in preflight.check_all(cluster.given(), job, found)}[name]


def node_affinity(key: str, operator: str, *values: str) -> Object:
    """A node affinity with one requirement."""
    requirement = {"key": key, "operator": operator} | ({"values": list(values)} if values else {})
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}


@pytest.mark.parametrize("more", [[], [named("ConfigMap", "cluster-autoscaler-status")]], ids=["alone", "autoscaled"])
@pytest.mark.parametrize("nodes", [[], [node("a", "100m")], [node("a", "600m")], [node("a", gpus=0)]])
def test_nodes_are_never_a_reason_to_refuse(job: Object, gpu_job: Object, nodes: list[Object], more: Any) -> None:
    """Only the scheduler knows where a pod fits, and nodes come and go: nothing about nodes or GPUs fails."""
    for each in (job, gpu_job):
        for name in ("nodes", "gpus"):
            assert check_of(name, each, *nodes, *more).state in ("ok", "warning")
    assert check_of("gpus", gpu_job, *nodes).state == "warning"


@pytest.mark.parametrize(
    ("zones", "state"),
    [(("x", "x"), "ok"), (("x", "y"), "warning"), ((None, None), "warning")],
    ids=["one zone", "two zones", "no zones"],
)
def test_an_affinity_by_zone(job: Object, zones: tuple[str | None, str | None], state: str) -> None:
    """Workers that must share a zone may be on any nodes of that zone."""
    job["spec"]["template"]["spec"]["affinity"] = {"podAffinity": {REQUIRED: [{"topologyKey": ZONE, **OWN}]}}
    nodes = [node(name, "600m", labels={ZONE: zone} if zone else {}) for name, zone in zip("ab", zones, strict=True)]
    found = check_of("nodes", job, *nodes)
    assert found.state == state
    if state == "warning":
        told = f"all workers need nodes with the same {ZONE}, and no such nodes have room for 2 workers"
        assert found.message == f"{told} (500m cpu, 1Gi memory each)"


def test_an_affinity_to_pods_of_others(job: Object) -> None:
    """An affinity to pods other than the run's does not place the workers on one node."""
    others = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "cache"}}}
    job["spec"]["template"]["spec"]["affinity"] = {"podAffinity": {REQUIRED: [others]}}
    assert check_of("nodes", job, node("a", "600m"), node("b", "600m")).state == "ok"


@pytest.mark.parametrize(
    ("operator", "values", "accepted"),
    [
        ("In", ["2", "3"], True),
        ("In", ["1"], False),
        ("NotIn", ["2"], False),
        ("NotIn", ["1"], True),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
        ("Gt", ["1"], True),
        ("Gt", ["2"], False),
        ("Lt", ["3"], True),
        ("Lt", ["2"], False),
    ],
)
def test_a_node_affinity(job: Object, operator: str, values: list[str], accepted: bool) -> None:
    """Nodes that the pods' node affinity rules out do not count."""
    job["spec"]["template"]["spec"]["affinity"] = node_affinity("generation", operator, *values)
    found = check_of("nodes", job, node("a", labels={"generation": "2"}))
    assert (found.state == "ok") is accepted


def test_nodes_of_another_architecture(job: Object) -> None:
    """A node of an architecture or an operating system that the image does not run on does not count."""
    for labels in ({ARCH: "arm64"}, {"kubernetes.io/os": "windows"}):
        found = check_of("nodes", job, node("a", labels=labels))
        assert found.message == (
            "no ready node accepts this job's pods: the labels or taints of the nodes do not match; "
            "node selector: kubernetes.io/arch=amd64, kubernetes.io/os=linux"
        )


def test_a_volume_of_one_zone(job: Object) -> None:
    """Only nodes that reach the claim's volume count."""
    required = node_affinity(ZONE, "In", "x")["nodeAffinity"][REQUIRED]
    volume = named("PersistentVolume", "v", spec={"nodeAffinity": {"required": required}})
    nodes = [node("a", "600m", labels={ZONE: "x"}), node("b", "4", labels={ZONE: "y"})]
    assert check_of("nodes", job, *nodes, volume="v").state == "ok"
    assert check_of("nodes", job, *nodes, volume, volume="v").state == "warning"


def test_what_a_pod_requests(job: Object) -> None:
    """Sidecars, init containers and the overhead of a runtime class count, in the run's pods and in those of others."""
    spec = job["spec"]["template"]["spec"]
    half = {"requests": {"cpu": "500m"}}
    sidecar = {"name": "proxy", "restartPolicy": "Always", "resources": half}
    for more in (
        {"initContainers": [sidecar]},
        {"initContainers": [{"name": "prepare", "resources": {"requests": {"cpu": "1"}}}]},
        {"containers": [*spec["containers"], {"name": "proxy", "resources": half}]},
        {"overhead": {"cpu": "500m"}},
        {"resources": {"requests": {"cpu": "1"}}},  # the pod's own stand for its containers'
    ):
        job["spec"]["template"]["spec"] = {**spec, **more}
        assert check_of("nodes", job, node("a", "1900m")).state == "warning"
        assert check_of("nodes", job, node("a", "2")).state == "ok"
    job["spec"]["template"]["spec"] = spec
    other = named("Pod", "p", spec={"nodeName": "a", "containers": [], "initContainers": [sidecar]})
    assert check_of("nodes", job, node("a", "1400m"), other).state == "warning"
    assert check_of("nodes", job, node("a", "1500m"), other).state == "ok"


def test_room_on_the_node_of_the_claim(job: Object) -> None:
    """If other runs use the claim on a node, only the room on that node counts."""
    render.put_on_one_node(job)
    other = pod_on("a", "3500m")
    nodes = [node("a", "4"), node("b", "4")]
    assert check_of("nodes", job, *nodes, other, mode="ReadWriteOnce").state == "ok"
    other["metadata"] |= {"namespace": "here", "labels": job["spec"]["template"]["metadata"]["labels"]}
    found = check_of("nodes", job, *nodes, other, mode="ReadWriteOnce")
    told = (
        "there is room for 1 of 2 workers now on node a, where the claim is in use; "
        "the run waits for the rest, and fails after about 60 minutes"
    )
    assert (found.state, found.message) == ("warning", told)
    other["metadata"]["namespace"] = "elsewhere"
    assert check_of("nodes", job, *nodes, other, mode="ReadWriteOnce").state == "ok"


def test_gpus_that_an_affinity_rules_out(gpu_job: Object) -> None:
    """GPUs on nodes that the pods' node affinity rules out do not count."""
    gpu_job["spec"]["template"]["spec"]["affinity"] = node_affinity("zone", "In", "x")
    found = check_of("gpus", gpu_job, node("a", gpus=1))
    assert found.state == "warning"
    assert GPU in node("a", gpus=1)["status"]["allocatable"]
