"""Images in a registry with TLS and a password: pushed by each engine, pulled by the nodes, and what can go wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cluster.namespace import ROOT, Namespace, wait_until
from tests.cluster.systems.programs import run
from tests.cluster.systems.registry import PROGRAMS, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Enough of an ELF file for an Arm processor that the kernel of another one refuses to execute it.
ARM_PROGRAM = b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + (183).to_bytes(2, "little") + bytes(44)
BASE = "python:3.11-slim-bookworm"


@pytest.fixture(scope="module")
def registry(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry. Afterwards no node has its images or knows its authority."""
    for program in PROGRAMS:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    if os.geteuid():
        pytest.skip("only root may let docker trust a registry's certificate")
    with Registry(tmp_path_factory.mktemp("registry"), kind).running() as registry:
        yield registry


@pytest.fixture(scope="module")
def base(registry: Registry) -> str:
    """The Dockerfile's base image in the registry, by digest."""
    return registry.push(BASE, "library/python")


@pytest.fixture(scope="module")
def arm(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small image for 64-bit Arm in the registry, by digest."""
    folder = tmp_path_factory.mktemp("arm")
    (folder / "python").write_bytes(ARM_PROGRAM)
    (folder / "python").chmod(0o755)
    (folder / "Dockerfile").write_text('FROM scratch\nCOPY python /python\nENTRYPOINT ["/python"]\n')
    run("docker", "build", "--quiet", "--platform=linux/arm64", "--tag=small:arm64", str(folder))
    try:
        return registry.push("small:arm64", "you/small")
    finally:
        run("docker", "rmi", "small:arm64")


@pytest.fixture
def member(namespace: Namespace, registry: Registry) -> Namespace:
    """A namespace whose pods have a pull secret, given as docs/kubernetes.md says."""
    namespace.claim("output", "ReadWriteOnce", os.environ.get("RWX_CLASS") or os.environ.get("RWO_CLASS"))
    registry.let_pull(namespace)
    return namespace


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_make_push(registry: Registry, base: str, tmp_path: Path, engine: str) -> None:
    """Each engine builds on a base by digest that it pulls from the registry, pushes, and prints the name by digest.

    The target is one without TensorFlow, which each engine would install anew.
    """
    if not shutil.which(engine):
        pytest.skip(f"{engine} is not installed")
    for other in {"docker", "podman", "buildah"} - {engine}:
        (tmp_path / other).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / other).chmod(0o755)
    image = f"{registry.host}/you/mnist-job:{engine}"
    variables = [f"IMAGE={image}", "TARGET=app", f"ARGS=--build-arg BASE={base}"]
    environment = registry.environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    if engine == "docker":
        # The builds of an older dockerd trust only the registries that were trusted when it started.
        run("docker", "pull", base, env=registry.environment)
    # The virtual environment is there: this test runs in it.
    output = run("make", "--assume-old=.venv/installed", "push", *variables, cwd=ROOT, env=environment)
    run(engine, "rmi", image, base)
    name = output.splitlines()[-1]
    assert re.fullmatch(rf"{registry.host}/you/mnist-job@sha256:[0-9a-f]{{64}}", name)
    manifest, below = registry.manifest(name), registry.layers(base)
    assert manifest == registry.manifest(image)
    assert registry.layers(name)[: len(below)] == below
    compression = "gzip" if engine == "docker" else "zstd"
    assert manifest["layers"][-1]["mediaType"].endswith(compression)


def test_a_run_pulls_its_image_by_digest(namespace: Namespace, registry: Registry, image: str, tmp_path: Path) -> None:
    """Without a pull secret it waits, and `why` says so; with the remedy that `why` gives, it runs to the end."""
    namespace.image = registry.push(image, "you/mnist-job")
    namespace.claim("output", "ReadWriteOnce", os.environ.get("RWX_CLASS") or os.environ.get("RWO_CLASS"))
    namespace.submit("first", "--epochs=1")
    said = explained(namespace, "first", r"\nworkers 0 and 1 cannot pull the image .*: no basic auth credentials")
    login = {"REGISTRY": registry.host, "USER": registry.user, "PASSWORD": registry.password}
    remedy = re.sub("|".join(login), lambda word: login[word[0]], said.splitlines()[-1])
    commands = re.findall("`((?:kubectl|mnist-job) [^`]+)`", remedy)
    assert len(commands) == 4, said
    for command in commands:
        program, *words = shlex.split(command)
        run(*([program] if program == "kubectl" else [sys.executable, "-m", "k8s"]), *words, cwd=ROOT)
    namespace.wait_until_published("first")
    # fetch's pod pulls it too.
    namespace.launcher("fetch", "first", str(tmp_path))
    report = json.loads((tmp_path / "first" / "report.json").read_text(encoding="utf-8"))
    assert report["test"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mnist-job:no-such-tag", r"not found \(.*\nremedy: correct --image, or push the image: "),
        (f"mnist-job@sha256:{'0' * 64}", r"not found \(.*\nremedy: correct --image, or push the image: "),
    ],
)
def test_an_image_that_is_not_there(member: Namespace, registry: Registry, name: str, sentence: str) -> None:
    """`why` says that the registry has no such tag or digest."""
    image = f"{registry.host}/you/{name}"
    assert_explained(member, image, f"worker 0 cannot pull the image {re.escape(image)}: {sentence}")


def test_a_pull_secret_that_does_not_exist(member: Namespace, arm: str) -> None:
    """`why` names it."""
    member.kubectl("delete", "secret", "pull")
    sentence = r": no basic auth credentials; there is no pull secret pull \(.*\nremedy: check the image's name"
    assert_explained(member, arm, sentence)


def test_a_wrong_password(member: Namespace, registry: Registry, arm: str) -> None:
    """`why` gives the registry's answer, and how a pull secret is made."""
    member.kubectl("delete", "secret", "pull")
    login = [f"--docker-server={registry.host}", f"--docker-username={registry.user}", "--docker-password=no"]
    member.kubectl("create", "secret", "docker-registry", "pull", *login)
    assert_explained(member, arm, r": 401 Unauthorized \(.*\nremedy: check the image's name")


def test_a_certificate_that_the_nodes_do_not_trust(member: Namespace, registry: Registry, arm: str) -> None:
    """`why` says where containerd looks for the certificate of the registry's authority."""
    registry.distrust()
    try:
        assert_explained(member, arm, r"unknown authority \(.*\nremedy: let each node trust it; .*/ca\.crt on the node")
    finally:
        registry.trust()


def test_an_image_of_another_architecture(member: Namespace, arm: str) -> None:
    """A node pulls it, because the registry has no other; the program then does not start."""
    sentence = r"worker 0 exited with \d+ \(image-architecture\): .*exec format error.*\n(.*\n)?remedy: build it for"
    assert_explained(member, arm, sentence)


def assert_explained(namespace: Namespace, image: str, sentence: str) -> None:
    """Start a run of one worker with this image; `why` must explain it by this pattern."""
    namespace.send(namespace.render("run", image=image, cpu="50m"))
    explained(namespace, "run", sentence)


def explained(namespace: Namespace, run: str, sentence: str) -> str:
    """The output of `why`, once this pattern is in it."""

    def said() -> str | None:
        output = namespace.why(run)
        return output if re.search(sentence, output) else None

    return wait_until(said, sentence)
