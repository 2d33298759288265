"""--model: the ConfigMap that holds a model, from submit to the end of the last run or schedule that mounts it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from job.errors import JobError
from k8s.__main__ import main, parser
from k8s.api.errors import ApiError, LauncherError
from k8s.checks import preflight
from k8s.checks.check import Check
from k8s.checks.model import check_model
from k8s.commands import lifecycle, retry, schedule, submit, trigger
from k8s.commands.model import settle_owners
from k8s.render import render
from k8s.render.model import IN_IMAGE, config_map
from k8s.render.submission import Submission
from k8s.state.names import model_of, trainer_of
from k8s.volume.template import volume_pod
from tests.k8s.checks.cluster import CheckedCluster, ready_cluster
from tests.k8s.fakes import ROOT, FakeCluster

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object

FILE = ROOT / "examples" / "keras_cnn" / "model.py"
SOURCE = FILE.read_text(encoding="utf-8")
NAME = f"mnist-job-model-{hashlib.sha256(SOURCE.encode()).hexdigest()[:12]}"
MAP = config_map(SOURCE)
OWN = f"--model={FILE}"


class Collected(FakeCluster):
    """A cluster with the setup, whose garbage collector at once deletes a ConfigMap that has lost all of its owners."""

    def __init__(self) -> None:
        super().__init__(*render.setup_objects())

    def delete(self, kind: str, name: str, *, grace_s: int | None = None, uid: str = "", orphan: bool = False) -> None:
        """Delete an object, and what only it owned; the dependents of an orphaning deletion lose this owner instead."""
        super().delete(kind, name, grace_s=grace_s, uid=uid, orphan=orphan)
        there = {one["metadata"].get("uid") for one in self.objects.values()}
        for key, one in [*self.objects.items()]:
            if owners := one["metadata"].get("ownerReferences"):
                left = [owner for owner in owners if owner["uid"] in there]
                one["metadata"]["ownerReferences"] = left
                if not (left or orphan):
                    del self.objects[key]

    def owners(self, name: str = NAME) -> list[str] | None:
        """The kinds and names of those that own a model; None if it does not exist."""
        found = self.objects.get(("ConfigMap", name))
        if found is None:
            return None
        return [f"{one['kind']} {one['name']}" for one in found["metadata"].get("ownerReferences", [])]


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks pass."""
    monkeypatch.setattr(preflight, "check_all", lambda *_: [])


def call(cluster: FakeCluster, command: Any, *words: str) -> None:
    """Run a command of the launcher."""
    arguments = parser().parse_args([command.__name__.rpartition(".")[2], *words])
    arguments.training = ()
    assert command.run(arguments, cluster.given) == 0


