"""The launcher with the rights of the roles in k8s/manifests/rbac alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.commands import submit
from k8s.render.kustomize import MANIFESTS
from tests.cluster.access import log_in
from tests.cluster.namespace import conditions, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.namespace import Namespace

LONG = ("--epochs=100000", "--evaluate-every=0")


def test_the_rights_of_the_roles(shared: Namespace, tmp_path: Path) -> None:
    """The role runner allows all commands on runs; the role fetcher allows only fetch and compare."""
    submit.create_setup(shared.cluster, shared.render("any"))  # an administrator has done this before
    shared.kubectl("apply", "-k", str(MANIFESTS / "rbac"))
    runner = log_in(shared, "mnist-job-runner", tmp_path / "runner")
    fetcher = log_in(shared, "mnist-job-fetcher", tmp_path / "fetcher")

    def run(command: str, *arguments: str, code: int = 0) -> str:
        return shared.launcher(command, *arguments, code=code, kubeconfig=runner)

    output = run("preflight", *shared.submission("short"))
    assert "not checked nodes: this user may not ask" in output
    assert "failed" not in output
    output = run("submit", "--wait", *shared.submission("short", "--epochs=1", workers=1))
    assert "short is published" in output
    assert "nothing is wrong: the model is published" in run("why", "short")
    assert "phase=published" in run("logs", "short")

    run("submit", *shared.submission("long", *LONG, workers=1))
    shared.wait_for_step("long", 500)
    output = run("status", "long")
    assert "training" in output
    run("suspend", "long")
    wait_until(lambda: "Suspended" in conditions(shared.job("long")), "the suspension")
    run("resume", "long")
    run("cancel", "long")
    run("retry", "long")
    shared.wait_for_step("long", 1)
    run("cancel", "long")
    output = run("status")
    assert "published" in output
    assert "cancelled" in output

    folder = tmp_path / "fetched"
    assert run("promote", "short").startswith("latest is short")
    assert "there is nothing to prune" in run("prune", "--keep=5", "--yes")
    output = shared.launcher("prune", "--keep=1", "--yes", code=2, kubeconfig=fetcher)
    assert "this user may not delete Job" in output
    assert "short <- latest" in shared.launcher("compare", kubeconfig=fetcher)
    for name in ("short", "latest"):
        shared.launcher("fetch", name, str(folder), kubeconfig=fetcher)
    assert (folder / "short" / "report.html").is_file()
    output = shared.launcher("submit", *shared.submission("other", workers=1), code=2, kubeconfig=fetcher)
    assert "failed      permissions: this user may not create Job" in output
