"""The helper pod: where it is, what it takes from the job, why it does not start, and that it is always deleted."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from job.errors import JobError
from k8s.api.errors import ApiError, LauncherError
from k8s.api.exec import ExecResult
from k8s.render import render
from k8s.state.names import APP, NAME_LABEL
from k8s.volume import pod as helper
from k8s.volume.pod import HELPERS, Place
from tests.k8s.fakes import FakeCluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.objects import Object


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(helper, "POLL_S", 0.0)
    monkeypatch.setattr(helper, "RETRY_S", 0.0)


def claim(*modes: str, phase: str = "Bound") -> Object:
    """The claim."""
    metadata = {"name": "output", "uid": "c"}
    kind = "PersistentVolumeClaim"
    return {"kind": kind, "metadata": metadata, "spec": {"accessModes": list(modes)}, "status": {"phase": phase}}


def user(phase: str = "Running", node: str | None = "n1", of: str = "output") -> Object:
    """A pod that mounts a claim."""
    spec: Object = {"volumes": [{"emptyDir": {}}, {"persistentVolumeClaim": {"claimName": of}}]}
    spec |= {"nodeName": node} if node else {}
    return {"kind": "Pod", "metadata": {"name": "user", "uid": "u"}, "spec": spec, "status": {"phase": phase}}


def job(name: str = "digits", created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Object:
    """A run's Job with an image of its own."""
    container = {"name": "trainer", "image": f"{name}:1", "imagePullPolicy": "Always"}
    volumes = [{"name": "output", "persistentVolumeClaim": {"claimName": "output"}}]
    template = {"spec": {"containers": [container], "volumes": volumes, **spec}}
    metadata = {"name": name, "uid": name, "labels": {NAME_LABEL: APP}, "creationTimestamp": created}
    return {"kind": "Job", "metadata": metadata, "spec": {"template": template}}


@pytest.mark.parametrize(
    ("objects", "node"),
    [
        ([claim("ReadWriteMany"), user()], ""),
        ([claim("ReadOnlyMany", "ReadWriteOnce"), user()], ""),
        ([claim("ReadWriteOnce")], ""),
        ([claim("ReadWriteOnce"), user()], "n1"),
        ([claim("ReadWriteOnce"), user("Pending")], "n1"),
        ([claim("ReadWriteOnce"), user("Succeeded")], ""),
        ([claim("ReadWriteOnce"), user(node=None)], ""),
        ([claim("ReadWriteOnce"), user(of="another")], ""),
        ([claim("ReadWriteOncePod")], ""),
    ],
)
def test_where_it_must_be(objects: list[Object], node: str) -> None:
    """It goes to the node of the pods that use the volume, unless the volume serves several nodes."""
    assert helper.node_for(FakeCluster(*objects).given(), "output") == node


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ([], "there is no claim output in namespace here; name the one that the run wrote to with --claim"),
        (
            [claim("ReadWriteOnce", phase="Pending")],
            "the claim output has no volume yet, and so there is nothing on it; submit a run first",
        ),
        (
            [claim("ReadWriteOncePod"), user()],
            "the claim output serves one pod at a time, and user has it; try again once that has ended",
        ),
    ],
)
def test_no_volume(objects: list[Object], said: str) -> None:
    """A claim that cannot be mounted is told before a pod is made."""
    with pytest.raises(LauncherError) as refused:
        helper.node_for(FakeCluster(*objects).given(), "output")
    assert (refused.value.status, str(refused.value)) == (2, said)


