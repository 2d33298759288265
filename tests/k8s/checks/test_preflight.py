"""preflight: what each check says of a cluster, and the command's result."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from k8s.__main__ import parser
from k8s.api.errors import ApiError, LauncherError
from k8s.checks import capacity, storage
from k8s.checks.check import Check
from k8s.commands import overlap, preflight, submit
from k8s.render import render
from k8s.render.render import GPU, Submission
from k8s.state.names import APP, CLAIM, INDEX_LABEL, JOB_NAME_LABEL, NAME_LABEL, PART_OF_LABEL, UID_LABEL, trainer_of
from k8s.volume import start as volume_start
from tests.k8s.fakes import FakeCluster

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from k8s.api.objects import Object
    from k8s.api.permissions import Needed

SCHEDULING = "ask for less (--cpu, --memory, --gpus, --workers), or add nodes"
UNBOUND = "see `kubectl describe pvc`: its storage class must exist and be able to make the volume"
QUOTA = "ask for less (--cpu, --memory, --workers), or have the quota raised"
WAIT = "wait, or ask for less (--cpu, --memory, --workers)"


class AskedCluster(FakeCluster):
    """A cluster that also answers preflight's questions.

    Args:
        objects: what there is.
        forbidden: kinds that this user may not ask for.
        may_not: verbs with their kinds, as `create Job`, that a review denies.
        refuses: what the API server says of a new object, by kind.
        runs: the version.

    Attributes:
        listed: what the API server says to a list, by kind.
    """

    def __init__(
        self,
        *objects: Object,
        forbidden: Iterable[str] = (),
        may_not: Iterable[str] = (),
        refuses: dict[str, ApiError] | None = None,
        runs: tuple[int, int] = (1, 35),
    ) -> None:
        super().__init__(*objects)
        self._forbidden, self._may_not, self._runs = set(forbidden), set(may_not), runs
        self._refuses = refuses or {}
        self.listed: dict[str, ApiError] = {}

    def version(self) -> tuple[int, int]:
        """The version."""
        return self._runs

    def may(self, verb: str, kind: str, subresource: str = "") -> bool:
        """A review."""
        return f"{verb} {kind}" + (f"/{subresource}" if subresource else "") not in self._may_not

    def get(self, kind: str, name: str) -> Object | None:
        """An object, if it may be asked for."""
        self._permit(kind, "get")
        return super().get(kind, name)

    def select(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> list[Object]:
        """All of a kind, if they may be asked for."""
        self._permit(kind, "list")
        if kind in self.listed:
            raise self.listed[kind]
        if everywhere and kind != "Pod":
            found = super().select(kind, selector)
            return [one for one in found if fields in ("", f"metadata.name={one['metadata']['name']}")]
        assert fields == ("status.phase!=Succeeded,status.phase!=Failed" if everywhere else "")
        return super().select(kind, selector)

    def create(self, new: Object, *, dry_run: bool = False) -> Object:
        """Create an object, unless it is refused."""
        if new["kind"] in self._refuses:
            raise self._refuses[new["kind"]]
        return super().create(new, dry_run=dry_run)

    def _permit(self, kind: str, verb: str) -> None:
        if kind in self._forbidden:
            raise denied(verb, f"{kind.lower()}s")


def denied(verb: str, what: str) -> ApiError:
    """What the API server says to a user who may not do something."""
    return ApiError(403, "Forbidden", f'{what} is forbidden: User "u" cannot {verb} resource "{what}"', "ask")


@pytest.fixture(scope="module")
def rendered() -> dict[str, Object]:
    """The Jobs of two overlays."""
    return {overlay: render.job(Submission("digits", overlay=overlay)) for overlay in ("cpu", "gpu")}


@pytest.fixture
def job(rendered: dict[str, Object]) -> Object:
    """A Job of two workers that each ask for half a CPU and 1 Gi of memory."""
    return json.loads(json.dumps(rendered["cpu"]))  # type: ignore[no-any-return]


@pytest.fixture
def gpu_job(rendered: dict[str, Object]) -> Object:
    """A Job of two workers with a GPU each."""
    return json.loads(json.dumps(rendered["gpu"]))  # type: ignore[no-any-return]


def alone(job: Object) -> Object:
    """The same with one worker."""
    job["spec"]["completions"] = job["spec"]["parallelism"] = 1
    return job


def named(kind: str, name: str, **fields: Any) -> Object:
    """An object."""
    return {"kind": kind, "metadata": {"name": name, **fields.pop("metadata", {})}, **fields}


def claim(*modes: str, phase: str = "Bound", of: str | None = None) -> Object:
    """The claim of the runs."""
    spec = {"accessModes": list(modes)} | ({"storageClassName": of} if of else {})
    return named("PersistentVolumeClaim", CLAIM, spec=spec, status={"phase": phase})


def storage_class(name: str = "fast", *, default: bool = False, binding: str = "Immediate") -> Object:
    """A storage class."""
    annotations = {"storageclass.kubernetes.io/is-default-class": str(default).lower()}
    return named("StorageClass", name, metadata={"annotations": annotations}, volumeBindingMode=binding)


def node(name: str, cpu: str = "4", gpus: int = 0, *, ready: bool = True, **spec: Any) -> Object:
    """A node with 8 Gi of memory."""
    allocatable = {"cpu": cpu, "memory": "8Gi", "pods": "110"} | ({GPU: str(gpus)} if gpus else {})
    conditions = [{"type": "Ready", "status": str(ready)}]
    labels = {"labels": spec.pop("labels", {})}
    return named(
        "Node", name, metadata=labels, spec=spec, status={"allocatable": allocatable, "conditions": conditions}
    )


def pod_on(where: str, cpu: str, name: str = "other") -> Object:
    """A pod that takes up a node."""
    spec = {"nodeName": where, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}
    return named("Pod", name, spec=spec)


def ready_cluster(**options: Any) -> AskedCluster:
    """A cluster that can run the Job."""
    return AskedCluster(
        named("Namespace", "here"), storage_class("fast", default=True), node("a"), node("b"), **options
    )


def test_everything_is_well(job: Object) -> None:
    """Each check is a line, in the order in which a user would see to them."""
    cluster = ready_cluster()
    assert preflight.checks(cluster.given(), job, None) == [
        Check("server version", "ok", "1.35"),
        Check("namespace", "ok", "here"),
        Check("permissions", "ok", "this user may run jobs in namespace here"),
        Check("name", "ok", "digits"),
        Check("volume", "ok", "submit makes the claim mnist-job-output; all workers go to one node"),
        Check("storage class", "ok", "fast, the default one, makes the volume"),
        Check("data", "ok", "the image's own dataset"),
        Check("pod", "ok", "the API server would take a worker's pod"),
        Check("memory", "ok", "a worker's limit is 2Gi"),
        Check("quota", "ok", "there is room for 2 workers"),
        Check("nodes", "ok", "there is room: 2 workers ask for 500m of cpu, 1Gi of memory each"),
        Check("gpus", "ok", "none is asked for"),
        Check("queue", "ok", "none is asked for"),
    ]
    assert [verb for verb, *_ in cluster.asked] == ["dry-run"]


def test_what_may_not_be_asked(job: Object) -> None:
    """A check that this user may not make is not checked, and keeps no run from being submitted."""
    forbidden = ["Namespace", "StorageClass", "ResourceQuota", "Node"]
    cluster = ready_cluster(forbidden=forbidden, refuses={"Pod": denied("create", "pods")})
    found = {check.name: check for check in preflight.checks(cluster.given(), job, claim("ReadWriteOnce"))}
    unasked = {
        "namespace": 'namespaces is forbidden: User "u" cannot get resource "namespaces"',
        "pod": 'pods is forbidden: User "u" cannot create resource "pods"',
        "quota": 'resourcequotas is forbidden: User "u" cannot list resource "resourcequotas"',
        "nodes": 'nodes is forbidden: User "u" cannot list resource "nodes"',
    }
    for name, message in unasked.items():
        assert found.pop(name) == Check(name, "not checked", f"this user may not ask: {message}")
    assert {check.state for check in found.values()} == {"ok"}


def test_a_claim_that_may_not_be_looked_at(job: Object) -> None:
    """It is not checked either, and taken to need one node."""
    cluster = ready_cluster(forbidden=["PersistentVolumeClaim"]).given()
    rendered, claim = submit.prepare(cluster, Submission("digits"))
    assert rendered == render.job(Submission("digits", components=("one-node",)))
    found = {check.name: check for check in preflight.checks(cluster, job, claim)}
    message = f"this user may not look at the claim {CLAIM}"
    assert found["volume"] == Check("volume", "not checked", f"{message}; all workers go to one node")
    assert found["storage class"] == Check("storage class", "not checked", message)


def test_an_error_is_no_check(job: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that fails is the command's error, and no line among the others."""
    cluster = ready_cluster()

    def broken() -> tuple[int, int]:
        raise ApiError(500, "InternalError", "broken", "ask")

    monkeypatch.setattr(cluster, "version", broken)
    with pytest.raises(ApiError, match="broken"):
        preflight.checks(cluster.given(), job, None)


