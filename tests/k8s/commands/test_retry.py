"""retry: the Job that takes the place of an old one, and that the run is never without one."""

from __future__ import annotations

import argparse
import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from job.errors import JobError
from k8s.api.errors import ApiError, LauncherError
from k8s.checks import preflight
from k8s.commands import replace, retry
from k8s.render import render
from k8s.render.attempt import record_submission
from k8s.render.render import INSTANCE_LABEL
from k8s.render.submission import Submission
from k8s.state.names import CANCELLED, QUEUE_LABEL, RUN_LABEL, SCHEDULE_LABEL, SUBMITTED, trainer_of
from k8s.state.run import Run
from tests.k8s.fakes import FakeCluster, job, pod

if TYPE_CHECKING:
    from k8s.api.objects import Object


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks pass, and waits are short."""
    monkeypatch.setattr(preflight, "check_all", lambda *_: [])
    monkeypatch.setattr(replace, "GONE_S", 0.05)
    monkeypatch.setattr(replace, "POLL_S", 0.001)


@pytest.fixture(scope="module")
def submitted() -> Object:
    """A Job as it was submitted."""
    return record_submission(
        render.job(Submission("digits", overlay="local", image="mine:1", arguments=("--epochs=3",)))
    )


def served(job: Object, *conditions: str, **annotations: str) -> Object:
    """A Job as the API server has it some time after it was created."""
    copied = copy.deepcopy(job)
    metadata, spec = copied["metadata"], copied["spec"]
    metadata |= {
        "uid": "old",
        "namespace": "here",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "resourceVersion": "7",
        "managedFields": [{"manager": "x"}],
        "ownerReferences": [{"kind": "Workflow", "name": "nightly", "controller": True}],
        "annotations": {**metadata["annotations"], "batch.kubernetes.io/job-tracking": "", **annotations},
    }
    added = {"batch.kubernetes.io/controller-uid": "old", "batch.kubernetes.io/job-name": "digits"}
    added |= {"controller-uid": "old", "job-name": "digits"}
    spec["template"]["metadata"] |= {"creationTimestamp": None}
    spec["template"]["metadata"]["labels"] |= added
    spec["template"]["spec"]["serviceAccount"] = "mnist-job"
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": "old"}}
    spec |= {"manualSelector": False, "suspend": CANCELLED in annotations}
    copied["status"] = {"conditions": [{"type": one, "status": "True", "reason": "x"} for one in conditions]}
    return copied


def again(cluster: FakeCluster, *training: str, name: str = "digits", output: str = "text", **flags: Any) -> int:
    """Run `retry`."""
    given = dict.fromkeys(("workers", "min_workers", "image", "cpu", "memory", "queue", "deadline"))
    arguments = {
        "name": name,
        "output": output,
        "training": training,
        "wait": False,
        "skip_checks": False,
        **given,
        **flags,
    }
    return retry.run(argparse.Namespace(**arguments), cluster.given)


def retried(job: Object, name: str = "digits-2") -> Object:
    """A submitted Job as `retry` sends it under another name."""
    copied = copy.deepcopy(job)
    copied["metadata"] |= {"name": name, "labels": {**copied["metadata"]["labels"], RUN_LABEL: "digits"}}
    render.set_variables(trainer_of(copied["spec"]["template"]), {"RUN": "digits"})
    return record_submission(copied)


def test_the_same_again(submitted: Object, capsys: pytest.CaptureFixture[str]) -> None:
    """The new Job is what was submitted, with --continue; it is created before the old one is deleted."""
    cluster = FakeCluster(served(submitted, "Failed"), *render.setup_objects())
    assert again(cluster) == 0
    expected = copy.deepcopy(submitted)
    trainer_of(expected["spec"]["template"])["args"] += ["--continue"]
    expected = retried(expected)
    assert cluster.asked == [("create", "Job", expected), ("delete", "Job", "digits")]
    assert capsys.readouterr().out.splitlines()[0] == (
        "submitted digits again with 2 workers; it continues from its newest checkpoint, if it has one"
    )


def test_a_job_without_a_record(submitted: Object) -> None:
    """A Job of `kubectl apply -k` is taken as it is, without what Kubernetes added."""
    old = copy.deepcopy(submitted)
    old["metadata"]["annotations"] = {"team": "vision"}
    cluster = FakeCluster(served(old, "Failed"), *render.setup_objects())
    again(cluster)
    trainer_of(old["spec"]["template"])["args"] += ["--continue"]
    assert cluster.asked[0] == ("create", "Job", retried(old))


def test_what_may_change(submitted: Object, capsys: pytest.CaptureFixture[str]) -> None:
    """Workers, resources, image, deadline and further training flags are as requested; the rest stays."""
    cluster = FakeCluster(served(submitted, **{CANCELLED: "2026-01-01T00:00:00Z"}), *render.setup_objects())
    flags: dict[str, Any] = {"workers": 4, "image": "mine:2", "cpu": "2", "memory": "3Gi", "deadline": "1h"}
    assert again(cluster, "--min-accuracy=0.9", output="json", **flags) == 0
    expected = render.job(
        Submission(
            "digits",
            overlay="local",
            image="mine:2",
            workers=4,
            cpu="2",
            memory="3Gi",
            deadline_s=3600,
            arguments=("--epochs=3", "--min-accuracy=0.9", "--continue"),
        )
    )
    assert cluster.asked[0] == ("create", "Job", retried(expected))
    result = json.loads(capsys.readouterr().out)
    assert result == {"name": "digits", "namespace": "here", "uid": result["uid"], "workers": 4}


def test_twice(submitted: Object) -> None:
    """A second retry makes a third Job, has --continue once, and gets the run's name."""
    cluster = FakeCluster(served(submitted, "Failed"))
    again(cluster)
    second = cluster.objects["Job", "digits-2"]
    cluster.objects["Job", "digits-2"] = served(second, "Failed")
    again(cluster, name="digits-2")  # the name of the Job leads to the run
    assert [name for kind, name in cluster.objects if kind == "Job"] == ["digits-3"]
    template = cluster.objects["Job", "digits-3"]["spec"]["template"]
    assert template["metadata"]["labels"][INSTANCE_LABEL] == "digits"
    assert trainer_of(template)["args"] == ["train", "--data=/data", "--output=/output", "--epochs=3", "--continue"]
    assert render.variables(trainer_of(template))["RUN"] == {"name": "RUN", "value": "digits"}


