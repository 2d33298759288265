"""Schedules as status, why, suspend, resume and cancel show and change them."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from k8s.api.errors import LauncherError
from k8s.commands import cancel, resume, status, suspend, why
from k8s.diagnose.schedules import explain_no_start
from k8s.state import schedule as schedules
from k8s.state.find import gather
from k8s.state.names import APP, CANCELLED, JOB_NAME_LABEL, NAME_LABEL, RUN_SELECTOR, SCHEDULE_LABEL, SINCE
from k8s.state.run import Run
from k8s.state.schedule import Schedule
from k8s.view.summary import schedule_summary
from tests.k8s.fakes import FakeCluster
from tests.k8s.objects import event, job, waiting

if TYPE_CHECKING:
    from k8s.api.objects import Object

NOW = datetime(2026, 1, 10, 12, 0, tzinfo=UTC)
LAST = "2026-01-10T02:00:00Z"  # when a run started last
RESUMED = {"metadata": {"annotations": {SINCE: "2026-01-10T12:00:00Z"}}, "spec": {"suspend": False}}
MESSAGE = "Container trainer for pod team/run-0-aaaaa failed with exit code 76 matching FailJob rule at index 1"


def cronjob(*active: str, last: str | None = LAST, **spec: Any) -> Object:
    """The schedule `nightly`, which starts at 02:00, with these active Jobs."""
    metadata = {"name": "nightly", "uid": "nightly-uid", "labels": {NAME_LABEL: APP}, "resourceVersion": "1"}
    listed = {"active": [{"name": name, "uid": name} for name in active]}
    template = {"spec": {"completions": 2, "template": job(2)["spec"]["template"]}}
    return {
        "kind": "CronJob",
        "metadata": metadata | {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "schedule": "0 2 * * *",
            "startingDeadlineSeconds": 3600,
            "failedJobsHistoryLimit": 10,
            "jobTemplate": template,
            **spec,
        },
        "status": listed | ({"lastScheduleTime": last} if last else {}),
    }


def child(day: int, condition: str = "", *, suspend: bool = False, **condition_fields: str) -> Object:
    """The Job of the run of a day."""
    made = job(2, condition, **condition_fields)
    stamp = {"creationTimestamp": f"2026-01-{day:02}T02:00:00Z", "name": f"nightly-{day}", "uid": f"nightly-{day}"}
    made["metadata"] |= {**stamp, "labels": {**made["metadata"]["labels"], SCHEDULE_LABEL: "nightly"}}
    made["spec"]["suspend"] = suspend
    return {"kind": "Job", **made}


def failed(day: int) -> Object:
    """A Job that failed and whose pods were deleted."""
    return child(day, "Failed", reason="PodFailurePolicy", message=MESSAGE)


def cancelled(day: int) -> Object:
    """A Job that `cancel` suspended."""
    made = child(day, suspend=True)
    made["metadata"]["annotations"] = {CANCELLED: LAST}
    return made


def pods_without_image(day: int) -> list[Object]:
    """The pods of the run of a day, whose image is not there."""
    pods = [waiting(rank, "ErrImagePull", "no such image") for rank in range(2)]
    for pod in pods:
        pod["kind"], pod["metadata"]["labels"][JOB_NAME_LABEL] = "Pod", f"nightly-{day}"
    return pods


def schedule_with(cronjob: Object, *jobs: Object, events: tuple[Object, ...] = ()) -> Schedule:
    """A schedule with its runs."""
    return Schedule(cronjob, tuple(Run(one) for one in jobs), events)


def of(reason: str, message: str, day: int = 10) -> Object:
    """An event of the CronJob about the start of a day."""
    made = event("CronJob", "nightly", reason, message) | {"lastTimestamp": f"2026-01-{day:02}T02:00:01Z"}
    made["involvedObject"]["uid"] = "nightly-uid"
    return {"kind": "Event", "metadata": {"name": reason}, **made}


@pytest.mark.parametrize(
    ("schedule", "state", "when", "missed", "last", "failures"),
    [
        (
            schedule_with(
                cronjob(last=None),
            ),
            "waiting",
            "2026-01-11T02:00:00+00:00",
            "2026-01-10T02:00:00+00:00",
            None,
            0,
        ),
        (schedule_with(cronjob(), child(10, "Complete")), "waiting", "2026-01-11T02:00:00+00:00", None, "published", 0),
        (
            schedule_with(cronjob("nightly-10"), child(10), failed(9), failed(8), child(7, "Complete"), failed(6)),
            "running nightly-10",
            "2026-01-11T02:00:00+00:00",
            None,
            "failed",
            2,
        ),
        (
            schedule_with(cronjob("nightly-9", last="2026-01-09T02:00:00Z"), child(9, suspend=True), failed(8)),
            "held up nightly-9",
            "2026-01-11T02:00:00+00:00",
            "2026-01-10T02:00:00+00:00",
            "failed",
            1,
        ),
        (
            schedule_with(cronjob(), child(10), child(9, "Complete")),
            "running nightly-10",
            "2026-01-11T02:00:00+00:00",
            None,
            "published",
            0,
        ),
        (
            schedule_with(cronjob(), child(10, suspend=True), child(9, "Complete")),
            "waiting",
            "2026-01-11T02:00:00+00:00",
            None,
            "published",
            0,
        ),
        (
            schedule_with(cronjob(), cancelled(10), child(9, "Complete")),
            "waiting",
            "2026-01-11T02:00:00+00:00",
            None,
            "published",
            0,
        ),
        (
            schedule_with(cronjob("nightly-10", suspend=True), child(10)),
            "suspended nightly-10 continues",
            None,
            None,
            None,
            0,
        ),
        (
            schedule_with(cronjob(schedule="30 1 * * *", timeZone="Asia/Kathmandu"), child(10, "Complete")),
            "waiting",
            "2026-01-11T01:30:00+05:45",
            None,
            "published",
            0,
        ),
        (schedule_with(cronjob(schedule="@every 1h"), child(10, "Complete")), "waiting", None, None, "published", 0),
    ],
    ids=[
        "new",
        "well",
        "running",
        "held up",
        "triggered",
        "triggered and suspended",
        "triggered and cancelled",
        "suspended",
        "elsewhere",
        "unknown times",
    ],
)
def test_line(
    schedule: Schedule, state: str, when: str | None, missed: str | None, last: str | None, failures: int
) -> None:
    """State, next and missed start in the schedule's time zone, last result, and failures in a row."""
    result = schedule_summary(schedule, NOW)
    assert f"{result['state']} {result['detail']}".strip() == state
    assert (result["next"], result["missed"], result["failures"]) == (when, missed, failures)
    assert (result["last"] and result["last"]["state"]) == last
    assert (result["name"], result["workers"], result["age_s"]) == ("nightly", 2, 9.5 * 86_400)