@pytest.mark.parametrize(
    ("runs", "check"),
    [
        ((1, 31), Check("server version", "ok", "1.31")),
        (
            (1, 30),
            Check("server version", "failed", "1.30, and 1.31 is the oldest that can run this", "upgrade the cluster"),
        ),
    ],
)
def test_server_version(runs: tuple[int, int], check: Check) -> None:
    """Kubernetes 1.31 is the first that knows all that the Job says."""
    assert preflight.version(AskedCluster(runs=runs).given()) == check


def test_namespace_missing(job: Object) -> None:
    """A namespace that is not there is failed, and the pod's dry run in it says nothing."""
    missing = ApiError(404, "NotFound", 'namespaces "here" not found', "post")
    cluster = AskedCluster(refuses={"Pod": missing}).given()
    assert preflight.namespace(cluster) == Check(
        "namespace",
        "failed",
        "there is no namespace here",
        "make it: `kubectl create namespace here`, or name another one with --namespace",
    )
    assert preflight.pod(cluster, job) == Check("pod", "not checked", 'namespaces "here" not found')


@pytest.mark.parametrize(
    ("may_not", "state", "lacking"),
    [
        (["get Pod/log", "list Event"], "warning", "get Pod/log, list Event"),
        (["create Job"], "failed", "create Job"),
    ],
)
def test_permissions(may_not: list[str], state: str, lacking: str) -> None:
    """Who may not create Jobs cannot run any; who may not read logs can."""
    message = f"this user may not {lacking} in namespace here"
    remedy = "bind the role in k8s/manifests/rbac"
    assert preflight.permitted(AskedCluster(may_not=may_not).given()) == Check("permissions", state, message, remedy)


