"""why: explain why a run or a schedule's last run failed or waits, and what to do.

It reports the first cause rather than the last symptom: what made the Job fail at once, else the first worker that
failed, else what prevents its pods from starting. The evidence is the Job's conditions, the pods' statuses and
termination messages, and events. The pods of a run that failed at once are deleted with their logs, except those that
had already ended.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s.diagnose.evidence import explain_with_log, gather_evidence
from k8s.diagnose.schedules import explain_healthy, explain_last_run, explain_no_start
from k8s.state import schedule as schedules
from k8s.state.run import State, state
from k8s.view.output import print_result

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
    parser.add_argument("name", metavar="NAME", help="a run or a schedule")


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Explain a run or a schedule; returns the exit status."""
    cluster = connect()
    if cronjob := schedules.find(cluster, arguments.name):
        schedule = schedules.gather(cluster, cronjob)
        current, explanation = State(*schedules.state_of(schedule)), explain_schedule(cluster, schedule)
    else:
        evidence = gather_evidence(cluster, arguments.name)
        current, explanation = state(evidence), explain_with_log(cluster, evidence)
    fields = {"name": arguments.name, "state": current.word, "detail": current.detail}
    fields |= dataclasses.asdict(explanation)
    print_result(arguments.output, fields, f"{arguments.name}: {current}", str(explanation))
    return 0


def explain_schedule(cluster: Cluster, schedule: Schedule) -> Explanation:
    """Explain why a schedule starts no runs, or else why its last run failed."""
    now = cluster.now()
    if explanation := explain_no_start(schedule, now, cluster.flags):
        return explanation
    last = schedule.last
    if last and state(last).code != Exit.OK:
        return explain_last_run(schedule, last, explain_with_log(cluster, gather_evidence(cluster, last.name)))
    return explain_healthy(schedule, now)
