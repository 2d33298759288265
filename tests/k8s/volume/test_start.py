"""The volume pod: its node, its template, why it does not start, and that it is always deleted."""

from __future__ import annotations

import argparse
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from job.errors import JobError
from k8s.api.errors import ApiError, LauncherError
from k8s.diagnose import catalogue
from k8s.state.names import APP, NAME_LABEL, claim_of, trainer_of
from k8s.volume import start
from k8s.volume.template import LABELS, base_template
from tests.k8s.fakes import FakeCluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.objects import Object


FLAGS = argparse.Namespace(image=None, claim=None)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(start, "POLL_S", 0.0)


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
def test_node(objects: list[Object], node: str) -> None:
    """The pod must run on the node of the pods that use the volume, unless several nodes can mount it."""
    assert start.node_for(FakeCluster(*objects).given(), "output") == node


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ([], "there is no claim output in namespace here; choose the claim that the run wrote to: --claim"),
        (
            [claim("ReadWriteOnce", phase="Pending")],
            "the claim output has no volume yet, so there is nothing on it; submit a run first",
        ),
        (
            [claim("ReadWriteOncePod"), user()],
            "pod user uses the claim output, which only one pod can use at a time; try again once that pod has ended",
        ),
    ],
)
def test_claim_that_cannot_be_mounted(objects: list[Object], said: str) -> None:
    """A claim that cannot be mounted is refused before a pod is created."""
    with pytest.raises(LauncherError) as refused:
        start.node_for(FakeCluster(*objects).given(), "output")
    assert (refused.value.status, str(refused.value)) == (2, said)