@pytest.mark.parametrize(
    ("role", "needed"),
    [
        ("runner", [*preflight.NEEDED, *overlap.NEEDED, *volume_start.NEEDED, ("delete", "Job", "")]),
        ("fetcher", volume_start.NEEDED),
    ],
)
def test_a_role_allows_all_that_is_needed(role: str, needed: Sequence[Needed]) -> None:
    """Each verb that a command asks about is one that its role gives."""
    roles = {found["metadata"]["name"]: found["rules"] for found in render.kustomize(render.MANIFESTS / "rbac")}
    rules = roles[f"mnist-job-{role}"]
    given = {(verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    plural = {"Job": "jobs", "Pod": "pods", "Event": "events", "PersistentVolumeClaim": "persistentvolumeclaims"}
    plural["CronJob"] = "cronjobs"
    assert {(verb, plural[kind] + (f"/{sub}" if sub else "")) for verb, kind, sub in needed} <= given


def test_name_taken(job: Object) -> None:
    """A Job of the same name is another run."""
    cluster = AskedCluster(named("Job", "digits")).given()
    message, remedy = "there is a Job digits already", "give another --name, or `mnist-job retry digits`"
    assert preflight.name(cluster, job) == Check("name", "failed", message, remedy)


def test_name_of_a_schedule(job: Object) -> None:
    """A schedule of the same name would be taken for the run."""
    message, remedy = "there is a schedule digits", "give another --name, or `mnist-job trigger digits`"
    assert preflight.name(AskedCluster(named("CronJob", "digits")).given(), job) == Check(
        "name", "failed", message, remedy
    )


@pytest.mark.parametrize(
    ("found", "state", "message", "remedy"),
    [
        (claim("ReadWriteMany", "ReadWriteOnce"), "ok", "is ReadWriteMany, ReadWriteOnce", ""),
        (claim("ReadWriteOnce"), "ok", "is ReadWriteOnce; all workers go to one node", ""),
        (
            claim("ReadWriteOncePod"),
            "failed",
            "is ReadWriteOncePod, and 2 workers cannot share it",
            "name a ReadWriteMany or ReadWriteOnce claim with --claim",
        ),
        (
            claim("ReadOnlyMany"),
            "failed",
            "is ReadOnlyMany, and nothing can be written to it",
            "name another one with --claim",
        ),
    ],
)
def test_volume(job: Object, found: Object, state: str, message: str, remedy: str) -> None:
    """The access mode fits the number of workers, or it is said."""
    assert storage.volume(job, found) == Check("volume", state, f"the claim {CLAIM} {message}", remedy)


def test_volume_of_one_worker(job: Object) -> None:
    """One worker may have a claim for itself."""
    check = storage.volume(alone(job), claim("ReadWriteOncePod"))
    assert check == Check("volume", "ok", f"the claim {CLAIM} is ReadWriteOncePod")


@pytest.mark.parametrize(
    ("mode", "phase", "check"),
    [
        ("ReadOnlyMany", "Bound", ("ok", "the claim data is ReadOnlyMany", "")),
        ("ReadWriteOnce", "Bound", ("ok", "the claim data is ReadWriteOnce; all workers go to one node", "")),
        (
            "ReadWriteOncePod",
            "Bound",
            (
                "failed",
                "the claim data is ReadWriteOncePod, and 2 workers cannot share it",
                "name a claim of another access mode with --data",
            ),
        ),
        (
            "ReadWriteMany",
            "Pending",
            (
                "failed",
                "the claim data has no volume yet, and so there is no dataset on it",
                "prepare one there: docs/retraining.md, Data on a volume",
            ),
        ),
        ("", "", ("failed", "there is no claim data", "make it, or name another one with --data")),
    ],
)
def test_data_on_a_claim(job: Object, mode: str, phase: str, check: tuple[str, str, str]) -> None:
    """The claim with the dataset is there, filled as far as can be seen, and can be read by all workers."""
    spec = {"spec": {"accessModes": [mode]}, "status": {"phase": phase}}
    there = [named("PersistentVolumeClaim", "data", **spec)] if mode else []
    render.mount_data(job["spec"]["template"], "data")
    assert storage.data(AskedCluster(*there).given(), job) == Check("data", *check)
    unseen = AskedCluster(forbidden=["PersistentVolumeClaim"]).given()
    assert storage.data(unseen, job) == Check("data", "not checked", "this user may not look at the claim data")


def test_claim_missing(job: Object) -> None:
    """A claim of the user's own is not made for him."""
    render.set_claim(job["spec"]["template"], "mine")
    remedy = "make the claim, or name another one with --claim"
    assert storage.volume(job, None) == Check("volume", "failed", "there is no claim mine", remedy)
    unknown = Check("storage class", "not checked", "there is no claim mine")
    assert storage.storage_class(AskedCluster().given(), job, None) == unknown


@pytest.mark.parametrize(
    ("found", "state", "message", "remedy"),
    [
        (claim("ReadWriteOnce"), "ok", f"the claim {CLAIM} has its volume", ""),
        (claim("ReadWriteOnce", phase="Lost"), "failed", f"the claim {CLAIM} has lost its volume", UNBOUND),
        (
            claim("ReadWriteOnce", phase="Pending"),
            "warning",
            f"the claim {CLAIM} has neither a volume yet nor a storage class",
            UNBOUND,
        ),
        (
            claim("ReadWriteOnce", phase="Pending", of="gone"),
            "failed",
            f"there is no storage class gone, which the claim {CLAIM} names",
            UNBOUND,
        ),
        (
            claim("ReadWriteOnce", phase="Pending", of="fast"),
            "warning",
            f"fast has made no volume for the claim {CLAIM} yet",
            UNBOUND,
        ),
        (
            claim("ReadWriteOnce", phase="Pending", of="late"),
            "ok",
            f"late makes the volume of the claim {CLAIM} once a worker waits for it",
            "",
        ),
        (
            None,
            "failed",
            f"the claim {CLAIM} is to be made, and there is no default storage class",
            "make a claim with a class of your own, and name it with --claim",
        ),
    ],
)
def test_storage_class(job: Object, found: Object | None, state: str, message: str, remedy: str) -> None:
    """A claim without a volume is fine only where its class waits for a pod that wants it."""
    cluster = AskedCluster(storage_class("fast"), storage_class("late", binding="WaitForFirstConsumer")).given()
    assert storage.storage_class(cluster, job, found) == Check("storage class", state, message, remedy)


def test_the_pod_is_as_the_controller_makes_it(job: Object) -> None:
    """It has the template's spec and the controller's labels; a ServiceAccount that is to be made is left out."""
    template = job["spec"]["template"]
    expected: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "digits-0-",
            "labels": {
                NAME_LABEL: APP,
                PART_OF_LABEL: APP,
                JOB_NAME_LABEL: "digits",
                UID_LABEL: "00000000-0000-0000-0000-000000000000",
                INDEX_LABEL: "0",
            },
        },
        "spec": template["spec"],
    }
    before = json.dumps(job)
    assert preflight.pod_of(AskedCluster(named("ServiceAccount", APP)).given(), job) == expected
    del (expected := json.loads(json.dumps(expected)))["spec"]["serviceAccountName"]
    assert preflight.pod_of(AskedCluster().given(), job) == expected
    assert json.dumps(job) == before


