"""cancel, suspend and resume: what is sent, what is said, what is refused."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import pytest

from k8s.api.errors import LauncherError
from k8s.commands import cancel, resume, suspend
from k8s.state.names import CANCELLED
from tests.k8s.fakes import FakeCluster, job

if TYPE_CHECKING:
    from k8s.api.objects import Object

STOPPED = {CANCELLED: "2026-01-01T00:00:00Z"}


def run(command: Any, cluster: FakeCluster, output: str = "text") -> int:
    """Run a command on the run `digits`."""
    status: int = command.run(argparse.Namespace(name="digits", output=output), cluster.given)
    return status


@pytest.mark.parametrize(
    ("command", "before", "change", "said"),
    [
        (
            suspend,
            job(),
            {"spec": {"suspend": True}},
            (
                "digits is suspended: its workers write a checkpoint and leave within 20 s, and their logs go with "
                "them; `mnist-job resume digits` goes on with it"
            ),
        ),
        (suspend, job(suspend=True), None, "digits is suspended already; `mnist-job resume digits` goes on with it"),
        (
            suspend,
            job(suspend=True, annotations=STOPPED),
            None,
            "digits is cancelled, and so it does not run; `mnist-job retry digits` starts it",
        ),
        (
            resume,
            job(suspend=True),
            {"spec": {"suspend": False}},
            "digits goes on from its newest checkpoint; `mnist-job logs digits` follows it",
        ),
        (resume, job(), None, "digits is not suspended: it goes on as it is"),
        (
            cancel,
            job(suspend=True, annotations=STOPPED),
            None,
            "digits is cancelled already; `mnist-job retry digits` starts it again",
        ),
    ],
)
def test_what_is_sent_and_said(
    command: Any, before: Object, change: Object | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The change that is needed is sent, none where it is so already, and a sentence says which it was."""
    cluster = FakeCluster(before)
    assert run(command, cluster) == 0
    assert cluster.asked == ([("patch", "Job", change)] if change else [])
    assert capsys.readouterr() == (said + "\n", "")


@pytest.mark.parametrize(
    ("before", "leaving"),
    [(job(), " its workers write a checkpoint and leave within 20 s;"), (job(suspend=True), "")],
    ids=["running", "suspended"],
)
def test_cancelled(before: Object, leaving: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A cancelled Job is suspended and bears the annotation, and what is said of it fits."""
    cluster = FakeCluster(before)
    assert run(cancel, cluster) == 0
    after = cluster.objects["Job", "digits"]
    assert after["spec"]["suspend"]
    assert CANCELLED in after["metadata"]["annotations"]
    text = f"digits is cancelled:{leaving} `mnist-job retry digits` starts it again from its newest checkpoint\n"
    assert capsys.readouterr().out == text


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON says the state and whether it was changed."""
    run(resume, FakeCluster(job()), "json")
    assert json.loads(capsys.readouterr().out) == {
        "name": "digits",
        "namespace": "here",
        "state": "resumed",
        "changed": False,
        "message": "digits is not suspended: it goes on as it is",
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
    """A run that has ended is left alone, with a sentence that says how it ended."""
    cluster = FakeCluster(job("digits", condition))
    with pytest.raises(LauncherError) as refused:
        run(command, cluster)
    assert refused.value.status == 2
    text = f"digits has ended already ({outcome}); `mnist-job retry digits` starts it again"
    assert str(refused.value) == text
    assert cluster.asked == []


def test_cancelled_is_not_resumed() -> None:
    """What was cancelled is started again by `retry` alone."""
    with pytest.raises(LauncherError) as refused:
        run(resume, FakeCluster(job(suspend=True, annotations=STOPPED)))
    assert str(refused.value) == (
        "digits is cancelled, which `resume` does not undo; "
        "`mnist-job retry digits` starts it again from its checkpoint"
    )


@pytest.mark.parametrize(("command", "what"), [(suspend, "suspended"), (resume, "resumed")])
def test_kueue_decides(command: Any, what: str) -> None:
    """A run in a queue of Kueue's is neither started nor stopped by hand."""
    with pytest.raises(LauncherError) as refused:
        run(command, FakeCluster(job(suspend=what == "resumed", queue="night")))
    assert str(refused.value) == (
        f"Kueue decides when digits runs, for it is in the queue night: it is not {what} by hand; "
        "`mnist-job cancel digits` takes it out of the queue"
    )


def test_cancelled_in_a_queue() -> None:
    """What stands for the Job in Kueue is deactivated before the Job is suspended, or Kueue would start it again."""
    workload = {"kind": "Workload", "metadata": {"name": "w", "labels": {"kueue.x-k8s.io/job-uid": "digits-uid"}}}
    cluster = FakeCluster(job(queue="night"), workload)
    run(cancel, cluster)
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [("patch", "Workload"), ("patch", "Job")]
    assert cluster.objects["Workload", "w"]["spec"] == {"active": False}


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (
            [],
            (
                "there is no run digits in namespace here; `mnist-job status` lists the runs; "
                "`submit --name digits -- --continue` takes up one whose Job is gone"
            ),
        ),
        (
            [{"kind": "Job", "metadata": {"name": "digits", "uid": "1"}}],
            "the Job digits in namespace here is no run of mnist-job; its labels do not say so",
        ),
    ],
    ids=["none", "another's"],
)
def test_no_run(there: list[Object], said: str) -> None:
    """A name that no run has is refused, and a Job of somebody else is not touched."""
    with pytest.raises(LauncherError) as refused:
        run(suspend, FakeCluster(*there))
    assert (refused.value.status, str(refused.value)) == (2, said)