@pytest.mark.parametrize(
    ("since", "missed"),
    [(None, True), ("2026-01-10T01:59:00Z", True), ("2026-01-10T02:01:00Z", False)],
)
def test_what_was_never_due_is_not_missed(since: str | None, *, missed: bool) -> None:
    """A start from before a change or a resumption is not missed, even if the cluster still makes it up."""
    changed = cronjob(last="2026-01-09T02:00:00Z")
    changed["metadata"]["annotations"] = {SINCE: since} if since else {}
    made = schedule_with(changed, child(9, "Complete"))
    assert (made.missed(NOW) is not None) == missed
    cause = explain_no_start(made, NOW, "-n here")
    assert (cause and cause.reason) == ("schedule-missed" if missed else None)
    assert made.late(NOW) is None
    assert made.late(NOW.replace(hour=2, minute=30)) == NOW.replace(hour=2)


def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the cluster's time to NOW, whatever this machine's clock says."""
    monkeypatch.setattr(FakeCluster, "now", lambda _: NOW)


def flags(name: str | None, output: str = "text", *, watch: bool = False) -> argparse.Namespace:
    """The arguments of `status`."""
    return argparse.Namespace(name=name, output=output, watch=watch, all_namespaces=False, selector=None)


def test_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All schedules are listed after the runs; a single one is shown with its runs and events."""
    at_noon(monkeypatch)
    other = {"kind": "Job", **job(1, "Complete")}
    cluster = FakeCluster(cronjob(), failed(10), child(9, "Complete"), other, of("SuccessfulCreate", "Created job"))
    monkeypatch.setattr(cluster, "namespace", "here")
    status.run(flags(None, "json"), cluster.given)
    result = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in result["runs"]] == ["nightly-10", "nightly-9", "demo"]
    assert [(one["name"], one["failures"]) for one in result["schedules"]] == [("nightly", 1)]
    status.run(flags("nightly", "json"), cluster.given)
    result = json.loads(capsys.readouterr().out)
    assert [(run["name"], run["state"]) for run in result["history"]] == [
        ("nightly-10", "failed"),
        ("nightly-9", "published"),
    ]
    assert [event["reason"] for event in result["events"]] == ["SuccessfulCreate"]
    assert (result["failures"], result["failures_at_least"]) == (1, False)
    for name in ("nightly", None):
        status.run(flags(name), cluster.given)
        text = " ".join(capsys.readouterr().out.split())
        assert "SCHEDULE STATE CRON NEXT MISSED LAST RUN FAILURES" in text
        assert "nightly-9 published" in text