@pytest.mark.parametrize(
    ("told", "remedy"),
    [
        ('violates PodSecurity "restricted:latest": runAsNonRoot != true', "pod-security"),
        ("exceeded quota: small, requested: cpu=2", "quota"),
        ("maximum cpu usage per Container is 1, but limit is 2", "limits"),
        ("not by us", "refused"),
    ],
)
def test_pod_refused(job: Object, told: str, remedy: str) -> None:
    """What the API server has against the pods is said before there are any."""
    refused = ApiError(403, "Forbidden", f'pods "digits-0-x" is forbidden: {told}', "post")
    cluster = AskedCluster(refuses={"Pod": refused}).given()
    message = f"the API server would refuse a worker's pod: {told}"
    remedies = {
        "pod-security": "use the manifests' own security settings, or another namespace",
        "quota": QUOTA,
        "limits": "ask for what the sentence names (--cpu, --memory), or have the LimitRange changed",
        "refused": "change what the sentence names, or ask who runs the cluster",
    }
    assert preflight.pod(cluster, job) == Check("pod", "failed", message, remedies[remedy])


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> Object:
    """A quota."""
    return named("ResourceQuota", "small", spec=spec, status={"hard": hard, "used": used or {}})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (quota({"requests.cpu": "1", "limits.memory": "4Gi", "pods": "2", "secrets": "0"}), None),
        (
            quota({"requests.cpu": "1200m"}, {"requests.cpu": "300m"}),
            "quota small has 300m of 1200m requests.cpu used, and 2 workers ask for 1 more",
        ),
        (
            quota({"memory": "2Gi"}, {"memory": "512Mi"}),
            "quota small has 512Mi of 2Gi memory used, and 2 workers ask for 2Gi more",
        ),
        (
            quota({"limits.cpu": "3"}),
            "quota small has 0 of 3 limits.cpu used, and 2 workers ask for 4 more",
        ),
        (
            quota({"count/pods": "2"}, {"count/pods": "1"}),
            "quota small has 1 of 2 count/pods used, and 2 workers ask for 2 more",
        ),
        (quota({"pods": "0"}, scopes=["Terminating"]), None),
        (quota({"pods": "0"}, scopeSelector={"matchExpressions": []}), None),
        (
            quota({"pods": "1"}, scopes=["NotTerminating"]),
            "quota small has 0 of 1 pods used, and 2 workers ask for 2 more",
        ),
    ],
)
def test_quota(job: Object, found: Object, message: str | None) -> None:
    """All workers together fit into each quota that counts them."""
    expected = Check("quota", "ok", "there is room for 2 workers")
    if message:
        expected = Check("quota", "failed", message, QUOTA)
    assert capacity.quota(AskedCluster(found).given(), job) == expected


