"""trigger: the Job that is created, and when none is."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING

import pytest

from k8s.api.errors import LauncherError
from k8s.checks import preflight, storage
from k8s.commands import submit, trigger
from k8s.state.names import APP, NAME_LABEL, SCHEDULE_LABEL
from tests.k8s.fakes import FakeCluster, job

if TYPE_CHECKING:
    from k8s.api.objects import Object


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks pass, and the setup is there."""
    monkeypatch.setattr(preflight, "check_all", lambda *_: [])
    monkeypatch.setattr(submit, "create_setup", lambda *_: [])
    monkeypatch.setattr(storage, "output_claim", lambda *_: None)


def cronjob() -> Object:
    """The schedule `nightly`."""
    template = {
        "metadata": {"labels": {NAME_LABEL: APP}, "annotations": {"team": "vision"}},
        "spec": {"completions": 2, "template": {"spec": {"containers": [{"name": "trainer"}]}}},
    }
    metadata = {"name": "nightly", "uid": "nightly-uid", "labels": {NAME_LABEL: APP}}
    return {"kind": "CronJob", "metadata": metadata, "spec": {"schedule": "0 2 * * *", "jobTemplate": template}}


def run(cluster: FakeCluster) -> int:
    """Run the command."""
    return trigger.run(argparse.Namespace(name="nightly", output="json", skip_checks=False), cluster.given)


def test_triggered(capsys: pytest.CaptureFixture[str]) -> None:
    """The Job is the template's; a label ties it to the schedule; it is kept for a week."""
    cluster = FakeCluster(cronjob())
    assert run(cluster) == 0
    result = json.loads(capsys.readouterr().out)
    name = result["name"]
    assert re.fullmatch(r"nightly-\d{10}", name)
    assert result == {
        "name": name,
        "namespace": "here",
        "uid": cluster.objects["Job", name]["metadata"]["uid"],
        "schedule": "nightly",
    }
    sent = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {NAME_LABEL: APP, SCHEDULE_LABEL: "nightly"},
            "annotations": {"team": "vision", "cronjob.kubernetes.io/instantiate": "manual"},
        },
        "spec": {
            "completions": 2,
            "template": {"spec": {"containers": [{"name": "trainer"}]}},
            "ttlSecondsAfterFinished": 604_800,
        },
    }
    assert cluster.asked == [("create", "Job", sent)]


def test_while_another_run_is_unfinished() -> None:
    """It is refused, with the name of that run, and nothing is created."""
    other = job("nightly-28000000")
    other["metadata"]["labels"][SCHEDULE_LABEL] = "nightly"
    cluster = FakeCluster(cronjob(), other)
    with pytest.raises(LauncherError) as refused:
        run(cluster)
    assert str(refused.value) == (
        "nightly-28000000, another run of nightly, has not ended; `mnist-job cancel nightly-28000000 -n here` stops it"
    )
    assert cluster.asked == []


def test_no_such_schedule() -> None:
    """The sentence names the command that lists the schedules."""
    with pytest.raises(LauncherError) as refused:
        run(FakeCluster(job("nightly")))
    assert str(refused.value) == (
        "there is no schedule nightly in namespace here; `mnist-job status -n here` lists the schedules"
    )
