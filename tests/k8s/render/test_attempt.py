"""The Jobs of one run: what a Job remembers of its submission, and the next Job that is made from it."""

from __future__ import annotations

import copy
import json

import pytest

from k8s.render import render
from k8s.render.attempt import job_name, next_job, next_number, record_submission
from k8s.render.submission import Submission
from k8s.state.names import CANCELLED, RUN_LABEL, SUBMITTED, trainer_of
from tests.k8s.fakes import job


def test_recorded_once() -> None:
    """The annotation holds the labels, the other annotations and the spec, but not itself or a cancellation."""
    sent = job(annotations={"team": "vision"})
    text = record_submission(copy.deepcopy(sent))["metadata"]["annotations"][SUBMITTED]
    labels = sent["metadata"]["labels"]
    assert json.loads(text) == {"metadata": {"labels": labels, "annotations": {"team": "vision"}}, "spec": sent["spec"]}
    again = job(annotations={"team": "vision", SUBMITTED: "old", CANCELLED: "2026-01-01T00:00:00Z"})
    assert record_submission(again)["metadata"]["annotations"][SUBMITTED] == text


def test_next_job() -> None:
    """It is what was submitted, whatever controllers changed since, with the run's name as a label and as a value."""
    sent = record_submission(render.job(Submission("digits", overlay="local", arguments=("--epochs=3",))))
    admitted = copy.deepcopy(sent)
    admitted["metadata"]["uid"] = "old"
    admitted["spec"]["template"]["metadata"]["annotations"] = {"kueue.x-k8s.io/workload": "job-digits-1"}
    admitted["spec"]["template"]["spec"]["nodeSelector"] = {"pool": "spot"}
    new = next_job(admitted)
    expected = copy.deepcopy(sent)
    expected["metadata"]["labels"][RUN_LABEL] = "digits"
    render.set_variables(trainer_of(expected["spec"]["template"]), {"RUN": "digits"})
    del expected["metadata"]["name"]
    assert new == record_submission(expected)
    third = next_job({**new, "metadata": {**new["metadata"], "name": "digits-2"}})
    assert third == new


def test_next_job_of_an_earlier_launcher() -> None:
    """Its workers learn their pods' names, which the lines of their logs on the volume bear."""
    sent = record_submission(render.job(Submission("digits")))
    wanted = render.variables(trainer_of(next_job(sent)["spec"]["template"]))
    trainer = trainer_of(sent["spec"]["template"])
    trainer["env"] = [variable for variable in trainer["env"] if variable["name"] != "POD_NAME"]
    assert render.variables(trainer_of(next_job(record_submission(sent))["spec"]["template"])) == wanted


@pytest.mark.parametrize(("field", "value"), [("image", "mine:2"), ("args", ["train", "--epochs=9"])])
def test_next_job_of_a_changed_schedule(field: str, value: object) -> None:
    """A record is not used if somebody changed the image or the arguments after it was written."""
    changed = record_submission(render.job(Submission("digits")))
    trainer_of(changed["spec"]["template"])[field] = value
    new = next_job(changed)
    assert trainer_of(new["spec"]["template"])[field] == value
    assert new["metadata"]["annotations"].keys() == {SUBMITTED}
    assert trainer_of(json.loads(new["metadata"]["annotations"][SUBMITTED])["spec"]["template"])[field] == value


def test_next_job_without_a_record() -> None:
    """What Kueue wrote into the Job when it admitted it is left out: it refuses another Job that has it."""
    sent = render.job(Submission("digits", queue="night", arguments=("--epochs=3",)))
    sent["metadata"].get("annotations", {}).pop(SUBMITTED, None)
    asked = {"kueue.x-k8s.io/podset-preferred-topology": "rack"}
    sent["spec"]["template"]["metadata"]["annotations"] |= asked
    admitted = copy.deepcopy(sent)
    admitted["spec"]["parallelism"] = 1
    template = admitted["spec"]["template"]
    template["metadata"]["annotations"] |= {
        "kueue.x-k8s.io/workload": "job-digits-1",
        "kueue.x-k8s.io/podset-unconstrained-topology": "true",
    }
    template["metadata"]["labels"] |= {
        "kueue.x-k8s.io/podset": "main",
        "kueue.x-k8s.io/local-queue-name": "night",
        "kueue.x-k8s.io/cluster-queue-name": "team",
    }
    template["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/topology"}, {"name": "example.com/mine"}]
    new = next_job(admitted)
    assert new["spec"]["parallelism"] == sent["spec"]["parallelism"]
    assert new["spec"]["template"]["metadata"] == sent["spec"]["template"]["metadata"]
    assert new["spec"]["template"]["spec"]["schedulingGates"] == [{"name": "example.com/mine"}]
    template["spec"]["schedulingGates"].pop()
    assert "schedulingGates" not in next_job(admitted)["spec"]["template"]["spec"]
    assert new["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"


@pytest.mark.parametrize(
    ("name", "label", "number", "next_name"),
    [
        ("digits", None, 2, "digits-2"),
        ("digits-2", "digits", 3, "digits-3"),
        ("digits-9", "digits", 10, "digits-10"),
        ("digits-2", None, 2, "digits-2-2"),
        ("nightly-28000000", None, 2, "nightly-28000000-2"),
        ("r" * 60, None, 2, "r" * 58 + "-2"),
        ("r" * 57 + "-rr", None, 2, "r" * 57 + "-2"),
    ],
)
def test_names(name: str, label: str | None, number: int, next_name: str) -> None:
    """NAME is followed by NAME-2, NAME-3 and so on, cut so that a pod's host name has at most 63 characters."""
    existing = job(name)
    if label:
        existing["metadata"]["labels"][RUN_LABEL] = label
    assert next_number(existing) == number
    assert job_name(label or name, number, workers=11) == next_name
    assert len(f"{next_name}-10") <= 63