EACH = "each of which asks for 500m of cpu, 1Gi of memory"
TAINT = {"key": "team", "value": "vision", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("nodes", "one_node", "state", "message", "remedy"),
    [
        ([node("a")], True, "ok", "there is room: 2 workers ask for 500m of cpu, 1Gi of memory each", ""),
        (
            [node("a", "600m"), node("b", "600m")],
            False,
            "ok",
            "there is room: 2 workers ask for 500m of cpu, 1Gi of memory each",
            "",
        ),
        (
            [node("a", "600m"), node("b", "600m")],
            True,
            "failed",
            f"no node alone, as the volume needs, can hold 2 workers, {EACH}",
            SCHEDULING,
        ),
        (
            [node("a", "400m"), node("b", "400m")],
            False,
            "failed",
            "no node that takes this job can hold a worker, which asks for 500m of cpu, 1Gi of memory",
            SCHEDULING,
        ),
        ([node("a", "900m")], False, "failed", f"all nodes together cannot hold 2 workers, {EACH}", SCHEDULING),
        (
            [node("a", ready=False), node("b", unschedulable=True), node("c", taints=[TAINT])],
            False,
            "failed",
            "no node is ready and takes this job's pods, by its labels and taints",
            SCHEDULING,
        ),
        (
            [node("a", taints=[{**TAINT, "effect": "PreferNoSchedule"}])],
            False,
            "ok",
            "there is room: 2 workers ask for 500m of cpu, 1Gi of memory each",
            "",
        ),
        (
            [node("a", "1"), node("b", "1"), pod_on("a", "900m"), pod_on("b", "300m", "another")],
            False,
            "warning",
            "there is room for 1 of 2 workers now; the run waits until there is",
            WAIT,
        ),
        (
            [node("a", "1"), node("b", "1"), pod_on("a", "100m"), pod_on("", "4", "waiting")],
            True,
            "ok",
            "there is room: 2 workers ask for 500m of cpu, 1Gi of memory each",
            "",
        ),
        (
            [node("a", "1"), node("b", "900m"), pod_on("a", "100m")],
            True,
            "warning",
            "there is room for 1 of 2 workers now; the run waits until there is",
            WAIT,
        ),
    ],
)
def test_nodes(job: Object, nodes: list[Object], one_node: bool, state: str, message: str, remedy: str) -> None:
    """The nodes that take the job can hold all workers, now or later; one node must where the volume needs it."""
    found = capacity.nodes(AskedCluster(*nodes).given(), job, one_node=one_node)
    assert found == Check("nodes", state, message, remedy)