def test_claim_that_may_not_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the claim's modes may not be asked, it goes to the pods' node, which is right for all."""
    cluster = FakeCluster(user())

    def forbid(*_: str) -> None:
        raise ApiError(403, "Forbidden", "no", "get it")

    monkeypatch.setattr(cluster, "get", forbid)
    assert helper.node_for(cluster.given(), "output") == "n1"


@pytest.mark.parametrize(
    ("objects", "asked", "place"),
    [
        (
            [job(tolerations=[{"key": "a"}], imagePullSecrets=[{"name": "s"}], securityContext={"runAsUser": 1000})],
            ("digits", None, None),
            Place("digits:1", "output", "Always", ({"name": "s"},), ({"key": "a"},), {"runAsUser": 1000}),
        ),
        ([job()], ("digits", "mine:2", "mine"), Place("mine:2", "mine", "Always")),
        ([job(), job("newer", "2026-02-01T00:00:00Z")], ("gone", None, None), Place("newer:1", "output", "Always")),
        ([job(), job("newer", "2026-02-01T00:00:00Z")], (None, None, None), Place("newer:1", "output", "Always")),
        ([], ("gone", "mine:2", None), Place("mine:2", "mnist-job-output")),
    ],
    ids=["its job", "flags", "another's job", "the newest", "no job"],
)
def test_what_it_is_made_of(
    objects: list[Object], asked: tuple[str | None, str | None, str | None], place: Place
) -> None:
    """Image, claim, tolerations and user are the run's; where its Job is gone the newest run's, or by the flags."""
    assert helper.place(FakeCluster(*objects).given(), *asked) == place


def test_no_image() -> None:
    """Where nothing tells the image, the flag is asked for."""
    with pytest.raises(JobError) as refused:
        helper.place(FakeCluster().given(), "digits", None, None)
    assert str(refused.value) == (
        "there is no Job digits in namespace here; see the names and the namespace; "
        "if the Job is gone, name its image with --image"
    )


def test_the_pod() -> None:
    """It is the manifest's pod with the job's image, claim, secrets and user, on its node."""
    place = Place("mine:2", "output", "Never", ({"name": "s"},), ({"key": "a"},), {"runAsUser": 1000})
    made = helper.pod_for(place, "h", "n1")
    expected = render.helper("h", "mine:2", "output", tolerations=[{"key": "a"}])
    expected["spec"]["containers"][0]["imagePullPolicy"] = "Never"
    expected["spec"]["imagePullSecrets"] = [{"name": "s"}]
    expected["spec"]["securityContext"] = {"runAsUser": 1000}
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    required = {"nodeSelectorTerms": [term]}
    expected["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    assert made == expected


def interrupt() -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda: None, None),
        (interrupt, KeyboardInterrupt),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit),
        (lambda: os.kill(os.getpid(), signal.SIGHUP), SystemExit),
    ],
    ids=["done", "Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_it_is_always_deleted(end: Callable[[], None], error: type[BaseException] | None) -> None:
    """However the launcher ends, the pod goes; so do those of earlier launchers that ended by themselves."""
    labels = dict(part.split("=") for part in HELPERS.split(","))
    cluster = FakeCluster(claim("ReadWriteMany"))
    for name, phase in (("old", "Succeeded"), ("busy", "Running")):
        metadata = {"name": name, "uid": name, "labels": labels}
        cluster.objects["Pod", name] = {"kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": phase}}
    before = signal.getsignal(signal.SIGTERM)

    def use() -> None:
        with helper.opened(cluster.given(), Place("mine:2", "output")) as pod:
            assert ("Pod", pod.pod) in cluster.objects
            end()

    if error:
        with pytest.raises(error):
            use()
    else:
        use()
    assert [name for kind, name in cluster.objects if kind == "Pod"] == ["busy"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_is_deleted_where_it_does_not_start() -> None:
    """A pod that will not start is deleted too."""
    cluster = FakeCluster(claim("ReadWriteMany"))
    cluster.pod_status = {"phase": "Failed", "message": "Pod was rejected: no room"}
    with (
        pytest.raises(LauncherError, match="the helper pod does not start: Pod was rejected: no room"),
        helper.opened(cluster.given(), Place("mine:2", "output")),
    ):
        pass
    assert [kind for kind, _ in cluster.objects] == ["PersistentVolumeClaim"]


def waiting(reason: str, message: str = "") -> Object:
    """The status of a pod whose container waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "helper", "state": state}]}


UNSCHEDULED = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}
    ],
}
MOUNT = {"type": "Warning", "message": 'MountVolume.SetUp failed for volume "output"'}


@pytest.mark.parametrize(
    ("status", "waited_s", "said"),
    [
        ({"phase": "Pending"}, 200, None),
        (waiting("ContainerCreating"), 200, None),
        (UNSCHEDULED, 5, None),
        (
            UNSCHEDULED,
            25,
            (
                "the helper pod does not start: it has no node: 0/2 nodes are available: 2 Insufficient cpu.; "
                "see what the sentence names"
            ),
        ),
        (
            waiting("ErrImagePull", "not found"),
            0,
            (
                "the helper pod does not start: its image mine:2 cannot be had (not found); check the name and that "
                "the nodes may pull it; `make load` puts it on kind's and minikube's nodes"
            ),
        ),
        (
            waiting("CreateContainerConfigError", "no secret"),
            0,
            (
                "the helper pod does not start: CreateContainerConfigError: no secret; "
                "change what the sentence names, or ask who runs the cluster"
            ),
        ),
        (
            waiting("ContainerCreating"),
            301,
            (
                'the helper pod does not start: 300 s have passed; MountVolume.SetUp failed for volume "output"; '
                "see `kubectl describe pod`; a ReadWriteOnce volume serves one node: --component one-node"
            ),
        ),
    ],
    ids=["new", "creating", "no node yet", "no node", "image", "container", "volume"],
)
def test_why_it_does_not_start(status: Object, waited_s: float, said: str | None) -> None:
    """Why it does not start is told once it is certain."""
    pod = {"spec": {"containers": [{"image": "mine:2"}]}, "status": status}
    found = helper.obstacle(pod, [{"type": "Normal", "message": "Scheduled"}, MOUNT], waited_s)
    assert (str(found) if found else None) == said


