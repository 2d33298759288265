"""submit: what is checked, created and printed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from job.errors import JobError
from k8s.__main__ import main, parser
from k8s.api.errors import LauncherError, unreached
from k8s.commands import submit
from k8s.render import render
from k8s.render.attempt import record_submission
from k8s.render.kustomize import MANIFESTS
from k8s.render.submission import Submission
from k8s.state.names import APP, DATA_LABEL
from tests.k8s.checks.cluster import claim, denied, named, ready_cluster
from tests.k8s.fakes import FakeCluster

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


def test_a_submission_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed check is reported with its remedy, and nothing is created, not even the setup."""
    cluster = ready_cluster(runs=(1, 29))
    with pytest.raises(
        LauncherError, match=r"^digits was not submitted; see above; --skip-checks submits it all the same$"
    ):
        submit.submit(cluster.given(), render.job(Submission("digits")))
    old = "the cluster runs Kubernetes 1.29; this job needs 1.31 or newer"
    told = f"failed      server version: {old}; upgrade the cluster\n"
    assert capsys.readouterr().err == told
    assert {verb for verb, *_ in cluster.asked} == {"dry-run"}
    submit.submit(cluster.given(), render.job(Submission("digits")), skip=True)
    assert capsys.readouterr().err == told.replace("failed ", "warning")
    assert ("Job", "digits") in cluster.objects


def test_a_submission() -> None:
    """After a dry run, missing objects of the setup are created, then the Job as it was rendered."""
    cluster = ready_cluster()
    [account] = [found for found in render.setup_objects() if found["kind"] == "ServiceAccount"]
    cluster.objects["ServiceAccount", APP] = account
    sent = submit.submit(cluster.given(), render.job(Submission("digits")))
    one_node = record_submission(render.job(Submission("digits", components=("one-node",))))
    assert sent["spec"] == one_node["spec"]
    made = [(verb, kind) for verb, kind, _ in cluster.asked]
    missing = ["NetworkPolicy", "NetworkPolicy", "PersistentVolumeClaim", "Service"]
    assert sorted(made[:6]) == sorted(("dry-run", kind) for kind in [*missing, "Pod", "Job"])
    assert sorted(made[6:-1]) == [("create", kind) for kind in missing]
    assert cluster.asked[-1] == ("create", "Job", one_node)


def test_a_setup_that_this_user_may_not_make() -> None:
    """If this user may not create the setup, the error says who can, and the Job is not created."""
    refuses = {"PersistentVolumeClaim": denied("create", "persistentvolumeclaims")}
    cluster = ready_cluster(refuses=refuses, only_dry_runs=False)
    with pytest.raises(LauncherError) as caught:
        submit.submit(cluster.given(), render.job(Submission("digits")))
    assert str(caught.value) == (
        "the PersistentVolumeClaim mnist-job-output cannot be created: persistentvolumeclaims is forbidden: "
        'User "u" cannot create resource "persistentvolumeclaims"; '
        "ask an administrator to run `kubectl apply -k k8s/manifests/setup -n here`"
    )
    assert ("create", "Job") not in [(verb, kind) for verb, kind, _ in cluster.asked]


def test_a_setup_that_this_user_may_not_look_at() -> None:
    """A setup that exists, but that this user may not read, is left alone, and the Job is created."""
    kinds = ["ServiceAccount", "Service", "NetworkPolicy", "PersistentVolumeClaim"]
    cluster = ready_cluster(forbidden=kinds)
    cluster.objects |= {(new["kind"], new["metadata"]["name"]): new for new in render.setup_objects()}
    submit.submit(cluster.given(), render.job(Submission("digits")))
    assert [kind for verb, kind, _ in cluster.asked if verb != "dry-run"] == ["Job"]


def arguments(*flags: str, training: tuple[str, ...] = ()) -> argparse.Namespace:
    """The parsed command line of submit."""
    found = parser().parse_args(["submit", "--name=digits", *flags])
    found.training = training
    return found