def test_nodes_where_pods_may_not_be_asked_for(job: Object) -> None:
    """What is free is not known then, but a node that is too small is."""
    message = 'pods is forbidden: User "u" cannot list resource "pods"'
    cluster = AskedCluster(node("a"), forbidden=["Pod"]).given()
    told = f"the nodes are large enough; what is free there now this user may not ask: {message}"
    assert capacity.nodes(cluster, job, one_node=True) == Check("nodes", "not checked", told)
    small = AskedCluster(node("a", "100m"), forbidden=["Pod"]).given()
    assert capacity.nodes(small, job, one_node=True).failed


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
        assert capacity.takes(labelled, job["spec"]["template"]) == takes
        assert not capacity.takes(node("b", taints=[TAINT]), job["spec"]["template"])


@pytest.mark.parametrize(
    ("nodes", "state", "message", "remedy"),
    [
        ([node("a", gpus=1), node("b", gpus=2), node("c")], "ok", "there are 3 on nodes that take this job", ""),
        (
            [node("a")],
            "failed",
            "no node has a GPU",
            "add a node with GPUs and NVIDIA's device plugin, or train on CPUs: --overlay cpu",
        ),
        (
            [node("a", gpus=1, taints=[TAINT]), node("b", gpus=1, ready=False)],
            "failed",
            "the nodes with GPUs (a, b) are not ready, or do not take this job's pods",
            "see their taints and labels: `kubectl describe node`",
        ),
        (
            [node("a", gpus=1, taints=[{"key": GPU, "effect": "NoSchedule", "value": "present"}])],
            "ok",
            "there are 1 on nodes that take this job",
            "",
        ),
    ],
)
def test_gpus(gpu_job: Object, nodes: list[Object], state: str, message: str, remedy: str) -> None:
    """Only GPUs on nodes that take the job count."""
    assert capacity.gpus(AskedCluster(*nodes).given(), gpu_job) == Check("gpus", state, message, remedy)


