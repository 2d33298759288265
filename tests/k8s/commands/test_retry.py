"""retry: the Job that takes an old one's place, and that nothing is lost on the way."""

from __future__ import annotations

import argparse
import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from job.errors import JobError
from k8s.api.errors import ApiError, LauncherError
from k8s.checks import preflight
from k8s.commands import control, overlap, retry
from k8s.render import render
from k8s.render.submission import Submission
from k8s.state.names import CANCELLED, QUEUE_LABEL, trainer_of
from k8s.view import follow
from tests.k8s.fakes import FakeCluster, pod

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder; checks that all pass; and waits that are short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "check_all", lambda *_: [])
    monkeypatch.setattr(control, "GONE_S", 0.05)
    monkeypatch.setattr(control, "POLL_S", 0.001)
    return tmp_path


@pytest.fixture(scope="module")
def submitted() -> Object:
    """A Job as it was submitted."""
    return render.job(Submission("digits", overlay="local", image="mine:1", arguments=("--epochs=3",)))


def served(job: Object, *conditions: str, **annotations: str) -> Object:
    """A Job as the API server has it, some time after it was created."""
    found = copy.deepcopy(job)
    found["metadata"] |= {
        "uid": "old",
        "namespace": "here",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "generation": 1,
        "resourceVersion": "7",
        "managedFields": [{"manager": "x"}],
        "annotations": {"batch.kubernetes.io/cronjob-scheduled-timestamp": "x", "team": "vision", **annotations},
        "ownerReferences": [{"kind": "CronJob", "name": "nightly"}],
    }
    added = {"batch.kubernetes.io/controller-uid": "old", "batch.kubernetes.io/job-name": "digits"}
    added |= {"controller-uid": "old", "job-name": "digits"}
    spec = found["spec"]
    spec["template"]["metadata"] = {"creationTimestamp": None, "labels": spec["template"]["metadata"]["labels"] | added}
    spec["template"]["spec"]["serviceAccount"] = "mnist-job"
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": "old"}}
    spec |= {"manualSelector": False, "suspend": CANCELLED in annotations}
    found["status"] = {"conditions": [{"type": one, "status": "True", "reason": "x"} for one in conditions]}
    return found


def again(cluster: FakeCluster, *training: str, output: str = "text", **flags: Any) -> int:
    """Run `retry digits`."""
    given = dict.fromkeys(("workers", "image", "cpu", "memory", "queue", "deadline"))
    arguments = {"name": "digits", "output": output, "training": training, "wait": False, **given, **flags}
    return retry.run(argparse.Namespace(**arguments), cluster.given)


