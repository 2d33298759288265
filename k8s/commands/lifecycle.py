"""What `cancel`, `suspend` and `resume` do with a run or a schedule, by the state that it is in.

The tables and the functions that read them are pure; the changes are made at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k8s.api.errors import refused
from k8s.commands import queueing, replace
from k8s.commands.flags import add_name
from k8s.commands.model import settle_owners
from k8s.render import attempt
from k8s.state import schedule as schedules
from k8s.state.find import gather, is_ours
from k8s.state.names import CANCELLED, NO_QUEUE, QUEUE_LABEL, RUN_SELECTOR, SINCE, schedule_of
from k8s.state.run import Run, state
from k8s.state.schedule import Schedule, is_made_by_cronjob, is_unfinished, next_start, rfc3339
from k8s.view.output import print_result

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from datetime import datetime

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


OUTPUTS = ("text", "json", "yaml", "name")
DEFAULT_GRACE_S = 30  # Kubernetes' default


@dataclass(frozen=True)
class Rule:
    """What a command does in one state.

    text is what it reports, or why it is refused if there is a hint. suspend is the new value of spec.suspend; None
    changes nothing. state is the one that --output json reports.
    """

    text: str
    state: str = ""
    suspend: bool | None = None
    hint: str = ""


RETRY = "`mnist-job retry {name} {flags}` continues from its newest checkpoint"
RESUME = "`mnist-job resume {name} {flags}` continues it"
STOP = "its workers write a checkpoint and stop within {grace} s"
QUEUED = Rule(
    "Kueue decides when {name} runs: it is in the queue {queue}",
    hint="`mnist-job cancel {name} {flags}` takes it out of the queue",
)
# By command and state of a run that has not ended: cancelled, suspended, queued (Kueue decides when it runs), active.
RUN_RULES = {
    ("cancel", "cancelled"): Rule(f"{{name}} is already cancelled; {RETRY}", "cancelled"),
    ("cancel", "suspended"): Rule(f"{{name}} is cancelled; {RETRY}", "cancelled", suspend=True),
    ("cancel", "queued"): Rule(f"{{name}} is cancelled and has left the queue; {RETRY}", "cancelled", suspend=True),
    ("cancel", "active"): Rule(f"{{name}} is cancelled: {STOP}; {RETRY}", "cancelled", suspend=True),
    ("suspend", "cancelled"): Rule(f"{{name}} is cancelled, so it does not run; {RETRY}", "cancelled"),
    ("suspend", "suspended"): Rule(f"{{name}} is already suspended; {RESUME}", "suspended"),
    ("suspend", "queued"): QUEUED,
    ("suspend", "active"): Rule(f"{{name}} is suspended: {STOP}; {RESUME}", "suspended", suspend=True),
    ("resume", "cancelled"): Rule("{name} is cancelled, which `resume` does not undo", hint=RETRY),
    ("resume", "suspended"): Rule(
        "{name} continues from its newest checkpoint; `mnist-job logs {name} {flags}` follows it",
        "resumed",
        suspend=False,
    ),
    ("resume", "queued"): QUEUED,
    ("resume", "active"): Rule("{name} is not suspended", "resumed"),
}
CANCELLED_SCHEDULE = Rule(
    "{name} is cancelled: its CronJob is deleted; its runs and their models stay", "cancelled", suspend=True
)
# By command and whether the schedule is suspended.
SCHEDULE_RULES = {
    ("cancel", True): CANCELLED_SCHEDULE,
    ("cancel", False): CANCELLED_SCHEDULE,
    ("suspend", True): Rule("{name} is already suspended; `mnist-job resume {name} {flags}` resumes it", "suspended"),
    ("suspend", False): Rule(
        "{name} is suspended: it starts no run until `mnist-job resume {name} {flags}`", "suspended", suspend=True
    ),
    ("resume", True): Rule("{name} is resumed", "resumed", suspend=False),
    ("resume", False): Rule("{name} is not suspended", "resumed"),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all three commands."""
    add_name(parser, "a run or a schedule")