STATUS = named("ConfigMap", "cluster-autoscaler-status")
WAITS = "the run waits for the cluster's autoscaler; if that adds no such node"


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
    """Where nothing fits yet, a sign of an autoscaler lets the run be submitted, as does that it cannot be seen."""
    cluster = AskedCluster(*more, forbidden=forbidden).given()
    gpu = "add a node with GPUs and NVIDIA's device plugin, or train on CPUs: --overlay cpu"
    expected = {
        "nodes": ("no node is ready and takes this job's pods, by its labels and taints", SCHEDULING),
        "gpus": ("no node has a GPU", gpu),
    }
    found = [capacity.nodes(cluster, gpu_job, one_node=False), capacity.gpus(cluster, gpu_job)]
    waits = f"{WAITS}: " if state == "warning" else ""
    assert found == [Check(name, state, told, waits + remedy) for name, (told, remedy) in expected.items()]


def test_nodes_without_karpenter(job: Object) -> None:
    """An API that the cluster does not have is no sign of an autoscaler; an API server that fails is an error."""
    cluster = AskedCluster()
    for code, raises in ((404, False), (500, True)):
        cluster.listed["NodePool"] = ApiError(code, "", "no", "list them")
        with pytest.raises(ApiError) if raises else nullcontext():
            assert capacity.nodes(cluster.given(), job, one_node=False).failed


def test_nodes_of_a_queue(job: Object) -> None:
    """In a queue it is Kueue that finds room."""
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "night"
    found = capacity.nodes(AskedCluster(node("a", "100m")).given(), job, one_node=False)
    message = "no node that takes this job can hold a worker, which asks for 500m of cpu, 1Gi of memory"
    remedy = f"Kueue lets it start once it finds room; if it never does: {SCHEDULING}"
    assert found == Check("nodes", "warning", message, remedy)


@pytest.mark.parametrize(
    ("limit", "state", "message"),
    [
        ("1Gi", "ok", "a worker's limit is 1Gi"),
        ("850M", "ok", "a worker's limit is 850M"),
        ("512Mi", "warning", "a worker's limit is 512Mi, and it takes up to 850 MB"),
        ("450Mi", "failed", "a worker's limit is 450Mi, and TensorFlow cannot train in 450Mi"),
        ("2", "failed", "a worker's limit is 2, and TensorFlow cannot train in 450Mi"),
        (None, "ok", "a worker has no limit"),
    ],
)
def test_memory(job: Object, limit: str | None, state: str, message: str) -> None:
    """A limit in which TensorFlow cannot train is refused, and one that may not do is told."""
    limits = trainer_of(job["spec"]["template"])["resources"]["limits"]
    del limits["memory"]
    limits |= {"memory": limit} if limit else {}
    remedy = "" if state == "ok" else "give it more: --memory 1Gi"
    assert capacity.memory(job) == Check("memory", state, message, remedy)


def test_queue(job: Object) -> None:
    """A queue that is asked for is there, or nothing would ever start the run."""
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "night"
    there = Check("queue", "ok", "the local queue night is there")
    assert preflight.queue(AskedCluster(named("LocalQueue", "night")).given(), job) == there
    message = "there is no local queue night in namespace here, or no Kueue in the cluster"
    missing = Check("queue", "failed", message, "make the LocalQueue, or leave out --queue")
    assert preflight.queue(AskedCluster().given(), job) == missing


