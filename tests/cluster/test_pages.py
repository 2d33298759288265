"""The commands that README and docs print for kind work exactly as printed, in a copy of the checkout.

A page's commands are its first `sh` block after a text of the page. Those that create and delete the cluster are left
out, because the cluster is the one that KUBECONFIG names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cluster.access import current_kubeconfig, kind_cluster
from tests.cluster.namespace import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.namespace import Namespace

ACTIVATE = ". .venv/bin/activate"  # README says it once, and the pages suppose it
ABOUT_THE_CLUSTER = re.compile(r"kind (create|delete) cluster")


def commands(page: str, after: str) -> list[str]:
    """The lines of a page's first `sh` block after a text, without those that create and delete the cluster."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(after)[2]
    block = re.search(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert block, f"{page} has no commands after {after}"
    return [line for line in block[1].splitlines() if not ABOUT_THE_CLUSTER.match(line)]


class Checkout:
    """A copy of this checkout, whose commands use one namespace.

    Args:
        folder: where the copy is.
        kubeconfig: where to write a kubeconfig with the namespace.
        namespace: its name.

    Attributes:
        folder: where the copy is.
    """

    def __init__(self, folder: Path, kubeconfig: Path, namespace: str) -> None:
        self.folder, self._kubeconfig = folder, kubeconfig
        content = current_kubeconfig()
        content["contexts"][0]["context"]["namespace"] = namespace
        kubeconfig.write_text(json.dumps(content), encoding="utf-8")

    def run(self, *lines: str) -> str:
        """Run lines in one shell, which ends at the first that fails; returns what they print."""
        # `make` gives the variables of its command line to the tests.
        makes = set(re.findall(r"^([A-Z]+) \?=", (self.folder / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MNIST_JOB_", "MAKE")) and name not in makes
        } | {
            "KUBECONFIG": str(self._kubeconfig),
            "PYTHONPATH": str(self.folder),  # before the code that the virtual environment's scripts would run
            "BROWSER": "echo",
            "GIT_OPTIONAL_LOCKS": "0",  # git in the copy reads this checkout's repository, and must not write to it
        }
        command = ["bash", "-c", "\n".join(["set -e", *lines])]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{lines}: {done.returncode}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout with its dataset and its virtual environment."""
    kind_cluster("kind", "git", "make")
    for needed in (".git", ".venv/installed", "data"):
        if not (ROOT / needed).exists():
            pytest.skip(f"this is no checkout after make data: there is no {needed}")
    copy = tmp_path_factory.mktemp("pages") / "mnist-job"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    shutil.copytree(ROOT / "data", copy / "data")
    for name in (".git", ".venv"):
        (copy / name).symlink_to(ROOT / name)
    os.utime(copy / "requirements" / "dev.txt", (0, 0))  # so that `make` does not renew the virtual environment
    return copy


@pytest.fixture
def checkout(folder: Path, tmp_path: Path, namespace: Namespace) -> Checkout:
    """The copy, whose image is on the nodes, with a new namespace."""
    made = Checkout(folder, tmp_path / "kubeconfig", namespace.name)
    loaded = folder.parent / "loaded"
    if not loaded.exists():  # not in `folder`, which is made before it is this test's turn on the cluster
        [load] = [line for line in quick_start() if line.startswith("make load")]
        made.run(load)
        loaded.touch()
    return made


def quick_start() -> list[str]:
    """README's commands for kind."""
    return commands("README.md", "**On kind.**")


def test_quick_start(checkout: Checkout) -> None:
    """README's commands for kind load the image, train, and fetch a model with its report."""
    said = checkout.run(*(line for line in quick_start() if not line.startswith("make load")))
    assert "first is published" in said
    assert f"{checkout.folder}/first/report.html" in said
    report = json.loads((checkout.folder / "first" / "report.json").read_text(encoding="utf-8"))
    assert report["test"]["accuracy"] > 0.925


def test_without_the_launcher(checkout: Checkout, namespace: Namespace) -> None:
    """The manifests start a run without the launcher, and its log ends when it is published."""
    said = checkout.run(*commands("docs/kubernetes.md", "## Without the launcher"))
    assert "phase=published" in said
    namespace.wait_until_published("mnist")


def test_schedule(checkout: Checkout, namespace: Namespace) -> None:
    """A schedule is made, a run of it is started at once, and its result becomes the schedule's."""
    said = checkout.run(ACTIVATE, *commands("docs/retraining.md", "## On a schedule"))
    run = re.search(r"nightly-\d+", said)
    assert run, said
    namespace.wait_until_published(run[0])
    assert re.search(rf"{run[0]}.*published", checkout.run(ACTIVATE, "mnist-job status nightly"))
