"""schedule: the CronJob that is created or changed, and what is refused."""

from __future__ import annotations

import copy
import itertools
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from k8s.__main__ import main
from k8s.api.errors import ApiError
from k8s.checks import preflight
from k8s.commands import replace, schedule
from k8s.render import render
from k8s.render.attempt import record_submission
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.render.render import INSTANCE_LABEL, MANAGED_BY, VERSION
from k8s.render.submission import Submission
from k8s.state.names import APP, NAME_LABEL, PART_OF_LABEL, QUEUE_LABEL, SCHEDULE_LABEL, SINCE
from tests.k8s.fakes import FakeCluster, job

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object
    from k8s.checks.check import Check

NAME = "nightly"
FIRST = ("activeDeadlineSeconds", "backoffLimitPerIndex", "completionMode", "completions", "maxFailedIndexes")
LABELS = (
    {NAME_LABEL: APP, PART_OF_LABEL: APP, "app.kubernetes.io/component": "trainer", INSTANCE_LABEL: NAME}
    | MANAGED_BY
    | VERSION
)


class Known(FakeCluster):
    """A cluster in which the setup exists."""

    def get(self, kind: str, name: str) -> Object | None:
        """An object."""
        if kind in ("Job", "CronJob"):
            return super().get(kind, name)
        return {"kind": kind, "metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteMany"]}}


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Object]:
    """The Jobs that preflight checked; all checks pass."""
    jobs: list[Object] = []

    def check(_: FakeCluster, job: Object, *__: object) -> list[Check]:
        jobs.append(job)
        return []

    monkeypatch.setattr(preflight, "check_all", check)
    return jobs


