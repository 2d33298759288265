"""The image: what its text promises to the manifests, and the script that takes it where it is needed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import job
from job import cluster
from job.config import Config
from k8s.state import names as contract

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STAGES = dict(
    re.findall(r"^FROM [^\n]+ AS ([\w-]+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL),
)
JOB = yaml.safe_load((ROOT / "k8s/manifests/run/job.yaml").read_text(encoding="utf-8"))


def instruction(name: str, stage: str = "runtime") -> str:
    """What stands after an instruction that a stage has once."""
    [value] = re.findall(rf"^{name} (.*)", STAGES[stage], re.MULTILINE)
    return str(value)


def test_a_plain_build_makes_the_cpu_image() -> None:
    """The last stage is `cpu`, and the two images differ in their lock file and the driver's folder alone."""
    assert list(STAGES)[-2:] == ["gpu", "cpu"]
    assert re.findall(r"^FROM (\S+) AS [cg]pu$", DOCKERFILE, re.MULTILINE) == ["runtime", "runtime"]
    for device in ("cpu", "gpu"):
        assert f"COPY requirements/{device}.txt " in STAGES[f"packages-{device}"]
        assert f"COPY --from=packages-{device} " in STAGES[device]
    cpu, gpu = (
        re.sub("# .*\n|ENV LD_LIBRARY_PATH=.*\n", "", STAGES[device]).replace(device, "DEVICE").strip()
        for device in ("cpu", "gpu")
    )
    assert cpu == gpu


def test_a_change_of_the_code_changes_the_last_layer_alone() -> None:
    """The code has a stage of its own, and is copied last: nodes have the other layers already."""
    assert re.findall(r"^COPY job ", DOCKERFILE, re.MULTILINE) == ["COPY job "]
    assert "COPY job " in STAGES["app"]
    for device in ("cpu", "gpu"):
        assert re.findall("^COPY .*", STAGES[device], re.MULTILINE)[-1] == "COPY --from=app /app /app"


def test_first_process_is_the_supervisor() -> None:
    """No shell and no init stands before it: signals reach it, and its exit code is the container's."""
    assert instruction("ENTRYPOINT") == '["python", "-m", "job"]'
    assert instruction("CMD") == '["train"]'


def test_user_is_the_manifests() -> None:
    """The numbers are the manifests', so a volume that the one has made the other can write."""
    user = instruction("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    security = JOB["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"


def test_folders_and_ports_are_the_jobs() -> None:
    """Where `train` is given neither flag it reads the image's dataset and writes to the mounted volume."""
    home = PurePosixPath(instruction("WORKDIR"))
    assert str(home / Config.output) == contract.OUTPUT
    assert f"COPY --from=data /data {home / Config.data}\n" in STAGES["cpu"]
    assert instruction("EXPOSE") == f"{cluster.TENSORFLOW_PORT} {cluster.SUPERVISOR_PORT}"


def test_base_image_is_an_argument_with_a_python_that_the_project_supports() -> None:
    """Every stage stands on the one base, whose Python is within requires-python."""
    [version] = re.findall(r"^ARG BASE=python:(\d+\.\d+)-", DOCKERFILE, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert version in SpecifierSet(project["requires-python"])
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) <= {"${BASE}", *STAGES}


def test_nothing_reaches_the_build_but_what_it_copies() -> None:
    """The ignore file begins with everything, and lets through exactly what the Dockerfile names."""
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line[0] == "!"} == set(
        re.findall(r"^COPY ([^-\s]\S+)", DOCKERFILE, re.MULTILINE)
    )