def run(command: str, arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Carry out `cancel`, `suspend` or `resume`; returns the exit status.

    Raises:
        LauncherError: 2, the run has ended, or the command does not apply to its state.
    """
    cluster = connect()
    if cronjob := schedules.find(cluster, arguments.name):
        schedule = schedules.gather(cluster, cronjob)
        rule = change_schedule(cluster, command, schedule, cluster.now())
    else:
        rule = change_run(cluster, command, gather(cluster, arguments.name), cluster.now())
    result = {"name": arguments.name, "namespace": cluster.namespace, "state": rule.state}
    result |= {"changed": rule.suspend is not None, "message": rule.text}
    print_result(arguments.output, result, rule.text)
    return 0


def rule_for_run(command: str, run: Run, flags: str) -> Rule:
    """What a command does with a run, its text filled in.

    Args:
        command: its name.
        run: the run.
        flags: those that select its namespace and cluster, for the commands in the text.

    Raises:
        LauncherError: 2, nothing, and why.
    """
    current, name = state(run), run.name
    if current.ended:
        raise refused(f"{name} has already ended ({current})", f"`mnist-job retry {name} {flags}` starts it again")
    queue = run.job["metadata"].get("labels", {}).get(QUEUE_LABEL, "")
    word = current.word if current.word in ("cancelled", "suspended") else "queued" if queue else "active"
    rule = RUN_RULES[command, word]
    grace = run.job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
    words = {"name": name, "queue": queue, "flags": flags, "grace": grace}
    if rule.hint:
        raise refused(rule.text.format(**words), rule.hint.format(**words))
    return Rule(rule.text.format(**words), rule.state, rule.suspend)


def rule_for_schedule(command: str, schedule: Schedule, now: datetime, flags: str) -> Rule:
    """What a command does with a schedule, its text filled in like rule_for_run()."""
    name = schedule.name
    rule = SCHEDULE_RULES[command, schedule.suspended]
    text = rule.text.format(name=name, flags=flags)
    active = schedule.active_run
    if rule.suspend and active and (command == "cancel" or state(active).word not in ("suspended", "queued")):
        text += (
            f"; its run {active.name} is not affected: `mnist-job {command} {active.name} {flags}` {command}s it too"
        )
    if rule.suspend is False:
        resumed = Schedule({**schedule.cronjob, "spec": {**schedule.cronjob["spec"], "suspend": False}}, schedule.runs)
        text += f": {start}" if (start := next_start(resumed, now)) else ""
    return Rule(text, rule.state, rule.suspend)


def change_run(cluster: Cluster, command: str, run: Run, now: datetime) -> Rule:
    """Carry out a command on a run; returns the rule that applied.

    Raises:
        LauncherError: 2, as rule_for_run() raises it, also if the run has ended meanwhile; or another run of the same
            schedule has not ended.
    """
    rule = rule_for_run(command, run, cluster.flags)
    if rule.suspend is None:
        if command == "cancel":  # the command that cancelled it may have ended before the running Job and its pods
            replace.delete_replaced(cluster, run.name, run.job)
            replace.until_pods_ended(cluster, run.job)
        return rule
    change: Object = {"spec": {"suspend": rule.suspend}}
    if command == "resume":
        refuse_second_run(cluster, schedule_of(run.job), run)
    if command == "cancel":
        change["metadata"] = {"annotations": {CANCELLED: rfc3339(now)}}
        if is_made_by_cronjob(run.job):
            make_way(cluster, run, change)
            return rule
        changed = queueing.suspend_for_good(cluster, run.job, change)
    else:
        changed = cluster.patch("Job", run.job["metadata"]["name"], change)
    rule_for_run(command, Run(changed), cluster.flags)  # it may have ended meanwhile
    return rule


def change_schedule(cluster: Cluster, command: str, schedule: Schedule, now: datetime) -> Rule:
    """Carry out a command on a schedule; returns the rule that applied."""
    rule, uid = rule_for_schedule(command, schedule, now, cluster.flags), schedule.cronjob["metadata"]["uid"]
    if command == "cancel":
        cluster.delete("CronJob", schedule.name, uid=uid, orphan=True)
        replace.until_deleted(cluster, schedule.name, uid)  # its Jobs and its model belong to it until then
        settle_owners(cluster, schedule.cronjob["spec"]["jobTemplate"]["spec"]["template"])
    elif rule.suspend is not None:
        since = {"metadata": {"annotations": {SINCE: rfc3339(now)}}} if command == "resume" else {}
        cluster.patch("CronJob", schedule.name, {**since, "spec": {"suspend": rule.suspend}})
    return rule


def make_way(cluster: Cluster, run: Run, change: Object) -> None:
    """Cancel a run whose Job a CronJob made: a suspended Job without an owner replaces it.

    The CronJob starts nothing while a Job that it made exists and has not finished, and a suspended Job never finishes.

    Raises:
        LauncherError: 2, the run's pods do not end.
    """
    new = attempt.next_job(run.job)
    new["metadata"]["name"] = replace.free_name(cluster, run, new["spec"]["completions"])
    new["metadata"]["annotations"] |= change["metadata"]["annotations"]
    new["metadata"]["labels"][QUEUE_LABEL] = NO_QUEUE  # without a name, Kueue would choose the queue `default`
    new["spec"] |= change["spec"]
    replace.replace_job(cluster, run, new)
    replace.until_pods_ended(cluster, run.job)


def refuse_second_run(cluster: Cluster, schedule: str, run: Run | None = None) -> None:
    """Refuse to start a run of a schedule while another run of it has not ended.

    Two commands at the same time, or a command and the CronJob, may both see no other run and start one each. That does
    no harm: runs have folders of their own, and a lock protects `latest`.

    Args:
        cluster: where the schedule is.
        schedule: its name; nothing is refused if it is empty.
        run: the run to start, if it exists.

    Raises:
        LauncherError: 2, naming the other run.
    """
    jobs = filter(is_ours, cluster.select("Job", RUN_SELECTOR)) if schedule else ()
    for other in map(Run, jobs):
        if schedule_of(other.job) != schedule or (run and other.name == run.name) or not is_unfinished(other):
            continue
        detail = f" ({word})" if (word := state(other).word) in ("suspended", "queued") else ""
        message = f"{other.name}, another run of {schedule}, has not ended{detail}"
        raise refused(message, f"`mnist-job cancel {other.name} {cluster.flags}` stops it")
