"""The launcher with the roles of k8s/manifests/rbac and no other right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.commands import submit
from k8s.render.kustomize import MANIFESTS
from tests.cluster.access import log_in
from tests.cluster.lab import conditions, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.lab import Lab

LONG = ("--epochs=100000", "--evaluate-every=0")


def test_who_runs_and_who_fetches(shared: Lab, tmp_path: Path) -> None:
    """A runner submits, follows, explains, stops, retries, promotes and prunes; a fetcher only fetches and compares."""
    submit.create_setup(shared.cluster, shared.render("any"))  # an admin does that before
    shared.kubectl("apply", "-k", str(MANIFESTS / "rbac"))
    runner = log_in(shared, "mnist-job-runner", tmp_path / "runner")
    fetcher = log_in(shared, "mnist-job-fetcher", tmp_path / "fetcher")

    def run(command: str, *arguments: str, code: int = 0) -> str:
        return shared.launcher(command, *arguments, code=code, kubeconfig=runner)

    said = run("preflight", *shared.submission("short"))
    assert "not checked nodes: this user may not ask" in said
    assert "failed" not in said
    said = run("submit", "--wait", *shared.submission("short", "--epochs=1", workers=1))
    assert "short is published" in said
    assert "nothing is wrong: it is published" in run("why", "short")
    assert "phase=published" in run("logs", "short")

    run("submit", *shared.submission("long", *LONG, workers=1))
    shared.until_step("long", 500)
    said = run("status", "long")
    assert "training" in said
    run("suspend", "long")
    until(lambda: "Suspended" in conditions(shared.job("long")), "the suspension")
    run("resume", "long")
    run("cancel", "long")
    run("retry", "long")
    shared.until_step("long", 1)
    run("cancel", "long")
    said = run("status")
    assert "published" in said
    assert "cancelled" in said

    folder = tmp_path / "fetched"
    assert run("promote", "short").startswith("latest is short")
    assert "there is nothing to prune" in run("prune", "--keep=5", "--yes")
    said = shared.launcher("prune", "--keep=1", "--yes", code=2, kubeconfig=fetcher)
    assert "this user may not delete Job" in said
    assert "short <- latest" in shared.launcher("compare", kubeconfig=fetcher)
    for name in ("short", "latest"):
        shared.launcher("fetch", name, str(folder), kubeconfig=fetcher)
    assert (folder / "short" / "report.html").is_file()
    said = shared.launcher("submit", *shared.submission("other", workers=1), code=2, kubeconfig=fetcher)
    assert "failed      permissions: this user may not create Job" in said