def test_claim_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the user may not read the claim, the pod runs where other pods use it, which is right for all."""
    cluster = FakeCluster(user())

    def forbid(*_: str) -> None:
        raise ApiError(403, "Forbidden", "no", "get it")

    monkeypatch.setattr(cluster, "get", forbid)
    assert start.node_for(cluster.given(), "output") == "n1"


def test_new_claim() -> None:
    """A command that fills a claim may mount one that has no volume yet."""
    assert start.node_for(FakeCluster(claim("ReadWriteOnce", phase="Pending")).given(), "output", new=True) == ""


@pytest.mark.parametrize(
    ("objects", "asked", "image", "claim_name"),
    [
        ([job()], ("digits", None, None), "digits:1", "output"),
        ([job()], ("digits", "mine:2", "mine"), "mine:2", "mine"),
        ([job(), job("newer", "2026-02-01T00:00:00Z")], ("gone", None, None), "newer:1", "output"),
        ([job(), job("newer", "2026-02-01T00:00:00Z")], (None, None, None), "newer:1", "output"),
    ],
    ids=["its job", "flags", "another's job", "the newest"],
)
def test_template(
    objects: list[Object], asked: tuple[str | None, str | None, str | None], image: str, claim_name: str
) -> None:
    """The template is that of the run's Job, or of the newest run's; the flags replace its image and claim."""
    cluster = FakeCluster(*objects)
    template = start.template_for(cluster.given(), *asked)
    assert (trainer_of(template)["image"], claim_of(template)) == (image, claim_name)
    assert trainer_of(template)["imagePullPolicy"] == "Always"


def test_template_without_a_job() -> None:
    """If no Job is left, the base manifest is the template, with the image that was given."""
    cluster = FakeCluster().given()
    assert start.template_for(cluster, "gone", "mine:2", None) == base_template("mine:2")
    with pytest.raises(JobError) as refused:
        start.template_for(cluster, "digits", None, None)
    assert str(refused.value) == (
        "there is no Job digits in namespace here; check the names of the run and the namespace; "
        "if the Job was deleted, give the image with --image"
    )


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
def test_pod_is_always_deleted(end: Callable[[], None], error: type[BaseException] | None) -> None:
    """However the launcher ends, it deletes the pod, and earlier pods that ended by themselves."""
    cluster = FakeCluster(claim("ReadWriteMany"), job())
    for name, phase in (("old", "Succeeded"), ("busy", "Running")):
        metadata = {"name": name, "uid": name, "labels": LABELS}
        cluster.objects["Pod", name] = {"kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": phase}}
    before = signal.getsignal(signal.SIGTERM)

    def use() -> None:
        with start.open_volume(cluster.given(), FLAGS) as pod:
            assert ("Pod", pod.name) in cluster.objects
            end()

    if error:
        with pytest.raises(error):
            use()
    else:
        use()
    assert [name for kind, name in cluster.objects if kind == "Pod"] == ["busy"]
    assert signal.getsignal(signal.SIGTERM) is before


class InterruptedCluster(FakeCluster):
    """Its user presses Ctrl-C while the pod is deleted, and the terminal is closed."""

    def __init__(self, *objects: Object, times: int) -> None:
        super().__init__(*objects)
        self._times = times

    def delete(self, kind: str, name: str, **options: Any) -> None:
        """Delete, after the signals."""
        os.kill(os.getpid(), signal.SIGHUP)
        for _ in range(self._times):
            os.kill(os.getpid(), signal.SIGINT)
        super().delete(kind, name, **options)


def test_ctrl_c_while_the_pod_is_deleted() -> None:
    """The pod is deleted, and a note says how to give up; a second Ctrl-C does."""
    said: list[str] = []
    once, twice = (InterruptedCluster(claim("ReadWriteMany"), job(), times=times) for times in (1, 2))
    once.say = said.append
    with pytest.raises(ZeroDivisionError), start.open_volume(once.given(), FLAGS) as pod:
        raise ZeroDivisionError
    assert said == [f"deleting the pod {pod.name}, which mounts the volume; another Ctrl-C leaves it there"]
    assert not [name for kind, name in once.objects if kind == "Pod"]
    with pytest.raises(KeyboardInterrupt), start.open_volume(twice.given(), FLAGS) as pod:
        pass
    assert ("Pod", pod.name) in twice.objects
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nohup() -> None:
    """A launcher that was told to ignore the end of its terminal goes on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with start.open_volume(FakeCluster(claim("ReadWriteMany"), job()).given(), FLAGS):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_pod_that_does_not_start_is_deleted() -> None:
    """A pod that will not start is deleted too."""
    cluster = FakeCluster(claim("ReadWriteMany"), job())
    cluster.pod_status = {"phase": "Failed", "message": "Pod was rejected: no room"}
    with (
        pytest.raises(LauncherError, match="the volume pod does not start: Pod was rejected: no room"),
        start.open_volume(cluster.given(), FLAGS),
    ):
        pass
    assert not [name for kind, name in cluster.objects if kind == "Pod"]


