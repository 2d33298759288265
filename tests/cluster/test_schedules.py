"""Schedules: their runs never overlap, whoever starts them; results and changes, with a runner's rights alone."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

from k8s.commands import submit
from k8s.commands.overlap import active, jobs_of
from k8s.render.kustomize import MANIFESTS
from k8s.state.run import Run
from tests.cluster.access import log_in
from tests.cluster.lab import ROOT, until

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object
    from tests.cluster.lab import Lab

LONG = ("--epochs=100000", "--evaluate-every=0")
LONGEST = "a-schedule-with-the-longest-name-that-there-can-be"  # with two workers


def flags(lab: Lab, *training: str, workers: int) -> list[str]:
    """What a schedule's runs are to be."""
    return [
        f"--image={lab.image}",
        f"--workers={workers}",
        f"--claim={lab.output_claim}",
        "--cpu=300m",
        "--",
        *training,
    ]


def going_on(lab: Lab, schedule: str) -> list[str]:
    """The runs of a schedule that are not suspended and have not ended."""
    jobs = [job for job in jobs_of(lab.cluster, schedule) if not job["spec"].get("suspend")]
    return [job["metadata"]["name"] for job in jobs if not Run(job).condition("Complete", "Failed")]


def cronjob(lab: Lab, schedule: str) -> Object:
    """A schedule's CronJob."""
    found = lab.cluster.get("CronJob", schedule)
    assert found
    return found


def test_runs_never_overlap(shared: Lab) -> None:
    """Two triggers at once, a start while a triggered run goes on, a trigger while a scheduled one does: one runs."""
    name = LONGEST
    shared.launcher("schedule", "* * * * *", f"--name={name}", "--deadline=59s", *flags(shared, *LONG, workers=2))
    # The claim is about runs that outlast the next start, which `schedule` would not let them.
    longer = {"spec": {"suspend": True, "jobTemplate": {"spec": {"activeDeadlineSeconds": 600}}}}
    shared.cluster.patch("CronJob", name, longer)
    until(lambda: not going_on(shared, name), "the end of what had started", 60)

    command = shared.command("trigger", name)
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate()[1] for one in both]
    assert sorted(one.returncode for one in both) == [0, 2], said
    assert "no two of its runs may overlap" in "".join(said), said
    [triggered] = going_on(shared, name)

    shared.launcher("resume", name)
    shared.until_step(triggered, 1)  # with the longest name, worker 0 is found under its own
    mine = f"involvedObject.uid={cronjob(shared, name)['metadata']['uid']},reason=JobAlreadyActive"
    until(lambda: shared.cluster.select("Event", "", mine), "a start that is due", 90)
    assert going_on(shared, name) == [triggered]
    shown = json.loads(shared.launcher("status", name, "--output=json"))
    assert (shown["state"], shown["detail"]) == ("running", triggered)

    # Once it has made way the start that was due comes, or the next.
    shared.launcher("cancel", triggered)
    assert not [pod for pod in shared.pods(triggered) if pod["status"]["phase"] in ("Pending", "Running")]
    [scheduled] = until(lambda: going_on(shared, name), "a scheduled run", 90)
    assert re.fullmatch(rf"{name}-\d{{8}}", scheduled)
    said_now = shared.launcher("trigger", name, code=2)
    assert f"{scheduled} of the same schedule has not ended, and no two of its runs may overlap" in said_now

    shared.launcher("cancel", name)
    until(lambda: shared.cluster.get("CronJob", name) is None, "the end of the schedule")
    assert "ownerReferences" not in shared.job(scheduled)["metadata"]
    shared.launcher("cancel", scheduled)


def test_results_with_the_runner_role(shared: Lab, tmp_path: Path) -> None:
    """A run that is published, one that is rejected after a change, and its retry, as a runner sees and starts them."""
    submit.create_setup(shared.cluster, shared.render("any"))
    shared.kubectl("apply", "-k", str(MANIFESTS / "rbac"))
    runner = log_in(shared, "mnist-job-runner", tmp_path / "runner")

    def run(command: str, *arguments: str, code: int = 0) -> str:
        return shared.launcher(command, *arguments, code=code, kubeconfig=runner)

    def schedule(*training: str) -> str:
        return run("schedule", "0 0 29 2 *", "--name=yearly", *flags(shared, *training, workers=1))

    def triggered() -> str:
        found: dict[str, Any] = json.loads(run("trigger", "yearly", "--output=json"))
        return str(found["name"])

    assert "scheduled yearly" in schedule("--epochs=1")
    first = triggered()
    shared.until_published(first)
    assert "phase=published" in run("logs", first)
    until(lambda: not active(cronjob(shared, "yearly")), "the schedule to be free")

    said = schedule("--epochs=1", "--min-accuracy=1")
    assert "changed the schedule yearly (jobTemplate.spec.template.spec.containers.0.args)" in said
    second = triggered()
    shared.until_failed(second)
    shown = json.loads(run("status", "--output=json"))["schedules"]
    assert [(one["name"], one["last"]["name"], one["failures"]) for one in shown] == [("yearly", second, 1)]
    assert f"its last run {second} was rejected" in run("why", "yearly")

    until(lambda: not active(cronjob(shared, "yearly")), "the schedule to be free")
    schedule(*LONG)
    third = triggered()
    shared.until_step(third, 500)
    run("cancel", third)
    assert active(cronjob(shared, "yearly")) == []
    run("retry", third)
    run("suspend", third)
    assert [entry["name"] for entry in active(cronjob(shared, "yearly"))] == [third]
    assert f"yearly: held up {third}" in run("why", "yearly")
    assert f"{third} of the same schedule has not ended (suspended)" in run("trigger", "yearly", code=2)
    run("resume", third)
    assert going_on(shared, "yearly") == [third]

    assert "yearly is suspended" in run("suspend", "yearly")
    assert "yearly goes on: the next run starts at" in run("resume", "yearly")
    assert "yearly is cancelled" in run("cancel", "yearly")
    until(lambda: shared.cluster.get("CronJob", "yearly") is None, "the end of the schedule")
    assert {job["metadata"]["name"] for job in shared.cluster.select("Job")} == {first, second, third}