def test_watch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two watches replace repeated lists, however many runs the schedule has."""
    at_noon(monkeypatch)
    cluster = FakeCluster(cronjob(), failed(10), child(9, "Complete"))
    listed, kept = list[tuple[str, str]](), list[tuple[str, str]]()
    select, looks = cluster.select, itertools.count()

    def listing(kind: str, selector: str = "", fields: str = "", **_: bool) -> list[Object]:
        listed.append((kind, selector))
        return select(kind, selector, fields)

    def sleep(_: float) -> None:
        cluster.objects["CronJob", "nightly"]["spec"]["suspend"] = True
        if next(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "select", listing)
    monkeypatch.setattr(cluster, "keep", lambda *what, **_: kept.append(what), raising=False)
    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with pytest.raises(KeyboardInterrupt):
        status.run(flags("nightly", watch=True), cluster.given)
    assert capsys.readouterr().out == "nightly: waiting\nnightly: suspended\n"
    assert kept == [("Pod", RUN_SELECTOR), ("Job", RUN_SELECTOR)]
    assert set(listed) == {*kept, ("Event", "")}


@pytest.mark.parametrize(
    ("objects", "state", "reason", "sentence"),
    [
        ([cronjob(suspend=True)], "suspended", "schedule-suspended", "the schedule is suspended and starts no runs"),
        (
            [cronjob("nightly-10", suspend=True), child(10), *pods_without_image(10)],
            "suspended nightly-10 continues",
            "schedule-suspended",
            "the schedule is suspended and starts no runs",
        ),
        (
            [cronjob("nightly-10"), child(10, suspend=True)],
            "held up nightly-10",
            "schedule-held-up",
            "the schedule starts no run because its run nightly-10 has not ended: it is suspended",
        ),
        (
            [cronjob(last="2026-01-09T02:00:00Z"), of("JobAlreadyActive", "Not starting job")],
            "waiting",
            "schedule-overlap",
            "the run of 2026-01-10 02:00 UTC was not started: another run had not ended",
        ),
        (
            [cronjob(last="2026-01-09T02:00:00Z"), of("FailedCreate", "Error creating job: exceeded quota")],
            "waiting",
            "schedule-missed",
            "the run of 2026-01-10 02:00 UTC was not started: Error creating job: exceeded quota",
        ),
        (
            [cronjob(last="2026-01-09T02:00:00Z"), of("JobAlreadyActive", "Not starting job", day=9)],
            "waiting",
            "schedule-missed",
            (
                "the run of 2026-01-10 02:00 UTC was not started: "
                "the schedule was suspended or had other times then, or the cluster's CronJob controller did not run "
                "for 3600 s"
            ),
        ),
        (
            [cronjob(), failed(10), failed(9)],
            "waiting",
            "loss-not-finite",
            (
                "its last run nightly-10 failed (2 failures in a row): "
                "worker 0 exited with 76 (loss-not-finite); its pod was deleted, and its message with it"
            ),
        ),
        (
            [cronjob(), child(10, "Complete")],
            "waiting",
            "published",
            (
                "nothing is wrong: its last run nightly-10 published a model; "
                "the next run starts at 2026-01-11 02:00 UTC"
            ),
        ),
        (
            [cronjob(), *map(failed, range(1, 11))],
            "waiting",
            "loss-not-finite",
            (
                "its last run nightly-10 failed (at least 10 failures in a row): "
                "worker 0 exited with 76 (loss-not-finite); its pod was deleted, and its message with it"
            ),
        ),
        (
            [cronjob(schedule="@every 1h"), child(10, "Complete")],
            "waiting",
            "published",
            (
                "nothing is wrong: its last run nightly-10 published a model; its next start is unknown: CRON must "
                "have five fields or be one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, not "
                "'@every 1h'"
            ),
        ),
        (
            [cronjob("nightly-10"), child(10)],
            "running nightly-10",
            "running",
            "nothing is wrong: its run nightly-10 has not ended; the next run starts at 2026-01-11 02:00 UTC",
        ),
        (
            [cronjob("nightly-10"), child(10), *pods_without_image(10)],
            "running nightly-10",
            "image",
            (
                "its run nightly-10 has not ended: workers 0 and 1 cannot pull the image "
                "registry.example/mnist-job:1: no such image"
            ),
        ),
        (
            [
                cronjob("nightly-9", last="2026-01-09T02:00:00Z"),
                of("JobAlreadyActive", "Not starting job"),
                child(9),
                *pods_without_image(9),
            ],
            "running nightly-9",
            "image",
            (
                "the run of 2026-01-10 02:00 UTC was not started: another run had not ended; its run nightly-9 has not "
                "ended: workers 0 and 1 cannot pull the image registry.example/mnist-job:1: no such image"
            ),
        ),
    ],
    ids=[
        "suspended",
        "suspended beside a run that cannot start",
        "held up",
        "overlap",
        "refused",
        "no controller",
        "failed",
        "well",
        "failed, all",
        "other times",
        "running",
        "cannot start",
        "overlap with one that cannot start",
    ],
)
def test_why(
    objects: list[Object],
    state: str,
    reason: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is wrong with a run that has not ended comes first, then what prevents starts, then the last failure."""
    at_noon(monkeypatch)
    flags = argparse.Namespace(name="nightly", output="json", image=None, claim=None)
    assert why.run(flags, FakeCluster(*objects).given) == 0
    result = json.loads(capsys.readouterr().out)
    assert f"{result['state']} {result['detail']}".strip() == state
    assert (result["reason"], result["sentence"]) == (reason, sentence)


