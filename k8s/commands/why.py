"""why: explain why a run or a schedule's last run failed or waits, and what to do.

It reports the first cause rather than the last symptom: what made the Job fail at once, else the first worker that
failed, else what prevents its pods from starting. The evidence is the Job's conditions, the pods' statuses and
termination messages, and events. Where pods or the Job are gone, it is the logs on the volume.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from job.errors import PUBLISHED, Exit, JobError
from k8s.api.errors import LauncherError
from k8s.commands import flags
from k8s.diagnose.evidence import gather_evidence, read_log, with_lines
from k8s.diagnose.explain import explain_run
from k8s.diagnose.logged import exits_of_gone_pods, explain_without_job, logged_exits
from k8s.diagnose.schedules import explain_active_run, explain_healthy, explain_last_run, explain_no_start, is_obstacle
from k8s.state import schedule as schedules
from k8s.state.find import NoRunError
from k8s.state.run import State, lacks_cause, state
from k8s.view.output import note, print_result
from k8s.volume.run_files import ends_in_log, lines_of_pod
from k8s.volume.start import open_volume, volume_of_deleted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.diagnose.explanation import Explanation
    from k8s.state.schedule import Schedule

EXAMPLES = ("mnist-job why digits", "mnist-job why nightly -o json")
OUTPUTS = ("text", "yaml", "json")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `why`."""
    flags.add_name(parser, "a run or a schedule")
    flags.add_volume(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Explain a run or a schedule; returns the exit status."""
    cluster = connect()
    if cronjob := schedules.find(cluster, arguments.name):
        schedule = schedules.gather(cluster, cronjob)
        current, explanation = State(*schedules.state_of(schedule)), explain_schedule(cluster, arguments, schedule)
    else:
        current, explanation = explain(cluster, arguments, arguments.name)
    fields = {"name": arguments.name, "state": current.word, "detail": current.detail}
    fields |= dataclasses.asdict(explanation)
    print_result(arguments.output, fields, f"{arguments.name}: {current}", str(explanation))
    return 0


def explain(cluster: Cluster, arguments: argparse.Namespace, name: str) -> tuple[State, Explanation]:
    """Explain a run; where its pods are gone, by the logs on its volume."""
    try:
        run = gather_evidence(cluster, name)
    except NoRunError as absent:
        return explain_deleted(cluster, arguments, absent)
    explanation = explain_run(run)
    lines = read_log(cluster, run, explanation)
    if lines is None or lacks_cause(run):
        try:
            with open_volume(cluster, arguments, name) as pod:
                exits = logged_exits(ends_in_log(pod, run.name))
                run = dataclasses.replace(run, logged=exits_of_gone_pods(run, exits))
                explanation = explain_run(run)
                lines = read_log(cluster, run, explanation)
                if lines is None and explanation.rank is not None:
                    lines = lines_of_pod(pod, run.name, explanation.rank, explanation.pod)
        except (LauncherError, JobError) as problem:
            note(f"the logs on the volume were not read: {problem}")
    return state(run), with_lines(explanation, lines or ())


def explain_deleted(
    cluster: Cluster, arguments: argparse.Namespace, absent: LauncherError
) -> tuple[State, Explanation]:
    """Explain a run whose Job was deleted, by the logs on its volume.

    Raises:
        LauncherError: `absent`, if the volume has none.
    """
    name = arguments.name
    with volume_of_deleted(cluster, arguments, absent) as (pod, _):
        explanation = explain_without_job(name, logged_exits(ends_in_log(pod, name)), cluster.flags, pod.claim)
        code, rank = explanation.code, explanation.rank
        if code not in PUBLISHED and rank is not None:
            explanation = with_lines(explanation, lines_of_pod(pod, name, rank, explanation.pod))
    if code is None:
        return State("deleted"), explanation
    word = {Exit.OK: "published", Exit.REJECTED: "rejected"}.get(Exit(code), "failed")
    detail = explanation.reason if word == "failed" else ""
    return State(word, detail, ended=True, code=code), explanation


def explain_schedule(cluster: Cluster, arguments: argparse.Namespace, schedule: Schedule) -> Explanation:
    """Explain a schedule.

    What is wrong with its unfinished run comes first, then why the schedule starts no runs, then why its last run
    failed.
    """
    now = cluster.now()
    no_start, run = explain_no_start(schedule, now, cluster.flags), schedule.active_run
    decides = no_start is None or no_start.reason == "schedule-overlap"
    # Only where it decides: for an explanation, a run's evidence is gathered, and its volume may be read.
    if decides and run and not run.job["spec"].get("suspend"):
        why = explain(cluster, arguments, run.name)[1]
        if is_obstacle(why):
            return explain_active_run(run, why, no_start)
    if no_start:
        return no_start
    last = schedule.last
    if last and state(last).code != Exit.OK:
        return explain_last_run(schedule, last, explain(cluster, arguments, last.name)[1])
    return explain_healthy(schedule, now)