def run(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run `schedule`."""
    monkeypatch.setattr("k8s.api.kubeconfig.connect", lambda *_, **__: cluster)
    return main(["schedule", *words])


def asked(cluster: FakeCluster) -> list[tuple[str, str]]:
    """The requests about CronJobs."""
    return [(verb, kind) for verb, kind, _ in cluster.asked if kind == "CronJob"]


def test_the_cron_job() -> None:
    """Its jobTemplate is the Job that submit sends, without the time after which a Job is deleted: limits keep it."""
    sent = record_submission(render.job(Submission(NAME, workers=3, queue="night", arguments=("--epochs=3",))))
    spec = {key: value for key, value in sent["spec"].items() if key != "ttlSecondsAfterFinished"}
    labels = {**LABELS, QUEUE_LABEL: "night", SCHEDULE_LABEL: NAME}
    assert schedule.cron_job(copy.deepcopy(sent), " 0 2 * * * ", "Europe/Berlin") == {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {
            "schedule": "0 2 * * *",
            "timeZone": "Europe/Berlin",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 10,
            "jobTemplate": record_submission({"metadata": {"labels": labels}, "spec": spec}),
        },
    }
    assert spec["activeDeadlineSeconds"] == 6 * 3600


@pytest.mark.parametrize(
    ("expression", "deadline_s", "latest_s"),
    [
        ("0 0,7 * * *", 21_600, 3600),
        ("0 */6 * * *", 21_540, 3600),
        ("0 * * * *", 3540, 1800),
        ("* * * * *", 30, 30),
    ],
)
def test_bounds(expression: str, deadline_s: int, latest_s: int) -> None:
    """The deadline is below the shortest time between two starts, and a run starts at most half of that late."""
    spec = schedule.cron_job(render.job(Submission(NAME)), expression, "UTC")["spec"]
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == deadline_s
    assert spec["startingDeadlineSeconds"] == latest_s


def test_new(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checked: list[Object]) -> None:
    """Preflight checks a run of it, and the API server checks the CronJob, before anything is created."""
    cluster = Known()
    assert run(cluster, monkeypatch, "0 2 * * *", f"--name={NAME}", "--", "--epochs=3") == 0
    assert [job["metadata"]["name"] for job in checked] == ["nightly-0000000000"]
    assert [(verb, new["kind"], new["metadata"]["name"]) for verb, _, new in cluster.asked] == [
        ("dry-run", "CronJob", NAME),
        ("create", "CronJob", NAME),
    ]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("scheduled nightly: the next run starts at 20")
    assert first.endswith(" 02:00 UTC; a run fails after 21600 s")
    assert second == "  mnist-job status nightly -n here    mnist-job trigger nightly -n here"


def test_dry_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that would be sent is printed; with --dry-run=server the API server checks the CronJob."""
    cluster = Known()
    expected = schedule.cron_job(render.job(Submission("mnist")), "@daily", "UTC")
    run(cluster, monkeypatch, "@daily", "--dry-run")
    *setup, new = yaml.safe_load_all(capsys.readouterr().out)
    assert new == {**expected, "metadata": expected["metadata"] | {"namespace": "here"}}
    run(cluster, monkeypatch, "--dry-run", "@daily", "--output=json")
    assert json.loads(capsys.readouterr().out)["items"] == [*setup, new]
    run(cluster, monkeypatch, "--dry-run=server", "@daily", "--output=json")
    assert json.loads(capsys.readouterr().out)["items"] == [*setup, new]
    assert cluster.asked == 3 * [("dry-run", "CronJob", expected)]
    run(cluster, monkeypatch, "@daily", "--dry-run=client", "--namespace=here")
    assert list(yaml.safe_load_all(capsys.readouterr().out))[-1]["kind"] == "CronJob"
    assert len(cluster.asked) == 3
    assert run(cluster, monkeypatch, "@daily", "--dry-run=both") == 64
    assert "--dry-run" in capsys.readouterr().err


def served(*, suspend: bool = False, **changes: Any) -> Object:
    """The schedule as the API server has it."""
    made = schedule.cron_job(render.job(Submission(NAME, workers=1)), "0 2 * * *", "UTC")
    made["metadata"] |= {"uid": "nightly-uid", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}
    made["spec"] |= {"suspend": suspend, **changes}
    return made


def test_changed_in_place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The existing CronJob gets the new spec, stays suspended, and the changed fields are reported."""
    cluster = Known(served(suspend=True, schedule="0 3 * * *", parallelism=1))
    assert run(cluster, monkeypatch, "0 2 * * *", f"--name={NAME}", "--workers=2", "--output=json") == 0
    result = json.loads(capsys.readouterr().out)
    spec = "jobTemplate.spec"
    variable = f"{spec}.template.spec.containers.0.env.5.value"
    changed = [f"{spec}.completions", f"{spec}.parallelism", variable, "parallelism", "schedule"]
    assert result == {
        "name": NAME,
        "namespace": "here",
        "uid": "nightly-uid",
        "created": False,
        "changed": changed,
        "next": None,
        "late": None,
        "deadline_s": 21_600,
    }
    new = schedule.cron_job(render.job(Submission(NAME, workers=2)), "0 2 * * *", "UTC")
    after = cluster.objects["CronJob", NAME]
    assert after["spec"] == {**new["spec"], "suspend": True}
    assert after["metadata"]["uid"] == "nightly-uid"
    assert SINCE in after["metadata"]["annotations"]
    assert asked(cluster) == [("dry-run", "CronJob"), ("replace", "CronJob")]


def test_a_start_that_may_be_made_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The cluster counts new times from the last start, so a run that is due in this minute may still start."""
    there = served()
    there["status"] = {"lastScheduleTime": "2026-01-10T02:00:00Z"}
    cluster = Known(there)
    monkeypatch.setattr(cluster, "now", lambda: datetime(2026, 1, 10, 12, 0, 5, tzinfo=UTC))
    run(cluster, monkeypatch, "0 12 * * *", f"--name={NAME}", "--workers=1")
    said = "the next run starts at 2026-01-11 12:00 UTC; the run of 12:00, which was missed, may still start"
    assert f"changed the schedule nightly (schedule): {said}; runs" in capsys.readouterr().out
    run(cluster, monkeypatch, "0 12 * * *", f"--name={NAME}", "--workers=1", "--output=json")
    assert json.loads(capsys.readouterr().out)["late"] == "2026-01-10T12:00:00+00:00"
    metadata = cluster.objects["CronJob", NAME]["metadata"]
    assert metadata["annotations"] == {SINCE: "2026-01-10T12:00:05Z"}


def test_suspended_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that somebody else makes in between is kept; after several tries it is an error."""
    cluster = Known(served(schedule="0 3 * * *"))
    replace, meddled = cluster.replace, 1

    def late(new: Object, *, dry_run: bool = False) -> Object:
        nonlocal meddled
        if not dry_run and meddled:
            meddled -= 1
            cluster.patch("CronJob", NAME, {"spec": {"suspend": True}})
        return replace(new, dry_run=dry_run)

    monkeypatch.setattr(cluster, "replace", late)
    assert run(cluster, monkeypatch, "0 2 * * *", f"--name={NAME}", "--workers=1") == 0
    spec = cluster.objects["CronJob", NAME]["spec"]
    assert (spec["schedule"], spec["suspend"]) == ("0 2 * * *", True)
    meddled = 100
    assert run(cluster, monkeypatch, "0 4 * * *", f"--name={NAME}", "--workers=1") == 2
    assert meddled == 100 - schedule.TRIES


def test_cancelled_a_moment_ago(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A schedule that is being deleted is waited for and then created; one that stays is an error."""
    going = served()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster = Known(going)
    monkeypatch.setattr(replace, "POLL_S", 0.001)
    monkeypatch.setattr(replace, "GONE_S", 0.0)
    assert run(cluster, monkeypatch, "0 2 * * *", f"--name={NAME}") == 2
    assert capsys.readouterr().err.startswith("error: the CronJob nightly still exists 0 s after its deletion")
    assert cluster.asked == []

    monkeypatch.setattr(replace, "GONE_S", 60.0)
    get, looks = cluster.get, itertools.count()

    def gone_in_a_while(kind: str, name: str) -> Object | None:
        if kind == "CronJob" and next(looks) == 3:
            cluster.delete(kind, name, orphan=True)
        return get(kind, name)

    monkeypatch.setattr(cluster, "get", gone_in_a_while)
    assert run(cluster, monkeypatch, "0 2 * * *", f"--name={NAME}") == 0
    assert capsys.readouterr().out.startswith("scheduled nightly: ")
    assert "deletionTimestamp" not in cluster.objects["CronJob", NAME]["metadata"]


def test_many_changes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first changed fields are named, and how many more there are."""
    there = served()
    job_template = there["spec"]["jobTemplate"]
    job_template["spec"] = {"template": job_template["spec"]["template"]}
    run(Known(there), monkeypatch, "0 2 * * *", f"--name={NAME}", "--workers=1")
    fields = f"({', '.join(f'jobTemplate.spec.{field}' for field in FIRST)} and "
    said = capsys.readouterr().out
    assert f"changed the schedule nightly {fields}" in said
    assert re.search(r" and \d+ more\): the next run", said)


def test_the_same_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A schedule that is up to date is left alone, and that is reported."""
    cluster = Known(served())
    run(cluster, monkeypatch, "0 2 * * *", f"--name={NAME}", "--workers=1")
    assert capsys.readouterr().out.startswith("schedule nightly is unchanged: the next run starts at 20")
    assert asked(cluster) == [("dry-run", "CronJob")]


@pytest.mark.parametrize(
    ("words", "there", "code", "sentence"),
    [
        (["0 25 * * *"], [], 64, "the hour in CRON must be from 0 to 23, not '25'"),
        (
            ["@daily", "--timezone=Berlin"],
            [],
            64,
            "--timezone must be a name in the time zone database, such as Europe/Berlin, not 'Berlin'",
        ),
        (
            ["@hourly", "--deadline=1h"],
            [],
            64,
            (
                "--deadline must be below the shortest time between two starts, 3600 s, not 3600 s; a run that hangs "
                "would delay the next one"
            ),
        ),
        (
            ["@daily", f"--name={'n' * 51}", "--workers=2"],
            [],
            64,
            f"--name must be at most 50 characters with 2 worker(s), not 51: '{'n' * 51}'",
        ),
        (
            ["@daily", f"--name={'n' * 50}", "--workers=11"],
            [],
            64,
            f"--name must be at most 49 characters with 11 worker(s), not 50: '{'n' * 50}'",
        ),
        (
            ["@daily", f"--name={NAME}"],
            [job(NAME)],
            2,
            "a Job named nightly already exists; choose another --name",
        ),
        (
            ["@daily", f"--name={NAME}"],
            [{"kind": "CronJob", "metadata": {"name": NAME}}],
            2,
            "the CronJob nightly in namespace here does not belong to mnist-job; choose another --name",
        ),
    ],
)
def test_refused(
    words: list[str],
    there: list[Object],
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence names the problem, and nothing is sent."""
    cluster = Known(*there)
    assert run(cluster, monkeypatch, *words) == code
    assert capsys.readouterr() == ("", f"error: {sentence}\n")
    assert cluster.asked == []


def test_the_overlay_has_too_many_workers_for_the_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The number of workers in a user's overlay counts, too."""
    [found] = kustomize(MANIFESTS / "run")
    found["spec"]["completions"] = 11
    (tmp_path / "job.yaml").write_text(json.dumps(found), encoding="utf-8")
    (tmp_path / "kustomization.yaml").write_text('{"resources": ["job.yaml"]}', encoding="utf-8")
    assert run(Known(), monkeypatch, "@daily", f"--name={'n' * 50}", f"--overlay={tmp_path}") == 64
    assert "at most 49 characters with 11 worker(s)" in capsys.readouterr().err


def test_who_may_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A user who may not create CronJobs learns which role allows it."""
    cluster = Known()
    create = cluster.create

    def refuse(new: Object, *, dry_run: bool = False) -> Object:
        if new["kind"] == "CronJob":
            raise ApiError(403, "Forbidden", 'User "u" cannot create resource "cronjobs"', "ask")
        return create(new, dry_run=dry_run)

    monkeypatch.setattr(cluster, "create", refuse)
    assert run(cluster, monkeypatch, "@daily") == 2
    sentence = 'User "u" cannot create resource "cronjobs"; bind the role mnist-job-runner of k8s/manifests/rbac'
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize(
    ("told", "remedy"),
    [
        (
            (
                "exceeded quota: few, requested: count/cronjobs.batch=1, used: count/cronjobs.batch=2, "
                "limited: count/cronjobs.batch=2"
            ),
            "ask an administrator to raise the quota few",
        ),
        (
            'admission webhook "w" denied the request: no owner',
            "change what the message names, or ask the cluster's administrator",
        ),
    ],
)
def test_a_schedule_that_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], told: str, remedy: str
) -> None:
    """The refusal of a quota or a webhook is not reported as a missing role, and nothing is left behind."""
    for refused_in_dry_run in (True, False):
        cluster = Known()
        before, create = dict(cluster.objects), cluster.create

        def refuse(new: Object, *, dry_run: bool = False, on: bool = refused_in_dry_run, make: Any = create) -> Object:
            if new["kind"] == "CronJob" and dry_run is on:
                raise ApiError(403, "Forbidden", told, "ask")
            made: Object = make(new, dry_run=dry_run)
            return made

        monkeypatch.setattr(cluster, "create", refuse)
        assert run(cluster, monkeypatch, "@daily") == 2
        assert capsys.readouterr().err == f"error: {told}; {remedy}\n"
        assert cluster.objects == before


def test_a_schedule_whose_webhook_has_no_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CronJob that the API server cannot try is created."""
    cluster = Known()
    create = cluster.create

    def refuse(new: Object, *, dry_run: bool = False) -> Object:
        if dry_run:
            raise ApiError(400, "BadRequest", 'admission webhook "w" does not support dry run', "ask")
        return create(new, dry_run=dry_run)

    monkeypatch.setattr(cluster, "create", refuse)
    assert run(cluster, monkeypatch, "@daily", f"--name={NAME}") == 0
    assert ("CronJob", NAME) in cluster.objects