def test_output_over_a_broken_connection() -> None:
    """A command is run again when the connection breaks, and what came before counts for nothing."""
    tries = iter([ConnectionError("cut"), ConnectionError("cut"), None])

    def command(_: Any, write: Callable[[bytes], Any]) -> ExecResult:
        write(b"half")
        if error := next(tries):
            raise error
        write(b"whole")
        return ExecResult(3, " told\n")

    cluster = FakeCluster({"kind": "Pod", "metadata": {"name": "h"}})
    cluster.command = command
    assert helper.Helper(cluster.given(), "h", "output").output(["cat"]) == (3, b"halfwhole", "told")


@pytest.mark.parametrize(
    ("code", "errors", "status", "said"),
    [
        (
            64,
            "error: run 'x' is not published in /output; no run is",
            64,
            "run 'x' is not published in /output; no run is",
        ),
        (65, "error: the run x is damaged: a; b", 1, "the run x is damaged: a; b"),
        (
            66,
            "error: /output has no published run; `python -m job train` makes one",
            1,
            "/output has no published run; submit a run first, or name another claim with --claim",
        ),
        (
            73,
            (
                "error: the output folder cannot be written at /output/latest: No space left on device; "
                "give a folder that can be written with --output, or make room"
            ),
            1,
            (
                "the output folder cannot be written at /output/latest: No space left on device; "
                "make room on the claim output, or see that it can be written"
            ),
        ),
        (73, "error: /output/runs is a symbolic link; remove it", 1, "/output/runs is a symbolic link; remove it"),
        (
            75,
            "error: the output folder failed at x: Stale; the run can be started again",
            1,
            "the output folder failed at x: Stale; try again",
        ),
        (75, "error: it failed", 1, "it failed; try again"),
        (137, "", 1, "`job promote` ended with 137 and said nothing"),
    ],
)
def test_what_the_job_says_of_a_failure(code: int, errors: str, status: int, said: str) -> None:
    """It is the job's sentence, with a remedy for the launcher: no --output, and no run to start again."""
    cluster = FakeCluster({"kind": "Pod", "metadata": {"name": "h"}})
    cluster.command = lambda *_: ExecResult(code, errors)
    with pytest.raises(LauncherError) as failed:
        helper.Helper(cluster.given(), "h", "output").job("promote", "x")
    assert (failed.value.status, str(failed.value)) == (status, said)


def test_a_bug_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines to report stand above the sentence that asks for them."""
    cluster = FakeCluster({"kind": "Pod", "metadata": {"name": "h"}})
    cluster.command = lambda *_: ExecResult(
        70, "Traceback\n  at x\nerror: KeyError: 1; please report it with the lines above\n"
    )
    with pytest.raises(LauncherError, match=r"^KeyError: 1; please report it with the lines above$"):
        helper.Helper(cluster.given(), "h", "output").job("prune")
    assert capsys.readouterr().err == "Traceback\n  at x\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConnectionError("cut"),
            "the connection to pod h breaks again and again: cut; the same command goes on where it was",
        ),
        (
            ApiError(404, "NotFound", "no pod", "run it"),
            "the pod h was taken away; the same command goes on where it was, in a new one",
        ),
        (ApiError(403, "Forbidden", "no", "run it"), "the API server refused to run it: no"),
    ],
)
def test_nothing_can_be_run(error: Exception, said: str) -> None:
    """A pod in which nothing can be run is told in a sentence."""

    def command(*_: Any) -> ExecResult:
        raise error

    cluster = FakeCluster({"kind": "Pod", "metadata": {"name": "h"}})
    cluster.command, cluster.patience_s = command, 0.0
    with pytest.raises(LauncherError) as told:
        helper.Helper(cluster.given(), "h", "output").output(["cat"])
    assert str(told.value) == said


@pytest.mark.parametrize(("writes", "role"), [(False, "fetcher"), (True, "runner")])
def test_who_may_not(writes: bool, role: str) -> None:
    """A user who could make the pod but neither use nor delete it is told so, and none is made."""
    cluster = FakeCluster(claim("ReadWriteMany"))
    cluster.forbidden = {("get", "Pod", "exec"), ("delete", "Pod", "")}
    place = Place("digits:1", "output")
    with pytest.raises(LauncherError) as refused, helper.opened(cluster.given(), place, writes=writes):
        pass
    said = "this user may not get Pod/exec, delete Pod in namespace here, to look at the volume"
    assert str(refused.value) == f"{said}; bind the role mnist-job-{role} of k8s/manifests/rbac"
    assert (refused.value.status, cluster.asked) == (2, [])