@pytest.mark.parametrize("its_job", ["digits-2", "digits-2-2"])
def test_a_name_that_another_run_has(its_job: str, submitted: Object) -> None:
    """A run may be called digits-2: its Job stays, and the retried run's Job gets the next number."""
    other = job(its_job)
    other["metadata"]["labels"][RUN_LABEL] = "digits-2"
    cluster = FakeCluster(served(submitted, "Failed"), other)
    again(cluster)
    assert [name for kind, name in cluster.objects if kind == "Job"] == [its_job, "digits-3"]


def test_two_at_once(submitted: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second retry that saw the old Job as the newest is refused: the run gets no second live Job."""
    cluster = FakeCluster(served(submitted, "Failed"))
    again(cluster)
    monkeypatch.setattr(retry, "gather", lambda *_: Run(served(submitted, "Failed")))
    before = dict(cluster.objects)
    with pytest.raises(LauncherError) as refused:
        again(cluster)
    assert str(refused.value) == "another `retry` is restarting digits; `mnist-job status digits -n here` shows it"
    assert cluster.objects == before


def test_an_old_job_that_stays(
    submitted: Object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is the new Job's if the old one is not deleted, which is reported; the next retry deletes both."""
    cluster = FakeCluster(served(submitted, "Failed"))
    with monkeypatch.context() as patched:
        patched.setattr(cluster, "delete", lambda *_, **__: (_ for _ in ()).throw(refuse("delete")))
        assert again(cluster) == 0
    assert capsys.readouterr().err == (
        "Job digits was replaced by digits-2 but not deleted: the API server refused to delete it: no delete today\n"
    )
    cluster.objects["Job", "digits-2"] |= {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    again(cluster)
    assert [name for kind, name in cluster.objects if kind == "Job"] == ["digits-3"]


def test_wait(submitted: Object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --wait the new Job is followed, and the exit status is its run's."""
    followed: list[Object] = []

    def follow_it(_cluster: FakeCluster, job: Object, output: str) -> int:
        followed.append(job)
        assert "submitted digits again" in capsys.readouterr().out
        assert output == "text"
        return 69

    monkeypatch.setattr(retry, "follow_run", follow_it)
    cluster = FakeCluster(served(submitted, "Failed"))
    assert again(cluster, wait=True) == 69
    assert followed == [cluster.objects["Job", "digits-2"]]


def test_queue(submitted: Object) -> None:
    """A run that waits in a queue is created suspended; Kueue starts it, also if it had admitted the old Job."""
    cluster = FakeCluster(served(submitted, "Failed"))
    again(cluster, queue="night")
    admitted = served(cluster.objects["Job", "digits-2"], "Failed")
    admitted["spec"]["template"]["metadata"]["annotations"]["kueue.x-k8s.io/workload"] = "job-digits-1"
    admitted["spec"]["template"]["spec"]["nodeSelector"]["pool"] = "spot"
    cluster.objects["Job", "digits-2"] = admitted
    again(cluster)
    new = cluster.objects["Job", "digits-3"]
    assert (new["metadata"]["labels"][QUEUE_LABEL], new["spec"]["suspend"]) == ("night", True)
    assert "kueue.x-k8s.io/workload" not in new["spec"]["template"]["metadata"]["annotations"]
    assert "pool" not in new["spec"]["template"]["spec"]["nodeSelector"]


@pytest.mark.parametrize(
    ("suspend", "said"),
    [
        (True, "digits is suspended, not ended; `mnist-job resume digits -n here` continues it"),
        (False, "digits has not ended (starting 0 of 2 pods created); `mnist-job cancel digits -n here` stops it"),
    ],
)
def test_not_ended(submitted: Object, suspend: bool, said: str) -> None:
    """A run that has not ended is left alone."""
    copied = served(submitted)
    copied["spec"]["suspend"] = suspend
    cluster = FakeCluster(copied)
    with pytest.raises(LauncherError) as refused:
        again(cluster)
    assert (refused.value.status, str(refused.value)) == (2, said)
    assert cluster.asked == []


def test_other_averaging(submitted: Object) -> None:
    """Where parameters are averaged the number of workers must stay: the worker would refuse the checkpoint."""
    averaging = copy.deepcopy(submitted)
    trainer_of(averaging["spec"]["template"])["args"] += ["--sync-every", "10"]
    cluster = FakeCluster(served(record_submission(averaging), "Failed"))
    with pytest.raises(JobError) as refused:
        again(cluster, workers=3)
    assert str(refused.value) == (
        "--workers must stay 2 for digits, not 3: with --sync-every 10, a run cannot change its number of workers"
    )
    assert again(cluster, workers=2) == 0


def test_pod_that_does_not_end(submitted: Object) -> None:
    """While a pod may still write nothing is created, and the sentence names the pod and its node."""
    lost = pod("digits-0-x", 0)
    lost["spec"] = {"nodeName": "n1"}
    cluster = FakeCluster(served(submitted, "FailureTarget"), lost)
    with pytest.raises(LauncherError) as refused:
        again(cluster)
    assert str(refused.value) == (
        "pod digits-0-x has not ended within 0 s (on n1); "
        "`kubectl describe pod digits-0-x -n here` shows why; then run the same command again"
    )
    assert cluster.asked == []


def test_pod_on_a_dead_node(submitted: Object) -> None:
    """What to do about the node is said at once: `why` only knows that the run was cancelled."""
    lost = pod("digits-0-x", 0)
    lost["spec"] = {"nodeName": "n1"}
    lost["status"]["conditions"] = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]
    cluster = FakeCluster(served(submitted, "FailureTarget"), lost)
    with pytest.raises(LauncherError) as refused:
        again(cluster)
    assert str(refused.value).startswith(
        "pod digits-0-x has not ended within 0 s (on n1); bring the node back, delete it (`kubectl delete node n1 -n "
    )


def refuse(verb: str) -> ApiError:
    """The API server's refusal."""
    return ApiError(403, "Forbidden", f"no {verb} today", f"{verb} it")


def test_refused(submitted: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the API server refuses the new Job, the old one stays, and what was created for the new one is deleted."""
    cluster = FakeCluster(served(submitted, "Failed"))
    before, create = dict(cluster.objects), cluster.create

    def create_or_not(new: Object, *, dry_run: bool = False) -> Object:
        if new["kind"] == "Job":
            raise refuse("create")
        return create(new, dry_run=dry_run)

    monkeypatch.setattr(cluster, "create", create_or_not)
    with pytest.raises(LauncherError, match="no create today"):
        again(cluster)
    assert ("create", "Service") in [(verb, kind) for verb, kind, _ in cluster.asked]
    assert cluster.objects == before


def test_a_run_of_a_schedule(submitted: Object) -> None:
    """It stays the schedule's by its label, has no owner, and is deleted after a week as a submitted run is.

    While another run of the schedule is unfinished nothing is changed.
    """
    template = copy.deepcopy(submitted)
    template["metadata"]["labels"][SCHEDULE_LABEL] = "nightly"
    del template["spec"]["ttlSecondsAfterFinished"]
    old = served(record_submission(template), "Failed")
    other = job("nightly-1")
    other["metadata"]["labels"][SCHEDULE_LABEL] = "nightly"
    schedule = {"kind": "CronJob", "metadata": {"name": "nightly"}}
    cluster = FakeCluster(old, other, schedule)
    with pytest.raises(LauncherError, match="nightly-1, another run of nightly, has not ended"):
        again(cluster)
    assert cluster.asked == []
    for gone in (("Job", "nightly-1"), ("CronJob", "nightly")):
        kept = cluster.objects.pop(gone)
        assert again(cluster) == 0
        made = cluster.objects.pop(("Job", "digits-2"))
        assert made["metadata"]["labels"][SCHEDULE_LABEL] == "nightly"
        assert "ownerReferences" not in made["metadata"]
        assert made["spec"]["ttlSecondsAfterFinished"] == 604_800
        assert SUBMITTED in made["metadata"]["annotations"]
        cluster.objects |= {("Job", "digits"): old, gone: kept}
