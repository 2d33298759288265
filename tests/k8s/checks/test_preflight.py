"""All checks together, and the command that prints them."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from k8s.__main__ import parser
from k8s.api.errors import ApiError
from k8s.checks import preflight
from k8s.checks.check import Check
from k8s.commands import preflight as command
from k8s.commands import submit
from k8s.render import render
from k8s.render.attempt import record_submission
from k8s.render.submission import Submission
from k8s.state.names import CLAIM
from tests.k8s.checks.cluster import CheckedCluster, claim, denied, node, ready_cluster

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from tests.k8s.fakes import FakeCluster

EACH = "(500m cpu, 1Gi memory each)"


def test_everything_is_well(job: Object) -> None:
    """The checks come in the order in which a user would fix them."""
    cluster = ready_cluster()
    assert preflight.check_all(cluster.given(), job, None) == [
        Check("server version", "ok", "1.35"),
        Check("namespace", "ok", "here"),
        Check("permissions", "ok", "this user may run jobs in namespace here"),
        Check("name", "ok", "digits"),
        Check("volume", "ok", "submit creates the claim mnist-job-output; all workers run on one node"),
        Check("storage class", "ok", "fast, the default class, provisions the volume"),
        Check("data", "ok", "the image's own dataset"),
        Check("model", "ok", "the image's own model.py"),
        Check("service account", "ok", "submit creates the service account mnist-job"),
        Check(
            "setup",
            "ok",
            "submit creates the ServiceAccount mnist-job, the Service mnist-job, the PersistentVolumeClaim "
            "mnist-job-output, the NetworkPolicy mnist-job and the NetworkPolicy mnist-job-volume",
        ),
        Check("service", "ok", "submit creates the Service mnist-job"),
        Check("job", "ok", "the API server would accept the Job"),
        Check("pod", "ok", "the API server would accept a worker's pod"),
        Check("memory", "ok", "a worker's limit is 2Gi"),
        Check("quota", "ok", "room for 2 workers"),
        Check("nodes", "ok", "room for 2 workers (500m cpu, 1Gi memory each)"),
        Check("gpus", "ok", "none requested"),
        Check("queue", "ok", "none requested"),
        Check("image", "ok", "mnist-job:dev is on the nodes"),
    ]
    assert {verb for verb, *_ in cluster.asked} == {"dry-run"}


def test_what_may_not_be_asked(job: Object) -> None:
    """A question that this user may not ask is not checked, and does not prevent a submission."""
    forbidden = ["Namespace", "StorageClass", "ResourceQuota", "Node"]
    cluster = ready_cluster(forbidden=forbidden, refuses={"Pod": denied("create", "pods")})
    found = {check.name: check for check in preflight.check_all(cluster.given(), job, claim("ReadWriteOnce"))}
    unasked = {
        "namespace": 'namespaces is forbidden: User "u" cannot get resource "namespaces"',
        "pod": 'User "u" cannot create resource "pods"',
        "quota": 'resourcequotas is forbidden: User "u" cannot list resource "resourcequotas"',
        "nodes": 'nodes is forbidden: User "u" cannot list resource "nodes"',
        "image": 'nodes is forbidden: User "u" cannot list resource "nodes"',
    }
    for name, message in unasked.items():
        assert found.pop(name) == Check(name, "not checked", f"this user may not ask: {message}")
    assert {check.state for check in found.values()} == {"ok"}


def test_a_claim_that_may_not_be_looked_at(job: Object) -> None:
    """A claim that this user may not read is not checked, and is assumed to need one node."""
    cluster = ready_cluster(forbidden=["PersistentVolumeClaim"]).given()
    rendered, claim = submit.prepare(cluster, render.job(Submission("digits")))
    assert rendered == record_submission(render.job(Submission("digits", components=("one-node",))))
    found = {check.name: check for check in preflight.check_all(cluster, job, claim)}
    message = f"this user may not read the claim {CLAIM}"
    assert found["volume"] == Check("volume", "not checked", f"{message}; all workers run on one node")
    assert found["storage class"] == Check("storage class", "not checked", message)


def test_an_error_is_no_check(job: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing API server is the command's error, not a check's result."""
    cluster = ready_cluster()

    def broken() -> tuple[int, int]:
        raise ApiError(500, "InternalError", "broken", "ask")

    monkeypatch.setattr(cluster, "version", broken)
    with pytest.raises(ApiError, match="broken"):
        preflight.check_all(cluster.given(), job, None)


def test_one_node_by_an_affinity(job: Object) -> None:
    """An affinity that keeps the workers together needs a single node with room, whatever the claim."""
    job["spec"]["template"]["spec"]["affinity"] = {
        "podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}
            ]
        }
    }
    cluster = CheckedCluster(node("a", "600m"), node("b", "600m"))
    found = {check.name: check for check in preflight.check_all(cluster.given(), job, claim("ReadWriteMany"))}
    assert (
        found["nodes"].message == f"the volume needs all workers on one node, and no node has room for 2 workers {EACH}"
    )


def run(cluster: FakeCluster, *flags: str) -> int:
    """`mnist-job preflight` with these flags."""
    arguments = parser().parse_args(["preflight", "--name=digits", *flags])
    arguments.training = ()
    return command.run(arguments, cluster.given)


def test_checks_that_may_be_skipped(job: Object) -> None:
    """--skip-checks skips what this project has concluded itself, never the API server's own refusals."""
    names = {check.name for check in preflight.check_all(ready_cluster().given(), job, None)}
    kept = {name for name in names if preflight.passed_over(Check(name, "failed", "no", "do")).failed}
    assert kept == {"namespace", "permissions", "name", "model", "setup", "job", "pod"}
    assert preflight.passed_over(Check("nodes", "failed", "no", "do")) == Check("nodes", "warning", "no", "do")
    assert preflight.passed_over(Check("nodes", "ok", "yes")) == Check("nodes", "ok", "yes")


@pytest.mark.parametrize("words", [["submit"], ["schedule", "@daily"], ["retry", "digits"], ["trigger", "nightly"]])
def test_commands_that_can_skip_checks(words: list[str]) -> None:
    """Every command that starts a run has the flag."""
    for flags in ([], ["--skip-checks"]):
        assert parser().parse_args([*words, *flags]).skip_checks is bool(flags)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a line for each check, with its remedy; warnings alone do not fail."""
    assert run(ready_cluster(may_not=["list Event"])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 19
    assert lines[:4] == [
        "ok          server version: 1.35",
        "ok          namespace: here",
        (
            "warning     permissions: this user may not list Event in namespace here; "
            "bind the role mnist-job-runner of k8s/manifests/rbac"
        ),
        "ok          name: digits",
    ]


def test_command_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON output is a list of the checks; a failed check gives the exit status of a refusal."""
    assert run(ready_cluster(runs=(1, 29)), "--output=json") == 2
    found = json.loads(capsys.readouterr().out)
    assert found[0] == {
        "name": "server version",
        "state": "failed",
        "message": "the cluster runs Kubernetes 1.29; this job needs 1.31 or newer",
        "remedy": "upgrade the cluster",
    }
    assert {frozenset(check) for check in found} == {frozenset(f.name for f in dataclasses.fields(Check))}