def test_dry_run_prints_what_is_sent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run prints exactly what submit then sends, and sends nothing."""
    monkeypatch.setattr("k8s.checks.preflight.check_all", lambda *_: [])
    [account] = [new for new in render.setup_objects() if new["kind"] == "ServiceAccount"]
    cluster, training = FakeCluster(account), ("--epochs=3", "--dataset=fashion_mnist")
    assert submit.run(arguments("--dry-run", "--workers=3", training=training), cluster.given) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert submit.run(arguments("--dry-run", "--workers=3", "--output=json", training=training), cluster.given) == 0
    assert json.loads(capsys.readouterr().out) == {"apiVersion": "v1", "kind": "List", "items": printed}
    assert cluster.asked == []
    assert {new["metadata"].pop("namespace") for new in printed} == {"here"}
    assert submit.run(arguments("--workers=3", training=training), cluster.given) == 0
    sent = [new for verb, _, new in cluster.asked if verb == "create"]
    assert sent == printed
    kinds = ["Service", "PersistentVolumeClaim", "NetworkPolicy", "NetworkPolicy", "Job"]
    assert [new["kind"] for new in sent] == kinds


def no_cluster() -> Cluster:
    """In place of a cluster that must not be contacted."""
    raise AssertionError


def test_dry_run_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    """A client dry run prints what an empty cluster would be sent, in the namespace that was named, if any."""
    assert submit.run(arguments("--dry-run", "--workers=3"), FakeCluster().given) == 0
    asked = list(yaml.safe_load_all(capsys.readouterr().out))
    assert submit.run(arguments("--dry-run=client", "--workers=3", "--namespace=here"), no_cluster) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == asked
    assert submit.run(arguments("--dry-run=client", "--claim=mine"), no_cluster) == 0
    *setup, job = yaml.safe_load_all(capsys.readouterr().out)
    assert job == record_submission(render.job(Submission("digits", claim="mine")))
    assert setup == [new for new in render.setup_objects() if new["kind"] != "PersistentVolumeClaim"]


@pytest.mark.parametrize(
    ("found", "one_node"),
    [([], True), ([claim("ReadWriteOnce")], True), ([claim("ReadWriteMany")], False)],
    ids=["to be made", "once", "many"],
)
def test_one_node_by_itself(found: list[Object], one_node: bool) -> None:
    """All workers are placed on one node if, and only if, the claim needs that."""
    cluster = FakeCluster(*found)
    job, _ = submit.prepare(cluster.given(), render.job(Submission("digits")))
    components = ("one-node",) if one_node else ()
    assert job == record_submission(render.job(Submission("digits", components=components)))


@pytest.mark.parametrize(("mode", "one_node"), [("ReadWriteOnce", True), ("ReadOnlyMany", False)])
def test_one_node_for_the_data(mode: str, one_node: bool) -> None:
    """The dataset's claim may need the node of its other users too, unless many nodes can read it."""
    cluster = FakeCluster(claim("ReadWriteMany"), named("PersistentVolumeClaim", "data", spec={"accessModes": [mode]}))
    job, _ = submit.prepare(cluster.given(), render.job(Submission("digits", data="data")))
    expected = render.job(Submission("digits", data="data"))
    if one_node:
        render.put_on_one_node(expected, DATA_LABEL)
    assert job == record_submission(expected)


def test_outputs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The result is text, its name, or the same fields in JSON and YAML; only text and JSON can follow a run."""
    monkeypatch.setattr("k8s.checks.preflight.check_all", lambda *_: [])
    printed = {}
    for output in submit.OUTPUTS:
        assert submit.run(arguments(f"--output={output}"), FakeCluster().given) == 0
        printed[output] = capsys.readouterr().out
    fields = json.loads(printed["json"])
    assert fields.keys() == {"name", "namespace", "uid"}
    assert yaml.safe_load(printed["yaml"]) == fields
    assert printed["name"] == "digits\n"
    assert printed["text"].splitlines() == [
        "submitted digits with 2 workers in namespace here",
        "  mnist-job status digits -n here    mnist-job logs digits -n here",
    ]
    assert submit.run(arguments("--dry-run=client", "--output=name"), no_cluster) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "job/digits"
    with pytest.raises(JobError, match=r"^--wait prints text or json, not name; leave out --wait, or choose another"):
        submit.run(arguments("--output=name", "--wait"), no_cluster)


@pytest.fixture
def overlay(tmp_path: Path) -> str:
    """An overlay with a namespace of its own."""
    base = os.path.relpath(MANIFESTS / "run", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(json.dumps({"resources": [base], "namespace": "work"}))
    return f"{tmp_path}/"


@pytest.mark.parametrize("words", [["submit"], ["schedule", "@daily"]])
def test_the_namespace_of_an_overlay(overlay: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Everything goes to the overlay's namespace; another one that is given is refused before anything is sent."""
    for more in ([], ["--namespace=work"]):
        assert main([*words, "--name=digits", f"--overlay={overlay}", "--dry-run=client", *more]) == 0
        sent = list(yaml.safe_load_all(capsys.readouterr().out))
        assert [new["metadata"].get("namespace") for new in sent] == ["work"] * 6
        assert '"namespace"' not in json.dumps([new["spec"] for new in sent if "spec" in new])
    for given in (["--dry-run=client"], []):
        assert main([*words, "--name=digits", f"--overlay={overlay}", "--namespace=here", *given]) == 64
        assert capsys.readouterr().err == (
            f"error: the namespace is here (--namespace or $MNIST_JOB_NAMESPACE), but that of the overlay {overlay} "
            "is work; give --namespace work, or remove the namespace from the overlay\n"
        )


@pytest.mark.parametrize("words", [["submit"], ["preflight"], ["schedule", "@daily"]])
def test_the_cluster_of_an_overlay(overlay: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher talks to the overlay's namespace from its first request."""
    connected: list[str] = []

    def connect(_: str, namespace: str, *__: Any, **___: Any) -> Cluster:
        connected.append(namespace)
        raise unreached("stop here")

    monkeypatch.setattr("k8s.api.kubeconfig.connect", connect)
    assert main([*words, "--name=digits", f"--overlay={overlay}"]) == 3
    assert connected == ["work"]