def test_what_is_left_out_is_locked_and_not_imported() -> None:
    """A package that the image goes without is one that the lock files name, and that the job never imports."""
    script = (ROOT / "requirements/install.sh").read_text(encoding="utf-8")
    [names] = re.findall(r"uninstall --yes \\\n +(.*)", script)
    for lock in ("cpu.txt", "gpu.txt"):
        locked = re.findall(r"^([\w-]+)==", (ROOT / "requirements" / lock).read_text(encoding="utf-8"), re.MULTILINE)
        assert set(names.split()) <= set(locked)
    modules = {"libclang": "clang", "grpcio": "grpc"}
    left_out = {modules.get(name, name.removesuffix("-py").replace("-", "_")) for name in names.split()}
    imported = set()
    for path in (ROOT / "job").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    assert not left_out & imported
    direct = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert not set(names.split()) & {Requirement(dependency).name for dependency in direct}


def test_a_stripped_library_still_works(tmp_path: Path) -> None:
    """The image's libraries lose their symbol tables, and no function; another file stays as it is."""
    [library] = Path(sysconfig.get_path("platlib")).glob("kiwisolver/_cext*.so")
    copy, text = tmp_path / library.name, tmp_path / "text.so"
    shutil.copy(library, copy)
    text.write_text("INPUT(libother.so)\n", encoding="utf-8")
    subprocess.run([sys.executable, ROOT / "requirements/strip.py", copy, text], check=True)
    assert text.read_text(encoding="utf-8") == "INPUT(libother.so)\n"
    assert copy.stat().st_size < library.stat().st_size
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import _cext; print(_cext.Variable('x') >= 1)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("1 * x"), done.stderr


