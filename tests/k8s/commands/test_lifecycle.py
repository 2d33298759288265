"""cancel, suspend and resume a run: what is sent, what is reported, what is refused."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import pytest

from k8s.api.errors import ApiError, LauncherError
from k8s.commands import cancel, replace, resume, suspend
from k8s.render.attempt import next_job, record_submission
from k8s.state.names import CANCELLED, NO_QUEUE, QUEUE_LABEL, RUN_LABEL, SCHEDULE_LABEL, SUBMITTED
from k8s.state.run import Run, state
from tests.k8s.fakes import FakeCluster, job, pod

if TYPE_CHECKING:
    from k8s.api.objects import Object

STOPPED = {CANCELLED: "2026-01-01T00:00:00Z"}
RETRY = "`mnist-job retry digits -n here` continues from its newest checkpoint"
RESUME = "`mnist-job resume digits -n here` continues it"


def run(command: Any, cluster: FakeCluster, output: str = "text", name: str = "digits") -> int:
    """Run a command on a run."""
    status: int = command.run(argparse.Namespace(name=name, output=output), cluster.given)
    return status


@pytest.mark.parametrize(
    ("command", "before", "change", "said"),
    [
        (
            suspend,
            job(),
            {"spec": {"suspend": True}},
            ("digits is suspended: its workers write a checkpoint and stop within 30 s; " + RESUME),
        ),
        (suspend, job(suspend=True), None, f"digits is already suspended; {RESUME}"),
        (
            suspend,
            job(suspend=True, annotations=STOPPED),
            None,
            f"digits is cancelled, so it does not run; {RETRY}",
        ),
        (
            resume,
            job(suspend=True),
            {"spec": {"suspend": False}},
            "digits continues from its newest checkpoint; `mnist-job logs digits -n here` follows it",
        ),
        (resume, job(), None, "digits is not suspended"),
        (cancel, job(suspend=True, annotations=STOPPED), None, f"digits is already cancelled; {RETRY}"),
    ],
)
def test_what_is_sent_and_reported(
    command: Any, before: Object, change: Object | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A change is sent only if it is needed, and the message says which it was."""
    cluster = FakeCluster(before)
    assert run(command, cluster) == 0
    assert cluster.asked == ([("patch", "Job", change)] if change else [])
    assert capsys.readouterr() == (said + "\n", "")