def test_the_same_again(submitted: Object, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    """The new Job is the old one as it was submitted, with --continue; it is tried before the old one is deleted."""
    cluster = FakeCluster(served(submitted, "Failed"))
    assert again(cluster) == 0
    expected = copy.deepcopy(submitted)
    trainer_of(expected["spec"]["template"])["args"] += ["--continue"]
    expected["metadata"]["annotations"] = {"team": "vision"}
    trial = copy.deepcopy(expected)
    trial["metadata"]["name"] = "digits-trial"
    assert cluster.asked == [("dry-run", "Job", trial), ("delete", "Job", "digits"), ("create", "Job", expected)]
    assert capsys.readouterr().out.splitlines()[0] == (
        "digits is submitted again with 2 workers; it goes on from its newest checkpoint, if it has one"
    )
    assert list(here.iterdir()) == []


def test_what_may_change(submitted: Object, capsys: pytest.CaptureFixture[str]) -> None:
    """Workers, resources, image, deadline and further training flags are as asked for; the rest stays."""
    cluster = FakeCluster(served(submitted, **{CANCELLED: "2026-01-01T00:00:00Z"}))
    flags = {"workers": 4, "image": "mine:2", "cpu": "2", "memory": "3Gi", "deadline": "1h"}
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
    expected["metadata"]["annotations"] = {"team": "vision"}
    assert cluster.asked[-1] == ("create", "Job", expected)
    told = json.loads(capsys.readouterr().out)
    assert told == {"name": "digits", "namespace": "here", "uid": told["uid"], "workers": 4}


def test_twice(submitted: Object) -> None:
    """A run that is started again for the second time has --continue once."""
    cluster = FakeCluster(served(submitted, "Failed"))
    again(cluster)
    cluster.objects["Job", "digits"] = served(cluster.objects["Job", "digits"], "Failed")
    again(cluster)
    args = trainer_of(cluster.objects["Job", "digits"]["spec"]["template"])["args"]
    assert args == ["train", "--data=/data", "--output=/output", "--epochs=3", "--continue"]


def test_wait(submitted: Object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --wait the new Job is followed, and the exit status is its run's."""
    followed: list[Object] = []

    def follow_it(_cluster: FakeCluster, job: Object, output: str) -> int:
        followed.append(job)
        assert "digits is submitted again" in capsys.readouterr().out
        assert output == "text"
        return 69

    monkeypatch.setattr(follow, "follow", follow_it)
    cluster = FakeCluster(served(submitted, "Failed"))
    assert again(cluster, wait=True) == 69
    assert followed == [cluster.objects["Job", "digits"]]
    assert followed[0]["metadata"]["uid"] != "old"


def test_queue(submitted: Object) -> None:
    """A run that waits in a queue is made suspended, for Kueue to start it."""
    cluster = FakeCluster(served(submitted, "Failed"))
    again(cluster, queue="night")
    new = cluster.objects["Job", "digits"]
    assert new["metadata"]["labels"][QUEUE_LABEL] == "night"
    assert new["spec"]["suspend"] is True


@pytest.mark.parametrize(
    ("suspend", "said"),
    [
        (True, "digits is suspended, and has not ended; `mnist-job resume digits` goes on with it"),
        (False, "digits has not ended (starting 0 of 2 pods made); `mnist-job cancel digits` ends it"),
    ],
)
def test_not_ended(submitted: Object, suspend: bool, said: str) -> None:
    """A run that has not ended is left alone."""
    job = served(submitted)
    job["spec"]["suspend"] = suspend
    cluster = FakeCluster(job)
    with pytest.raises(LauncherError) as refused:
        again(cluster)
    assert (refused.value.status, str(refused.value)) == (2, said)
    assert cluster.asked == []


def test_other_averaging(submitted: Object) -> None:
    """Where parameters are averaged the number of workers must stay: the worker would refuse the checkpoint."""
    job = served(submitted, "Failed")
    trainer_of(job["spec"]["template"])["args"] += ["--sync-every", "10"]
    cluster = FakeCluster(job)
    with pytest.raises(JobError) as refused:
        again(cluster, workers=3)
    assert str(refused.value) == (
        "--workers must stay 2 for digits, not 3: with --sync-every 10 each number of workers is another training"
    )
    assert again(cluster, workers=2) == 0


def test_pod_that_does_not_end(submitted: Object) -> None:
    """While a pod may still write nothing is deleted, and the sentence names it and its node."""
    lost = pod("digits-0-x", 0)
    lost["spec"] = {"nodeName": "n1"}
    cluster = FakeCluster(served(submitted, "FailureTarget"), lost)
    with pytest.raises(LauncherError) as refused:
        again(cluster)
    assert str(refused.value) == (
        "pod digits-0-x has not ended within 0 s (on n1); `mnist-job why digits` says what holds it"
    )
    assert cluster.asked == []


def refuse(verb: str) -> ApiError:
    """The API server's refusal."""
    return ApiError(403, "Forbidden", f"no {verb} today", f"{verb} it")


def test_refused_trial(submitted: Object, monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """Where the new Job would be refused, the old one stays."""
    cluster = FakeCluster(served(submitted, "Failed"))

    def create(_: Object, *, dry_run: bool = False) -> Object:
        raise refuse(f"create, {dry_run}")

    monkeypatch.setattr(cluster, "create", create)
    with pytest.raises(LauncherError, match="no create, True today"):
        again(cluster)
    assert ("Job", "digits") in cluster.objects
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_is_lost(
    submitted: Object,
    monkeypatch: pytest.MonkeyPatch,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    interrupted: bool,
) -> None:
    """Where the old Job is gone and the new one is not created, a file holds it, and the sentence says how to go on."""
    cluster = FakeCluster(served(submitted, "Failed"))
    create = cluster.create

    def fail(new: Object, *, dry_run: bool = False) -> Object:
        if dry_run:
            return create(new, dry_run=True)
        raise KeyboardInterrupt if interrupted else refuse("create")

    monkeypatch.setattr(cluster, "create", fail)
    with pytest.raises((LauncherError, KeyboardInterrupt)) as error:
        again(cluster)
    assert ("Job", "digits") not in cluster.objects
    [file] = here.glob("digits.retry.*.yaml")
    assert file.stat().st_mode & 0o777 == 0o600
    told = f"the new Job is in {file}: once the old one is gone, `kubectl apply -n here -f` creates it"
    if interrupted:
        assert capsys.readouterr().err == told + "\n"
    else:
        assert str(error.value) == f"the API server refused to create it: no create today; {told}"
    expected = copy.deepcopy(submitted)
    trainer_of(expected["spec"]["template"])["args"] += ["--continue"]
    expected["metadata"]["annotations"] = {"team": "vision"}
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == expected


def test_job_that_stays(submitted: Object, monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """An old Job that something holds is waited for only so long, and the new one is kept."""
    cluster = FakeCluster(served(submitted, "Failed"))
    monkeypatch.setattr(cluster, "delete", lambda *_, **__: None)
    with pytest.raises(LauncherError, match="the Job digits is not gone 0 s after its deletion; see its finalizers"):
        again(cluster)
    assert len(list(here.glob("digits.retry.*.yaml"))) == 1


def scheduled(job: Object) -> Object:
    """A Job that failed, of the schedule `nightly`."""
    made = served(job, "Failed")
    made["metadata"]["ownerReferences"] = overlap.owned_by(CRON_JOB)
    return made


CRON_JOB = {
    "kind": "CronJob",
    "metadata": {"name": "nightly", "uid": "nightly-uid", "resourceVersion": "0"},
    "status": {"active": []},
}


class Attended(FakeCluster):
    """A cluster whose CronJob controller takes out what is gone, whenever the CronJob is asked for."""

    def get(self, kind: str, name: str) -> Object | None:
        """An object."""
        if kind == "CronJob" and (found := self.objects.get((kind, name))):
            found["status"]["active"] = [e for e in found["status"]["active"] if ("Job", e["name"]) in self.objects]
        return super().get(kind, name)


def test_a_run_of_a_schedule(submitted: Object) -> None:
    """It stays the schedule's, and goes on only once it holds that up."""
    cluster = Attended(scheduled(submitted), copy.deepcopy(CRON_JOB))
    assert again(cluster) == 0
    made = cluster.objects["Job", "digits"]
    assert made["metadata"]["ownerReferences"] == overlap.owned_by(CRON_JOB)
    assert [e["name"] for e in cluster.objects["CronJob", "nightly"]["status"]["active"][:1]] == ["digits"]
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [
        ("dry-run", "Job"),
        ("delete", "Job"),
        ("create", "Job"),
        ("patch", "CronJob/status"),
        ("patch", "Job"),
    ]
    created = next(new for verb, _, new in cluster.asked if verb == "create")
    assert (created["spec"]["suspend"], made["spec"]["suspend"]) == (True, False)


def test_a_run_of_a_schedule_that_has_another(submitted: Object) -> None:
    """Nothing is deleted while another run goes on; one that is faster leaves the new Job suspended, and it is said."""
    other = scheduled(submitted)
    other["metadata"] |= {"name": "nightly-1", "uid": "other"}
    other["status"] = {}
    cluster = Attended(scheduled(submitted), copy.deepcopy(CRON_JOB), other)
    with pytest.raises(LauncherError, match="nightly-1 of the same schedule has not ended"):
        again(cluster)
    assert cluster.asked == []

    cluster = Attended(scheduled(submitted), copy.deepcopy(CRON_JOB))
    create = cluster.create

    def beside(new: Object, *, dry_run: bool = False) -> Object:
        if not dry_run:
            cluster.objects["Job", "nightly-1"] = other
        return create(new, dry_run=dry_run)

    cluster.create = beside  # type: ignore[method-assign]
    with pytest.raises(
        LauncherError, match="digits is submitted again, and suspended: `mnist-job resume digits` goes on"
    ):
        again(cluster)
    assert cluster.objects["Job", "digits"]["spec"]["suspend"]