@pytest.mark.parametrize(
    ("command", "before", "change", "said"),
    [
        (
            suspend,
            cronjob("nightly-10"),
            {"spec": {"suspend": True}},
            (
                "nightly is suspended: it starts no run until `mnist-job resume nightly -n here`; "
                "its run nightly-10 is not affected: `mnist-job suspend nightly-10 -n here` suspends it too"
            ),
        ),
        (
            suspend,
            cronjob(suspend=True),
            None,
            "nightly is already suspended; `mnist-job resume nightly -n here` resumes it",
        ),
        (
            resume,
            cronjob(suspend=True),
            RESUMED,
            "nightly is resumed: the next run starts at 2026-01-11 02:00 UTC",
        ),
        (
            resume,
            cronjob(suspend=True, schedule="30 11 * * *"),
            RESUMED,
            (
                "nightly is resumed: the next run starts at 2026-01-11 11:30 UTC; "
                "the run of 11:30, which was missed, starts now"
            ),
        ),
        (
            resume,
            cronjob("nightly-10", suspend=True, schedule="30 11 * * *"),
            RESUMED,
            (
                "nightly is resumed: the next run starts at 2026-01-11 11:30 UTC; "
                "the run of 11:30, which was missed, starts after nightly-10"
            ),
        ),
        (resume, cronjob(), None, "nightly is not suspended"),
    ],
)
def test_suspend_and_resume(
    command: Any,
    before: Object,
    change: Object | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A schedule is suspended and resumed without its runs."""
    at_noon(monkeypatch)
    cluster = FakeCluster(before, child(10))
    assert command.run(argparse.Namespace(name="nightly", output="text"), cluster.given) == 0
    assert cluster.asked == ([("patch", "CronJob", change)] if change else [])
    assert capsys.readouterr().out == said + "\n"


def test_cancel(capsys: pytest.CaptureFixture[str]) -> None:
    """The CronJob is deleted, and its Jobs stay."""
    cluster = FakeCluster(cronjob("nightly-10"), child(10), child(9, "Complete"))
    cancel.run(argparse.Namespace(name="nightly", output="json"), cluster.given)
    assert cluster.asked == [("orphan", "CronJob", "nightly")]
    assert json.loads(capsys.readouterr().out) == {
        "name": "nightly",
        "namespace": "here",
        "state": "cancelled",
        "changed": True,
        "message": (
            "nightly is cancelled: its CronJob is deleted; its runs and their models stay; "
            "its run nightly-10 is not affected: `mnist-job cancel nightly-10 -n here` cancels it too"
        ),
    }


def test_what_is_for_runs_alone() -> None:
    """A command for runs only names the command that lists the schedule's runs."""
    with pytest.raises(LauncherError) as refused:
        gather(FakeCluster(cronjob()).given(), "nightly")
    assert str(refused.value) == "nightly is a schedule, not a run; `mnist-job status nightly -n here` lists its runs"


def test_a_renamed_schedule(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The runs are those of the CronJob that owns them: kustomize renames it, but not a label in its jobTemplate."""
    at_noon(monkeypatch)
    made = failed(10)
    made["metadata"] |= {"ownerReferences": [{"kind": "CronJob", "name": "team-nightly", "controller": True}]}
    renamed = cronjob()
    renamed["metadata"]["name"] = "team-nightly"
    flags = argparse.Namespace(name="team-nightly", output="json", image=None, claim=None)
    assert why.run(flags, FakeCluster(renamed, made).given) == 0
    assert json.loads(capsys.readouterr().out)["sentence"].startswith("its last run nightly-10 failed")


def test_a_schedule_that_goes() -> None:
    """A CronJob that is being deleted is not a schedule any more."""
    going = cronjob()
    going["metadata"]["deletionTimestamp"] = LAST
    cluster = FakeCluster(going).given()
    with pytest.raises(LauncherError, match="there is no schedule nightly in namespace here"):
        schedules.get(cluster, "nightly")
    with pytest.raises(LauncherError, match="there is no run nightly in namespace here"):
        cancel.run(argparse.Namespace(name="nightly", output="text"), lambda: cluster)
