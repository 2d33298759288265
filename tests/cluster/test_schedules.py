"""Schedules: one run at a time, and results and changes with the rights of the role runner alone."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from k8s.commands import submit
from k8s.render.kustomize import MANIFESTS
from k8s.state.names import RUN_SELECTOR, SCHEDULE_LABEL, UID_LABEL, run_name
from k8s.state.pods import has_finished
from k8s.state.run import Run
from k8s.state.schedule import is_unfinished
from tests.cluster.access import log_in
from tests.cluster.namespace import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object
    from tests.cluster.namespace import Namespace

LONG = ("--epochs=100000", "--evaluate-every=0")
LONGEST = "a-schedule-with-the-longest-name-that-there-can-be"  # with two workers


def flags(namespace: Namespace, *training: str, workers: int) -> list[str]:
    """The flags of a schedule's runs."""
    return [
        f"--image={namespace.image}",
        f"--workers={workers}",
        f"--claim={namespace.output_claim}",
        "--cpu=300m",
        "--",
        *training,
    ]


def active_runs(namespace: Namespace, schedule: str) -> list[str]:
    """The runs of a schedule that are not suspended and have not ended."""
    runs = map(Run, namespace.cluster.select("Job", f"{RUN_SELECTOR},{SCHEDULE_LABEL}={schedule}"))
    return [run.name for run in runs if is_unfinished(run) and not run.job["spec"].get("suspend")]


def cronjob(namespace: Namespace, schedule: str) -> Object:
    """A schedule's CronJob."""
    cronjob = namespace.cluster.get("CronJob", schedule)
    assert cronjob
    return cronjob


def test_one_run_at_a_time(shared: Namespace) -> None:
    """While a run is unfinished, `trigger` is refused and the CronJob starts no other one; after `cancel` it does."""
    name = LONGEST
    shared.launcher("schedule", "0 0 29 2 *", f"--name={name}", "--deadline=1h", *flags(shared, *LONG, workers=2))
    # The test needs runs that outlast the next start, which `schedule` refuses.
    shared.cluster.patch("CronJob", name, {"spec": {"suspend": True, "schedule": "* * * * *"}})

    triggered = shared.told("trigger", name)["name"]
    refusal = "{}, another run of " + name + ", has not ended"
    assert refusal.format(triggered) in shared.launcher("trigger", name, code=2)
    shared.wait_for_step(triggered, 1)  # with the longest name, worker 0 still resolves
    shown = shared.told("status", name)
    assert shown["history"][0]["name"] == triggered
    warnings = f"involvedObject.uid={cronjob(shared, name)['metadata']['uid']},reason=UnexpectedJob"
    assert shared.cluster.select("Event", "", warnings) == []
    shared.launcher("cancel", triggered)

    shared.launcher("resume", name)
    [scheduled] = wait_until(lambda: active_runs(shared, name), "a scheduled run")
    assert re.fullmatch(rf"{name}-\d{{8}}", scheduled)
    assert refusal.format(scheduled) in shared.launcher("trigger", name, code=2)
    skipped = f"involvedObject.uid={cronjob(shared, name)['metadata']['uid']},reason=JobAlreadyActive"
    wait_until(lambda: shared.cluster.select("Event", "", skipped), "a start that is due")
    assert active_runs(shared, name) == [scheduled]
    shown = shared.told("status", name)
    assert (shown["state"], shown["detail"]) == ("running", scheduled)

    # After that, the CronJob makes up for the start that was due, or makes the next one.
    uid = shared.job(scheduled)["metadata"]["uid"]
    shared.launcher("cancel", scheduled)
    assert not [pod for pod in shared.cluster.select("Pod", f"{UID_LABEL}={uid}") if not has_finished(pod)]
    cancelled = shared.job(scheduled)["metadata"]
    assert cancelled["name"] == f"{scheduled}-2"
    assert "ownerReferences" not in cancelled
    [following] = wait_until(lambda: active_runs(shared, name), "another scheduled run")
    assert following != scheduled

    shared.launcher("cancel", name)
    wait_until(lambda: shared.cluster.get("CronJob", name) is None, "the end of the schedule")
    assert "ownerReferences" not in shared.job(following)["metadata"]
    shared.launcher("cancel", following)


def test_results_with_the_runner_role(shared: Namespace, tmp_path: Path) -> None:
    """A runner triggers, retries and stops a schedule's runs, changes the schedule, and sees the results."""
    submit.create_setup(shared.cluster, shared.render("any"))
    shared.kubectl("apply", "-k", str(MANIFESTS / "rbac"))
    runner = log_in(shared, "mnist-job-runner", tmp_path / "runner")

    def run(command: str, *arguments: str, code: int = 0) -> str:
        return shared.launcher(command, *arguments, code=code, kubeconfig=runner)

    def schedule(*training: str) -> str:
        return run("schedule", "0 0 29 2 *", "--name=yearly", *flags(shared, *training, workers=1))

    def triggered() -> str:
        output: dict[str, Any] = json.loads(run("trigger", "yearly", "--output=json"))
        return str(output["name"])

    assert "scheduled yearly" in schedule("--epochs=1")
    first = triggered()
    shared.wait_until_published(first)
    assert "phase=published" in run("logs", first)
    wait_until(lambda: not active_runs(shared, "yearly"), "the end of the run")

    output = schedule("--epochs=1", "--min-accuracy=1")
    assert "changed the schedule yearly (jobTemplate.spec.template.spec.containers.0.args)" in output
    second = triggered()
    shared.wait_until_failed(second)
    wait_until(lambda: not active_runs(shared, "yearly"), "the end of the run")
    shown = json.loads(run("status", "--output=json"))["schedules"]
    assert [(one["name"], one["last"]["name"], one["failures"]) for one in shown] == [("yearly", second, 1)]
    assert f"its last run {second} was rejected" in run("why", "yearly")

    schedule(*LONG)
    third = triggered()
    shared.wait_for_step(third, 500)
    run("cancel", third)
    run("retry", third)
    assert shared.job(third)["metadata"]["name"] == f"{third}-2"
    run("suspend", third)
    assert f"{third}, another run of yearly, has not ended (suspended)" in run("trigger", "yearly", code=2)
    run("resume", third)
    assert active_runs(shared, "yearly") == [third]

    assert "yearly is suspended" in run("suspend", "yearly")
    assert "yearly is resumed: the next run starts at" in run("resume", "yearly")
    assert "yearly is cancelled" in run("cancel", "yearly")
    wait_until(lambda: shared.cluster.get("CronJob", "yearly") is None, "the end of the schedule")
    assert {run_name(job) for job in shared.cluster.select("Job")} == {first, second, third}