def end(cluster: FakeCluster, job: str) -> None:
    """Let a Job fail."""
    cluster.objects["Job", job]["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "x"}]}


def test_the_config_map() -> None:
    """Its name follows from its content, which cannot change."""
    assert MAP["metadata"]["name"] == NAME
    assert (MAP["immutable"], MAP["data"]) == (True, {"model.py": SOURCE})
    assert config_map(SOURCE + "\n")["metadata"]["name"] != NAME


def test_the_mount() -> None:
    """Over the image's model.py, read-only, in place of one that the overlay mounts; the volume pod has none."""
    job = render.job(Submission("digits", model=SOURCE))
    template = job["spec"]["template"]
    mount = {"name": "model", "mountPath": IN_IMAGE, "subPath": "model.py", "readOnly": True}
    assert trainer_of(template)["volumeMounts"][-1] == mount
    assert template["spec"]["volumes"][-1] == {"name": "model", "configMap": {"name": NAME}}
    assert render.fill_job(job, Submission("digits", model=SOURCE + "\n"))
    assert model_of(template) == config_map(SOURCE + "\n")["metadata"]["name"]
    assert [one["name"] for one in trainer_of(template)["volumeMounts"]].count("model") == 1
    assert [one["name"] for one in template["spec"]["volumes"]].count("model") == 1
    assert "model" not in [one["name"] for one in volume_pod(template, "pod")["spec"]["volumes"]]


def test_a_model_of_an_overlay() -> None:
    """Its ConfigMap is the user's: it gets no owners, and so stays when the run goes."""
    job = render.job(Submission("digits", model=SOURCE))
    job["spec"]["template"]["spec"]["volumes"][-1]["configMap"]["name"] = "mine"
    assert model_of(job["spec"]["template"]) is None


def test_runs_share_a_model() -> None:
    """The ConfigMap is created before the first Job, and belongs to both; it goes with the last of them."""
    cluster = Collected()
    call(cluster, submit, "--name=one", OWN)
    made = [kind for verb, kind, _ in cluster.asked if verb == "create"]
    assert made[-2:] == ["ConfigMap", "Job"]
    call(cluster, submit, "--name=two", OWN)
    call(cluster, submit, "--name=other")
    assert cluster.owners() == ["Job one", "Job two"]
    cluster.delete("Job", "one")
    assert cluster.owners() == ["Job two"]
    cluster.delete("Job", "two")
    assert cluster.owners() is None


def test_retry_trains_the_same_model() -> None:
    """The next Job becomes an owner before the one that it replaces is deleted."""
    cluster = Collected()
    call(cluster, submit, "--name=digits", OWN)
    end(cluster, "digits")
    call(cluster, retry, "digits")
    assert cluster.owners() == ["Job digits-2"]
    assert model_of(cluster.objects["Job", "digits-2"]["spec"]["template"]) == NAME


def test_a_job_stays_if_its_model_would_go_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the next Job cannot become an owner, `retry` says so and keeps the old Job, which owns the model."""
    cluster = Collected()
    call(cluster, submit, "--name=digits", OWN)
    end(cluster, "digits")

    def refuse(*_: object, **__: object) -> Object:
        raise ApiError(403, "Forbidden", "not allowed", "replace it")

    monkeypatch.setattr(cluster, "replace", refuse)
    call(cluster, retry, "digits")
    assert {name for kind, name in cluster.objects if kind == "Job"} == {"digits", "digits-2"}
    assert cluster.owners() == ["Job digits"]
    assert f"the owners of the ConfigMap {NAME} were not changed" in capsys.readouterr().err


def test_the_model_of_a_schedule(tmp_path: Path) -> None:
    """It belongs to the CronJob and to the Jobs that mount it; another one takes its place for the runs to come."""
    cluster = Collected()
    call(cluster, schedule, "@daily", "--name=nightly", OWN)
    assert cluster.owners() == ["CronJob nightly"]
    call(cluster, trigger, "nightly")
    [run] = [name for kind, name in cluster.objects if kind == "Job"]
    assert cluster.owners() == [f"Job {run}", "CronJob nightly"]
    other = tmp_path / "other.py"
    other.write_text(SOURCE + "\n")
    call(cluster, schedule, "@daily", "--name=nightly", f"--model={other}")
    new = config_map(SOURCE + "\n")["metadata"]["name"]
    assert (cluster.owners(), cluster.owners(new)) == ([f"Job {run}"], ["CronJob nightly"])
    assert model_of(cluster.objects["Job", run]["spec"]["template"]) == NAME
    lifecycle.run("cancel", parser().parse_args(["cancel", "nightly"]), cluster.given)
    assert (cluster.owners(), cluster.owners(new)) == ([f"Job {run}"], None)


def test_a_schedule_whose_model_is_gone() -> None:
    """The same command creates it again, although nothing else changed."""
    cluster = Collected()
    call(cluster, schedule, "@daily", "--name=nightly", OWN)
    cluster.delete("ConfigMap", NAME)
    assert cluster.owners() is None
    call(cluster, schedule, "@daily", "--name=nightly", OWN)
    assert cluster.owners() == ["CronJob nightly"]


def test_a_cancelled_schedule_leaves_the_model_to_its_runs() -> None:
    """A run that goes on, and one that may be retried, still find it."""
    cluster = Collected()
    call(cluster, schedule, "@daily", "--name=nightly", OWN)
    call(cluster, trigger, "nightly")
    lifecycle.run("cancel", parser().parse_args(["cancel", "nightly"]), cluster.given)
    [run] = [name for kind, name in cluster.objects if kind == "Job"]
    assert cluster.owners() == [f"Job {run}"]


def test_a_refused_run_takes_its_model_back() -> None:
    """If the API server refuses the Job, the ConfigMap is deleted again."""
    refused = {"Job": ApiError(422, "Invalid", "no", "create it")}
    cluster = CheckedCluster(*render.setup_objects(), refuses=refused, only_dry_runs=False)
    with pytest.raises(LauncherError, match="the API server refuses the run: no"):
        submit.submit(cluster.given(), render.job(Submission("digits", model=SOURCE)), MAP)
    assert ("create", "ConfigMap", MAP) in cluster.asked
    assert ("ConfigMap", NAME) not in cluster.objects


def test_a_model_that_somebody_else_changes() -> None:
    """A change that another command made first is not lost, and a model that was collected meanwhile is made again."""
    cluster = Collected()
    call(cluster, submit, "--name=one", OWN)
    template = cluster.objects["Job", "one"]["spec"]["template"]
    there = cluster.objects["ConfigMap", NAME]["metadata"]
    there |= {"resourceVersion": "1", "ownerReferences": []}
    read = cluster.get

    def changed_after(kind: str, name: str) -> Object | None:
        found = read(kind, name)
        if there["resourceVersion"] == "1":
            there["resourceVersion"] = "2"
        return found

    cluster.get = changed_after  # type: ignore[method-assign]
    assert settle_owners(cluster.given(), template)
    assert cluster.owners() == ["Job one"]
    del cluster.objects["ConfigMap", NAME]
    assert settle_owners(cluster.given(), template, MAP)
    assert cluster.owners() == ["Job one"]


def test_dry_run_prints_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is what is sent, apart from the owner; without a cluster too, and for a schedule."""
    cluster = Collected()
    call(cluster, submit, "--name=digits", OWN, "--dry-run")
    printed = [*yaml.safe_load_all(capsys.readouterr().out)]
    assert printed[0] == {**MAP, "metadata": {"namespace": "here", **MAP["metadata"]}}
    assert cluster.asked == []
    call(cluster, submit, "--name=digits", OWN)
    sent = [new for verb, _, new in cluster.asked if verb == "create"]
    assert sent == [
        {**new, "metadata": {k: v for k, v in new["metadata"].items() if k != "namespace"}} for new in printed
    ]
    capsys.readouterr()
    for words in (["submit"], ["schedule", "@daily"]):
        assert main([*words, "--name=digits", OWN, "--dry-run=client"]) == 0
        assert MAP in yaml.safe_load_all(capsys.readouterr().out)


@pytest.mark.parametrize(
    "words", [["submit", "--name=a"], ["schedule", "@daily", "--name=a"], ["preflight"]], ids=lambda words: words[0]
)
def test_a_file_that_is_no_model(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused with 64 before a cluster is contacted; so is --model among the training flags."""
    file = tmp_path / "mine.py"
    file.write_text("a = 1\n")
    assert main([*words, f"--model={file}", "--kubeconfig=/nowhere"]) == 64
    message = f"error: the model {file} does not define init, loss_and_gradient, predict, layers"
    assert capsys.readouterr().err == f"{message}; define what job/model.py defines\n"
    assert main([*words, "--kubeconfig=/nowhere", "--", f"--model={FILE}"]) == 64
    assert capsys.readouterr().err == "error: --model cannot be given after the --; give it before the --\n"


def test_the_check_of_preflight() -> None:
    """It passes if the model exists or this user can create it, and fails if the ConfigMap has another model."""
    job = render.job(Submission("digits", model=SOURCE))

    def checked(cluster: FakeCluster, model: Object | None = MAP) -> Check:
        return check_model(cluster.given(), job, model)

    there = ready_cluster()
    there.objects["ConfigMap", NAME] = MAP
    assert checked(ready_cluster()) == Check("model", "ok", f"submit creates the ConfigMap {NAME}")
    assert checked(there) == checked(there, None) == Check("model", "ok", f"the ConfigMap {NAME}")
    assert checked(ready_cluster(), None) == Check(
        "model",
        "failed",
        f"the ConfigMap {NAME}, which holds the run's model, does not exist in namespace here",
        f"create it from the original file: `kubectl create configmap {NAME} -n here --from-file=model.py=FILE`",
    )
    there.objects["ConfigMap", NAME] = {**MAP, "data": {"model.py": "another"}}
    assert checked(there) == Check(
        "model",
        "failed",
        f"the ConfigMap {NAME} exists and holds another model than --model",
        f"delete it: `kubectl delete configmap {NAME} -n here`",
    )
    assert checked(ready_cluster(may_not=["update ConfigMap", "create ConfigMap"])) == Check(
        "model",
        "failed",
        "this user may not create ConfigMap, update ConfigMap in namespace here",
        "bind the role mnist-job-runner of k8s/manifests/rbac",
    )


def test_the_runner_may_do_what_a_model_needs() -> None:
    """The role allows each verb that check_model() asks for."""
    rules = yaml.safe_load((ROOT / "k8s/manifests/rbac/runner.yaml").read_text())["rules"]
    [verbs] = [rule["verbs"] for rule in rules if "configmaps" in rule["resources"]]
    assert verbs == ["create", "get", "update", "delete"]


def test_a_run_without_a_model_of_its_own_says_so() -> None:
    """Nothing is asked of the cluster."""
    job = render.job(Submission("digits"))
    with pytest.raises(JobError):
        Submission("digits", arguments=(OWN,))
    assert check_model(FakeCluster().given(), job, None) == Check("model", "ok", "the image's own model.py")
    assert json.dumps(job).count("configMap") == 0