def test_one_node_by_an_affinity(job: Object) -> None:
    """Where an affinity keeps the workers together, one node must hold them, whatever the claim."""
    job["spec"]["template"]["spec"]["affinity"] = {
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}
    }
    cluster = AskedCluster(node("a", "600m"), node("b", "600m"))
    found = {check.name: check for check in preflight.checks(cluster.given(), job, claim("ReadWriteMany"))}
    assert found["nodes"].message == f"no node alone, as the volume needs, can hold 2 workers, {EACH}"


def run(cluster: FakeCluster, *flags: str) -> int:
    """`mnist-job preflight` with these flags."""
    arguments = parser().parse_args(["preflight", "--name=digits", *flags])
    arguments.training = ()
    return preflight.run(arguments, cluster.given)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each check with its remedy; warnings alone are no failure."""
    assert run(ready_cluster(may_not=["list Event"])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert lines[:4] == [
        "ok          server version: 1.35",
        "ok          namespace: here",
        "warning     permissions: this user may not list Event in namespace here; bind the role in k8s/manifests/rbac",
        "ok          name: digits",
    ]


def test_command_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same as a list, and the exit status of a refusal where a check failed."""
    assert run(ready_cluster(runs=(1, 29)), "--output=json") == 2
    found = json.loads(capsys.readouterr().out)
    assert found[0] == {
        "name": "server version",
        "state": "failed",
        "message": "1.29, and 1.31 is the oldest that can run this",
        "remedy": "upgrade the cluster",
    }
    assert {frozenset(check) for check in found} == {frozenset(f.name for f in dataclasses.fields(Check))}


def test_a_submission_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Submit says what failed, with its remedy, and leaves nothing behind: no setup either."""
    cluster = ready_cluster(runs=(1, 29))
    with pytest.raises(LauncherError, match=r"^digits was not submitted; see above$"):
        submit.send(cluster.given(), Submission("digits"))
    told = "failed      server version: 1.29, and 1.31 is the oldest that can run this; upgrade the cluster\n"
    assert capsys.readouterr().err == told
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [("dry-run", "Pod")]


def test_a_submission(job: Object) -> None:
    """Submit sends what it rendered, unchanged, after a dry run; what is absent of the setup is made before it."""
    cluster = ready_cluster()
    [account] = [found for found in render.setup() if found["kind"] == "ServiceAccount"]
    cluster.objects["ServiceAccount", APP] = account
    sent = submit.send(cluster.given(), Submission("digits"))
    one_node = render.job(Submission("digits", components=("one-node",)))
    assert trainer_of(one_node["spec"]["template"]) == trainer_of(job["spec"]["template"])
    assert sent["spec"] == one_node["spec"]
    made = [(verb, kind) for verb, kind, _ in cluster.asked]
    assert made[:2] == [("dry-run", "Pod"), ("dry-run", "Job")]
    assert sorted(made[2:-1]) == [
        ("create", "NetworkPolicy"),
        ("create", "PersistentVolumeClaim"),
        ("create", "Service"),
    ]
    assert cluster.asked[-1] == ("create", "Job", one_node)


def test_a_setup_that_this_user_may_not_make() -> None:
    """What is absent and may not be made is told with who can make it; the Job is not sent."""
    cluster = ready_cluster(refuses={"PersistentVolumeClaim": denied("create", "persistentvolumeclaims")})
    with pytest.raises(LauncherError) as caught:
        submit.send(cluster.given(), Submission("digits"))
    assert str(caught.value) == (
        "the PersistentVolumeClaim mnist-job-output cannot be made: persistentvolumeclaims is forbidden: "
        'User "u" cannot create resource "persistentvolumeclaims"; '
        "have who may apply the setup: `kubectl apply -k k8s/manifests/setup -n here`"
    )
    assert ("create", "Job") not in [(verb, kind) for verb, kind, _ in cluster.asked]


def test_a_setup_that_this_user_may_not_look_at() -> None:
    """It is taken to be there, and the Job is sent."""
    cluster = ready_cluster(forbidden=["ServiceAccount", "Service", "NetworkPolicy", "PersistentVolumeClaim"])
    submit.send(cluster.given(), Submission("digits"))
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [
        ("dry-run", "Pod"),
        ("dry-run", "Job"),
        ("create", "Job"),
    ]