@pytest.mark.parametrize(
    ("before", "detail"),
    [
        (job(), ": its workers write a checkpoint and stop within 30 s"),
        (job(suspend=True), ""),
        (job(suspend=True, queue="night"), " and has left the queue"),
    ],
    ids=["running", "suspended", "queued"],
)
def test_cancelled(before: Object, detail: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A cancelled Job is suspended and annotated, and the message matches its state before."""
    cluster = FakeCluster(before)
    assert run(cancel, cluster) == 0
    after = cluster.objects["Job", "digits"]
    assert after["spec"]["suspend"]
    assert CANCELLED in after["metadata"]["annotations"]
    assert capsys.readouterr().out == f"digits is cancelled{detail}; {RETRY}\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON holds the state and whether it was changed."""
    run(resume, FakeCluster(job()), "json")
    assert json.loads(capsys.readouterr().out) == {
        "name": "digits",
        "namespace": "here",
        "state": "resumed",
        "changed": False,
        "message": "digits is not suspended",
    }


@pytest.mark.parametrize("command", [cancel, suspend, resume])
@pytest.mark.parametrize(
    ("condition", "outcome"),
    [
        ("SuccessCriteriaMet", "published"),
        ("Complete", "published"),
        ("FailureTarget", "failed: broken"),
        ("Failed", "failed: broken"),
    ],
)
def test_ended(command: Any, condition: str, outcome: str) -> None:
    """A run that has ended is left alone, and the message says how it ended."""
    cluster = FakeCluster(job("digits", condition))
    with pytest.raises(LauncherError) as refused:
        run(command, cluster)
    text = f"digits has already ended ({outcome}); `mnist-job retry digits -n here` starts it again"
    assert (refused.value.status, str(refused.value)) == (2, text)
    assert cluster.asked == []


def test_a_run_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends between the decision and the change is not reported as suspended."""
    cluster = FakeCluster(job())
    monkeypatch.setattr(cluster, "patch", lambda *_: job("digits", "Complete"))
    with pytest.raises(LauncherError, match=r"digits has already ended \(published\)"):
        run(suspend, cluster)


def test_cancelled_is_not_resumed() -> None:
    """Only `retry` starts a cancelled run again."""
    with pytest.raises(LauncherError) as refused:
        run(resume, FakeCluster(job(suspend=True, annotations=STOPPED)))
    assert str(refused.value) == f"digits is cancelled, which `resume` does not undo; {RETRY}"


@pytest.mark.parametrize("command", [suspend, resume])
@pytest.mark.parametrize("suspended", [False, True])
def test_kueue_decides(command: Any, *, suspended: bool) -> None:
    """A run in one of Kueue's queues is neither suspended nor resumed by hand."""
    with pytest.raises(LauncherError) as refused:
        run(command, FakeCluster(job(suspend=suspended, queue="night")))
    assert str(refused.value) == (
        "Kueue decides when digits runs: it is in the queue night; "
        "`mnist-job cancel digits -n here` takes it out of the queue"
    )


def workload() -> Object:
    """The Workload of the run `digits`."""
    metadata = {"name": "job-digits-1", "labels": {"kueue.x-k8s.io/job-uid": "digits-uid"}}
    return {"kind": "Workload", "metadata": metadata, "spec": {"queueName": "night", "active": True}}


def test_cancelled_in_a_queue() -> None:
    """The Workload goes first, or Kueue would start the Job again; the Job then names a queue that does not exist."""
    cluster = FakeCluster(job(queue="night", suspend=True), workload())
    assert run(cancel, cluster) == 0
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [("patch", "Workload"), ("patch", "Job")]
    assert cluster.objects["Workload", "job-digits-1"]["spec"]["active"] is False
    after = cluster.objects["Job", "digits"]
    assert (after["spec"]["suspend"], after["metadata"]["labels"][QUEUE_LABEL]) == (True, NO_QUEUE)
    assert state(Run(after)).word == "cancelled"
    assert run(cancel, cluster) == 0
    with pytest.raises(LauncherError, match="is cancelled, which `resume` does not undo"):
        run(resume, cluster)


def test_cancelled_while_kueue_makes_the_workload() -> None:
    """A Workload that Kueue makes from an earlier state of the Job is deactivated too."""

    class Late(FakeCluster):
        def patch(self, kind: str, name: str, change: Object, subresource: str = "") -> Object:
            if kind == "Job":
                self.objects["Workload", "job-digits-1"] = workload()
            return super().patch(kind, name, change, subresource)

    cluster = Late(job(queue="night", suspend=True))
    run(cancel, cluster)
    assert cluster.objects["Workload", "job-digits-1"]["spec"]["active"] is False


def test_cancelled_while_kueue_stops_it() -> None:
    """Kueue refuses another queue until it has stopped the Job."""
    label = f"metadata.labels[{QUEUE_LABEL}]"
    busy = f'admission webhook "vjob.kb.io" denied the request: {label}: Invalid value: "": field is immutable'

    class Busy(FakeCluster):
        refusals = 2

        def patch(self, kind: str, name: str, change: Object, subresource: str = "") -> Object:
            if kind == "Job" and self.refusals:
                self.refusals -= 1
                raise ApiError(403, "Forbidden", busy, "patch it")
            return super().patch(kind, name, change, subresource)

    cluster = Busy(job(queue="night"), workload())
    assert run(cancel, cluster) == 0
    assert cluster.objects["Job", "digits"]["metadata"]["labels"][QUEUE_LABEL] == NO_QUEUE


@pytest.mark.parametrize("code", [403, 404])
def test_cancelled_without_access_to_kueue(code: int) -> None:
    """Without Kueue there is nothing more to do; a user who may not change its objects is told, and nothing changes."""

    class Without(FakeCluster):
        def select(self, kind: str, selector: str = "", fields: str = "", **more: Any) -> list[Object]:
            if kind == "Workload":
                raise ApiError(code, "", "no", "list workloads")
            return super().select(kind, selector, fields, **more)

    cluster = Without(job(queue="night"))
    if code == 403:
        with pytest.raises(ApiError):
            run(cancel, cluster)
        assert cluster.asked == []
    else:
        assert run(cancel, cluster) == 0


@pytest.mark.parametrize("recorded", [True, False])
def test_the_queue_of_a_cancelled_run_is_kept(*, recorded: bool) -> None:
    """The Job that continues it waits in the same queue."""
    before = job(queue="night", suspend=True)
    before["spec"]["template"] = scheduled("any")["spec"]["template"]
    before["spec"]["template"]["metadata"] = {}
    if recorded:
        record_submission(before)
    cluster = FakeCluster(before)
    run(cancel, cluster)
    metadata = next_job(cluster.objects["Job", "digits"])["metadata"]
    assert metadata["labels"][QUEUE_LABEL] == "night"
    assert metadata["annotations"].keys() == {SUBMITTED}


@pytest.mark.parametrize(
    ("existing", "said"),
    [
        (
            [],
            (
                "there is no run digits in namespace here; `mnist-job status -n here` lists the runs; "
                "to continue a run whose Job was deleted, submit it with the same flags and `-- --continue`"
            ),
        ),
        (
            [{"kind": "Job", "metadata": {"name": "digits", "uid": "1"}}],
            (
                "the Job digits in namespace here does not belong to mnist-job; "
                "it lacks the label app.kubernetes.io/name=mnist-job or the container trainer"
            ),
        ),
    ],
    ids=["none", "another's"],
)
def test_no_run(existing: list[Object], said: str) -> None:
    """A name that no run has is refused, and somebody else's Job is not touched."""
    with pytest.raises(LauncherError) as refused:
        run(suspend, FakeCluster(*existing))
    assert (refused.value.status, str(refused.value)) == (2, said)


def scheduled(name: str, *conditions: str, **more: Any) -> Object:
    """The Job of a run of the schedule `nightly`, as the CronJob makes it."""
    made = job(name, *conditions, **more)
    made["metadata"]["labels"][SCHEDULE_LABEL] = "nightly"
    trainer = {"name": "trainer", "args": ["train"], "resources": {}, "env": [{"name": "RUN", "valueFrom": {}}]}
    made["spec"]["template"] = {"metadata": {"labels": {}}, "spec": {"containers": [trainer]}}
    record_submission(made)
    made["metadata"]["ownerReferences"] = [{"kind": "CronJob", "name": "nightly", "controller": True}]
    return made


@pytest.mark.parametrize("queue", ["", "night"])
def test_a_cancelled_run_makes_way_for_its_schedule(queue: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its CronJob waits for every Job that it made, so a suspended Job without an owner takes the place of that Job."""
    before = scheduled("nightly-28000000", queue=queue)
    cluster = FakeCluster(before)
    for _ in range(2):
        assert run(cancel, cluster, name="nightly-28000000") == 0
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [("create", "Job"), ("delete", "Job")]
    [after] = [one for (kind, _), one in cluster.objects.items() if kind == "Job"]
    metadata = after["metadata"]
    assert (metadata["name"], metadata["labels"][RUN_LABEL]) == ("nightly-28000000-2", "nightly-28000000")
    assert (after["spec"]["suspend"], CANCELLED in metadata["annotations"]) == (True, True)
    assert ("ownerReferences" not in metadata, metadata["labels"][QUEUE_LABEL]) == (True, NO_QUEUE)
    kept = json.loads(metadata["annotations"][SUBMITTED])
    assert (kept["metadata"]["labels"].get(QUEUE_LABEL, ""), kept["spec"]["suspend"]) == (queue, False)
    [first, second] = capsys.readouterr().out.splitlines()
    assert first.startswith("nightly-28000000 is cancelled")
    assert second.startswith("nightly-28000000 is already cancelled; `mnist-job retry nightly-28000000 -n here`")


def test_an_interrupted_cancel_is_completed() -> None:
    """A second `cancel` deletes the Job that still runs, and that the cancelled one was made to replace."""
    running, copy = scheduled("nightly-28000000"), scheduled("nightly-28000000-2", suspend=True)
    del copy["metadata"]["ownerReferences"]
    copy["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    copy["metadata"]["labels"][RUN_LABEL] = "nightly-28000000"
    copy["metadata"]["annotations"][CANCELLED] = "2026-01-02T00:00:00Z"
    cluster = FakeCluster(running, copy)
    assert run(cancel, cluster, name="nightly-28000000") == 0
    assert [name for kind, name in cluster.objects if kind == "Job"] == ["nightly-28000000-2"]


def test_a_cancelled_run_whose_pods_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the pod, since it may still write to the volume."""
    monkeypatch.setattr(replace, "GONE_S", 0.0)
    lost = pod("nightly-28000000-0-x", 0)
    lost["metadata"]["labels"]["batch.kubernetes.io/job-name"] = "nightly-28000000"
    lost["spec"] = {"nodeName": "n1"}
    sentence = (
        r"pod nightly-28000000-0-x has not ended within 0 s \(on n1\); `kubectl describe pod nightly-28000000-0-x "
    )
    with pytest.raises(LauncherError, match=sentence):
        run(cancel, FakeCluster(scheduled("nightly-28000000"), lost), name="nightly-28000000")


@pytest.mark.parametrize(
    ("other", "detail"),
    [
        (scheduled("nightly-28000000"), ""),
        (scheduled("nightly-28000000", suspend=True), " (suspended)"),
        (scheduled("nightly-28000000", suspend=True, queue="night"), " (queued)"),
        (scheduled("nightly-28000000", "FailureTarget"), ""),
        (scheduled("nightly-28000000", "Complete"), None),
        (scheduled("nightly-28000000", "Failed"), None),
        (scheduled("nightly-28000000", suspend=True, annotations=STOPPED), None),
        (job("another"), None),
    ],
    ids=["running", "suspended", "queued", "failing", "published", "failed", "cancelled", "of no schedule"],
)
def test_resume_while_another_run_is_unfinished(other: Object, detail: str | None) -> None:
    """A run of a schedule is resumed only if every other run of it has ended or is cancelled."""
    cluster = FakeCluster(scheduled("nightly-1800000001", suspend=True), other)
    if detail is None:
        assert run(resume, cluster, name="nightly-1800000001") == 0
        assert cluster.asked == [("patch", "Job", {"spec": {"suspend": False}})]
        return
    with pytest.raises(LauncherError) as refused:
        run(resume, cluster, name="nightly-1800000001")
    assert str(refused.value) == (
        f"nightly-28000000, another run of nightly, has not ended{detail}; "
        "`mnist-job cancel nightly-28000000 -n here` stops it"
    )
    assert cluster.asked == []