def waiting(reason: str, message: str = "", name: str = "volume") -> Object:
    """The status of a pod in which a container waits, the volume pod's own or one that was added."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": name, "state": state}]}


def with_init(phase: str, state: Object) -> Object:
    """The status of a pod with an init container that was added."""
    return {**waiting("PodInitializing"), "phase": phase, "initContainerStatuses": [{"name": "init", "state": state}]}


UNSCHEDULED = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}
    ],
}
MOUNT = {"type": "Warning", "message": 'MountVolume.SetUp failed for volume "output"'}


AGAIN = "then run the same command again"  # a run's remedy for its pods would not help


@pytest.mark.parametrize("reason", ["TriggeredScaleUp", "Nominated"])
def test_a_node_that_an_autoscaler_adds_is_waited_for(reason: str) -> None:
    """As long as for the pull of an image."""
    pod = {"metadata": {"name": "v"}, "spec": {"containers": [{"name": "volume"}]}, "status": UNSCHEDULED}
    events = [{"type": "Normal", "reason": reason, "message": "pod triggered scale-up"}]
    assert start.start_failure(pod, events, 200, "") is None
    assert "still starting" in str(start.start_failure(pod, events, 301, ""))


@pytest.mark.parametrize(
    ("status", "waited_s", "said"),
    [
        ({"phase": "Pending"}, 200, None),
        (waiting("ContainerCreating"), 200, None),
        (UNSCHEDULED, 5, None),
        (
            UNSCHEDULED,
            35,
            (
                "the volume pod does not start: no node is suitable: 0/2 nodes are available: 2 Insufficient cpu.; "
                "fix what this message names"
            ),
        ),
        (
            waiting("ErrImagePull", "not found"),
            0,
            (
                "the volume pod does not start: its image mine:2 is not available (not found); "
                f"{catalogue.remedy('image-missing')}"
            ),
        ),
        (
            waiting("ErrImagePull", "401 Unauthorized"),
            0,
            (
                "the volume pod does not start: its image mine:2 is not available (401 Unauthorized); "
                f"{catalogue.remedy('image-login', flags='-n here', account='default', new_pods=AGAIN)}"
            ),
        ),
        (
            waiting("CreateContainerConfigError", "no secret"),
            0,
            (f"the volume pod does not start: CreateContainerConfigError: no secret; {catalogue.remedy('refused')}"),
        ),
        (
            waiting("ErrImagePull", "not found", "proxy"),
            0,
            (
                "the volume pod does not start: its image proxy:1 of container proxy is not available (not found); "
                f"{catalogue.remedy('image-missing')}"
            ),
        ),
        (
            with_init("Failed", {"terminated": {"exitCode": 1, "reason": "Error"}}),
            0,
            f"the volume pod does not start: init container init exited with 1; {catalogue.remedy('refused')}",
        ),
        (with_init("Pending", {"running": {}}), 200, None),
        (
            with_init("Pending", {"running": {}}),
            301,
            (
                "the volume pod does not start: still starting after 300 s; "
                'MountVolume.SetUp failed for volume "output"; init container init is not ready; '
                f"{catalogue.remedy('volume', pod='helper', flags='-n here')}"
            ),
        ),
        (
            waiting("ContainerCreating"),
            301,
            (
                "the volume pod does not start: still starting after 300 s; "
                'MountVolume.SetUp failed for volume "output"; '
                f"{catalogue.remedy('volume', pod='helper', flags='-n here')}"
            ),
        ),
    ],
    ids=[
        "new",
        "creating",
        "no node yet",
        "no node",
        "image",
        "login",
        "container",
        "sidecar",
        "init",
        "waits",
        "late",
        "volume",
    ],
)
def test_start_failure(status: Object, waited_s: float, said: str | None) -> None:
    """The reason is given once it is certain."""
    metadata = {"name": "helper", "namespace": "here"}
    injected = [{"name": "proxy", "image": "proxy:1"}, {"name": "volume", "image": "mine:2"}]
    pod = {"metadata": metadata, "spec": {"containers": injected}, "status": status}
    found = start.start_failure(pod, [{"type": "Normal", "message": "Scheduled"}, MOUNT], waited_s, "-n here")
    assert (str(found) if found else None) == said


@pytest.mark.parametrize(("writes", "role"), [(False, "fetcher"), (True, "runner")])
def test_missing_permissions(writes: bool, role: str) -> None:
    """A user who could create the pod but neither use nor delete it is refused, and no pod is created."""
    cluster = FakeCluster(claim("ReadWriteMany"), job())
    cluster.forbidden = {("get", "Pod", "exec"), ("delete", "Pod", "")}
    with pytest.raises(LauncherError) as refused, start.open_volume(cluster.given(), FLAGS, writes=writes):
        pass
    said = "this user may not get Pod/exec, delete Pod in namespace here; access to the volume needs these permissions"
    assert str(refused.value) == f"{said}; bind the role mnist-job-{role} of k8s/manifests/rbac"
    assert (refused.value.status, cluster.asked) == (2, [])
