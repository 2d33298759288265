"""The check of the job's image: where no registry can have it, the nodes must."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from k8s.checks import image as checks
from k8s.checks.check import Check
from k8s.state.names import trainer_of
from tests.k8s.checks.cluster import IMAGES, CheckedCluster, node

if TYPE_CHECKING:
    from k8s.api.objects import Object

SHA = "sha256:" + 64 * "a"
LATE = "waiting 45 s, because nodes list a new image late"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes in sleeps alone."""
    now = [0.0]
    passing = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds))
    monkeypatch.setattr(checks, "time", passing)
    return now


def check(job: Object, image: str, *nodes: Object, policy: str | None = "IfNotPresent") -> tuple[Check, list[str]]:
    """The check of an image on these nodes, and what it says while it waits."""
    trainer_of(job["spec"]["template"]).update(image=image, imagePullPolicy=policy)
    cluster = CheckedCluster(*nodes)
    return checks.check_image(cluster.given(), job), cluster.said


@pytest.mark.parametrize(
    ("image", "registry", "full"),
    [
        ("mnist-job:dev", "", "docker.io/library/mnist-job:dev"),
        ("mnist-job", "", "docker.io/library/mnist-job:latest"),
        (f"mnist-job@{SHA}", "", f"docker.io/library/mnist-job@{SHA}"),
        ("localhost/mnist-job:dev", "", "localhost/mnist-job:dev"),
        ("localhost:5000/mnist-job:1", "localhost:5000", "localhost:5000/mnist-job:1"),
        ("you/mnist-job:1", "docker.io", "docker.io/you/mnist-job:1"),
        ("docker.io/mnist-job:dev", "docker.io", "docker.io/library/mnist-job:dev"),
        ("docker.io/you/mnist-job:1", "docker.io", "docker.io/you/mnist-job:1"),
        ("index.docker.io/mnist-job:dev", "docker.io", "docker.io/library/mnist-job:dev"),
        ("registry.example/mnist-job:1", "registry.example", "registry.example/mnist-job:1"),
        (f"r.example:5000/you/mnist-job:1@{SHA}", "r.example:5000", f"r.example:5000/you/mnist-job@{SHA}"),
        ("registry:5000/mnist-job:1", "registry:5000", "registry:5000/mnist-job:1"),
        ("[::1]:5000/mnist-job:1", "[::1]:5000", "[::1]:5000/mnist-job:1"),
    ],
)  # fmt: skip
def test_names(image: str, registry: str, full: str) -> None:
    """A name is completed as containerd completes it."""
    assert checks.parse(image) == (registry, full)


@pytest.mark.parametrize(
    "image", ["NAME@DIGEST", "Mnist:dev", "mnist-job:", "mnist job:1", "a@sha256:12", "<none>@<none>"]
)
def test_name_that_no_node_takes(job: Object, image: str) -> None:
    """A name that is not valid can never be pulled, so the check fails."""
    found, _ = check(job, image, node("a"))
    assert (found.state, found.message) == ("failed", f"{image!r} is not a valid image name")


@pytest.mark.parametrize("name", ["you/mnist-job:1", f"registry.example/mnist-job@{SHA}"])
def test_image_of_a_registry(job: Object, name: str) -> None:
    """Only a node can tell whether it can pull an image, so there is no warning about one in a registry."""
    assert check(job, name, node("a"))[0].state == "ok"


def test_image_that_no_node_has(job: Object, clock: list[float]) -> None:
    """A node lists a new image late, so the check waits; then it warns with the remedy."""
    found, said = check(job, "mnist-job:nope", node("a"), node("b"))
    assert (found.state, found.message) == (
        "warning",
        "nodes a, b do not list mnist-job:nope, and the name has no registry to pull it from",
    )
    assert "`make load IMAGE=mnist-job:nope`" in found.remedy
    assert said == [f"nodes a, b do not list mnist-job:nope; {LATE}"]
    assert clock[0] == 45


def test_image_that_was_just_loaded(job: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the nodes list the image during the wait, the check succeeds."""
    cluster = CheckedCluster(node("a", images=IMAGES[1:]))
    loaded = node("a")
    passing = SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda _: cluster.objects.update({("Node", "a"): loaded}))
    monkeypatch.setattr(checks, "time", passing)
    found = checks.check_image(cluster.given(), job)
    assert (found.state, found.message) == ("ok", "mnist-job:dev is on the nodes")
    assert cluster.said == [f"node a does not list mnist-job:dev; {LATE}"]


@pytest.mark.usefixtures("clock")
def test_only_nodes_that_accept_the_job_count(job: Object) -> None:
    """A node that may get a worker and lacks the image is named; a control plane with a taint is not."""
    taint = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
    other = node("control-plane", images=IMAGES[1:], taints=[taint])
    assert check(job, "mnist-job:dev", node("a"), other)[0].state == "ok"
    found, _ = check(job, "mnist-job:dev", node("a"), node("b", images=IMAGES[1:]), other)
    assert found.message.startswith("node b does not list mnist-job:dev, and")
    assert check(job, "mnist-job:dev", other)[0].state == "not checked"


def cut(**status: Any) -> Object:
    """A node with other images."""
    found = node("a")
    found["status"] |= status
    return found


@pytest.mark.parametrize(
    "images",
    [
        [],
        [{"names": [f"registry.example/{number}:1"]} for number in range(50)],
        [{"names": [f"registry.example/{number}:1" for number in range(5)]}],
    ],
    ids=["none", "the most images", "the most names"],
)
def test_lists_that_may_be_cut(job: Object, images: list[Object]) -> None:
    """Where a node may not list all of its images, nothing is said about one that it does not list."""
    assert check(job, "mnist-job:nope", cut(images=images)) == (
        Check("image", "not checked", "the nodes may not list all of their images, so mnist-job:nope may be missing"),
        [],
    )


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("image", "policy", "message"),
    [
        ("mnist-job:dev", "Never", None),
        ("docker.io/mnist-job:dev", "Never", None),
        ("mnist-job:dev", None, None),
        ("registry.example/m:1", "Never", "node a does not list registry.example/m:1, and imagePullPolicy is Never"),
        (
            "mnist-job:dev",
            "Always",
            "the nodes pull mnist-job:dev before each start (imagePullPolicy: Always), and the name has no registry",
        ),
        (
            "mnist-job",
            None,
            "the nodes pull mnist-job before each start (imagePullPolicy: Always), and the name has no registry",
        ),
    ],
)
def test_pull_policy(job: Object, image: str, policy: str | None, message: str | None) -> None:
    """An image that is never pulled must be on the nodes; one that is always pulled needs a registry."""
    found, _ = check(job, image, node("a"), policy=policy)
    assert (found.state, found.message) == (("warning", message) if message else ("ok", f"{image} is on the nodes"))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("runtime", "listed", "state"),
    [
        ("containerd://2.1.3", "localhost/mnist-job:dev", "warning"),
        ("cri-o://1.33.0", "localhost/mnist-job:dev", "ok"),
        ("docker://28.2.2", "mnist-job:dev", "ok"),
    ],
)
def test_names_as_runtimes_list_them(job: Object, runtime: str, listed: str, state: str) -> None:
    """CRI-O finds a name without a registry under localhost, containerd does not; Docker lists short names."""
    one = cut(images=[{"names": [listed]}], nodeInfo={"containerRuntimeVersion": runtime})
    assert check(job, "mnist-job:dev", one)[0].state == state