def test_made_image_is_the_one_that_the_manifests_name() -> None:
    """`make load` and `kubectl apply -k` go together as they are."""
    [image] = re.findall(r"^IMAGE \?= (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert contract.trainer_of(JOB["spec"]["template"])["image"] == image


# Stand-ins for the programs that image.sh calls: each notes how it was called, then does as its real one would.
PUSH = "while [ $# -gt 0 ]; do [ $1 != --digestfile ] || echo sha256:DIGEST >$2; shift; done; echo archive"
OTHER = f"case $1 in push) {PUSH} ;; images) echo 2GB ;; esac"
PROGRAMS = {
    "docker": "case $1 in push) echo 1: digest: sha256:0d0c size: 42 ;; save) echo archive ;; images) echo 2GB ;; esac",
    "podman": OTHER.replace("DIGEST", "90d"),
    "buildah": OTHER.replace("DIGEST", "b1d"),
    "kubectl": "[ $1 = config ] && echo kind-lab || echo node/lab-control-plane node/lab-worker",
    "kind": "read -r given && [ $given = archive ]",
    "minikube": "[ $3 = status ] || { read -r given && [ $given = archive ]; }",
}
NO_BUILDX = '[ "$*" != "build --help" ]'  # docker's answer where DOCKER_BUILDKIT is 1


@dataclass(frozen=True)
class Done:
    """What became of image.sh: its exit code, its last line, and how it called which program."""

    code: int
    line: str
    calls: list[str]


@dataclass(frozen=True)
class Desk:
    """A place where image.sh finds the programs that it is given, and no others."""

    root: Path

    def run(self, *arguments: str, **programs: str) -> Done:
        """Run image.sh where these programs exist, doing this."""
        tools, calls, temporary = (self.root / name for name in ("bin", "calls", "tmp"))
        tools.mkdir()
        temporary.mkdir()
        calls.touch()
        for tool in ("cat", "dd", "dirname", "git", "mktemp", "rm", "sed", "tee"):
            (tools / tool).symlink_to(str(shutil.which(tool)))
        for name, does in programs.items():
            (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{calls}\n{does}\n', encoding="utf-8")
            (tools / name).chmod(0o755)
        environment = {"PATH": str(tools), "TMPDIR": str(temporary)}
        done = subprocess.run(
            [ROOT / "image.sh", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not list(temporary.iterdir()), "an image's archive is too large to be left behind"
        said = re.sub(rf"{temporary}/[^/]+", "TMP", calls.read_text(encoding="utf-8"))
        said = re.sub(r"(image\.revision=)\S+", r"\1HEAD", said)
        lines = [line for line in said.splitlines() if not line.endswith((" info", " build --help"))]
        return Done(done.returncode, (done.stdout.splitlines() or [""])[-1], lines)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A fresh desk."""
    return Desk(tmp_path)


def built(engine: str, image: str) -> str:
    """How an engine is asked to build."""
    labels = (
        f"--label org.opencontainers.image.version={job.__version__} --label org.opencontainers.image.revision=HEAD"
    )
    return f"{engine} build --tag {image} {labels} --target cpu ."


def test_first_engine_that_answers_is_used(desk: Desk) -> None:
    """A docker that is only a client is passed over."""
    programs = PROGRAMS | {"docker": "exit 1"}
    assert desk.run("build", "mnist-job:dev", "--target", "cpu", **programs).calls == [built("podman", "mnist-job:dev")]


def test_no_engine_is_said_in_one_sentence(desk: Desk) -> None:
    """Nothing is tried further."""
    done = desk.run("load", "mnist-job:dev", docker="exit 1")
    assert done == Done(64, "error: no container engine answers: start docker or podman, or install buildah", [])


def test_docker_that_cannot_build_is_passed_over(desk: Desk) -> None:
    """Where docker lacks buildx, the next engine builds, and a line says why."""
    done = desk.run("build", "mnist-job:dev", "--target", "cpu", **PROGRAMS | {"docker": NO_BUILDX})
    assert done.calls == [built("podman", "mnist-job:dev")]
    assert done.line == "docker lacks its plugin buildx, so it cannot build the image: using podman"


def test_docker_that_cannot_build_alone(desk: Desk) -> None:
    """Where docker lacks buildx and no other engine is there, one sentence says what to install."""
    done = desk.run("build", "mnist-job:dev", docker=NO_BUILDX)
    why = "docker lacks its plugin buildx, so it cannot build the image"
    assert done == Done(64, f"error: {why}: install that plugin, or podman or buildah", [])


@pytest.mark.parametrize(("engine", "digest"), [("docker", "0d0c"), ("podman", "90d"), ("buildah", "b1d")])
def test_push_ends_with_the_name_by_digest(desk: Desk, engine: str, digest: str) -> None:
    """Whatever the engine, the last line is the name under which a cluster gets these very bytes."""
    image = "registry.example:5000/you/mnist-job:1"
    done = desk.run("push", image, "--target", "cpu", **{engine: PROGRAMS[engine]})
    options = "" if engine == "docker" else "--compression-format zstd --digestfile TMP/digest "
    assert done == Done(
        0,
        f"registry.example:5000/you/mnist-job@sha256:{digest}",
        [built(engine, image), f"{engine} push {options}{image}"],
    )


def test_failed_push_is_an_error(desk: Desk) -> None:
    """No name is printed for what no registry has."""
    done = desk.run("push", "registry.example/mnist-job:1", docker='[ "$1" != push ]')
    assert (done.code, done.line) == (64, "error: registry.example/mnist-job:1 was not pushed")


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("mnist-job:1", "has no registry: use IMAGE=registry.example/you/mnist-job:1"),
        ("registry.example:5000/mnist-job", "needs a tag: IMAGE=registry.example:5000/mnist-job:1"),
        (
            "registry.example/mnist-job:latest",
            "could be a different image on every node: use a version as the tag, such as registry.example/mnist-job:1",
        ),
    ],
)
def test_bad_names_are_refused_before_anything_is_built(desk: Desk, image: str, sentence: str) -> None:
    """The sentence names the value, and a better one."""
    assert desk.run("push", image, **PROGRAMS) == Done(64, f"error: IMAGE={image} {sentence}", [])


@pytest.mark.parametrize(
    ("engine", "save"),
    [
        ("docker", "docker save mnist-job:dev"),
        ("podman", "podman push --quiet mnist-job:dev docker-archive:/dev/stdout:mnist-job:dev"),
        ("buildah", "buildah push --quiet mnist-job:dev docker-archive:/dev/stdout:mnist-job:dev"),
    ],
)
def test_load_goes_to_the_nodes_of_the_current_context(desk: Desk, engine: str, save: str) -> None:
    """Each node of a kind cluster gets the image through a pipe."""
    programs = {name: does for name, does in PROGRAMS.items() if name not in ("docker", "podman", "buildah")}
    done = desk.run("load", "mnist-job:dev", "--target", "cpu", **programs, **{engine: PROGRAMS[engine]})
    assert (done.code, done.line) == (0, "mnist-job:dev is on the nodes of kind-lab")
    size = f"{engine} images --format {{{{.Size}}}} mnist-job:dev"
    asked = ["kubectl config current-context", "kubectl get nodes --output name"]
    assert done.calls[:4] == [*asked, built(engine, "mnist-job:dev"), size]
    load = "kind load image-archive /dev/stdin --name lab --nodes"
    assert sorted(done.calls[4:]) == sorted([save, f"{load} lab-control-plane", save, f"{load} lab-worker"])


def test_load_into_minikube(desk: Desk) -> None:
    """A context that is not kind's is a profile of minikube, if minikube says so."""
    done = desk.run("load", "mnist-job:dev", "--target", "cpu", **PROGRAMS | {"kubectl": "echo lab"})
    assert (done.code, done.line) == (0, "mnist-job:dev is on the nodes of lab")
    assert done.calls[1] == "minikube --profile lab status"
    assert sorted(done.calls[4:]) == ["docker save mnist-job:dev", "minikube --profile lab image load -"]


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("kubectl", "kubectl is not installed; its current context would name the cluster"),
        ("kind", "the current context is kind-lab, but kind is not installed"),
    ],
)
def test_load_without_a_program(desk: Desk, missing: str, sentence: str) -> None:
    """If a program is missing, an error says so before the image is built."""
    done = desk.run("load", "mnist-job:dev", **{name: does for name, does in PROGRAMS.items() if name != missing})
    assert (done.code, done.line) == (64, f"error: {sentence}")
    assert not [call for call in done.calls if "build" in call]


def test_load_into_a_cluster_that_is_stopped(desk: Desk) -> None:
    """If the cluster does not answer, an error says so before the image is built."""
    done = desk.run("load", "mnist-job:dev", **PROGRAMS | {"kubectl": "[ $1 = config ] && echo kind-lab"})
    assert (done.code, done.line) == (64, "error: kind-lab does not list its nodes: is the cluster running?")
    assert not [call for call in done.calls if "build" in call]


@pytest.mark.parametrize("broken", ["docker", "kind"])
def test_load_that_fails_is_an_error(desk: Desk, broken: str) -> None:
    """Neither an image that cannot be read nor a node that does not take it is passed over."""
    programs = PROGRAMS | {broken: '[ "$1" != save ]' if broken == "docker" else "exit 1"}
    assert desk.run("load", "mnist-job:dev", **programs).code == 1


@pytest.mark.parametrize("context", ["kind-lab", "lab"])
def test_half_an_image_is_an_error(desk: Desk, context: str) -> None:
    """Also where the node takes what the engine wrote before it failed."""
    kubectl = f"[ $1 = config ] && echo {context} || echo node/lab-control-plane"
    half = PROGRAMS["docker"].replace("echo archive", "echo archive; exit 1")
    done = desk.run("load", "mnist-job:dev", **PROGRAMS | {"docker": half, "kubectl": kubectl})
    assert (done.code, done.line) == (64, "error: docker could not write the whole image mnist-job:dev")


def test_load_never_goes_to_another_cluster(desk: Desk) -> None:
    """Where the current context is some other cluster nothing is built, and the sentence says what to do instead."""
    done = desk.run("load", "mnist-job:dev", **PROGRAMS | {"kubectl": "echo prod", "minikube": "exit 85"})
    sentence = (
        "error: the current context, prod, is neither kind nor a running minikube: use make push instead, "
        "or make image and your cluster's own tool, such as k3d image import"
    )
    assert (done.code, done.line) == (64, sentence)
    assert done.calls == ["kubectl config current-context", "minikube --profile prod status"]
