"""retry: restart a run that has ended or was cancelled; it continues from its newest checkpoint.

A Job's template cannot be changed, so the run gets another Job, made from what was submitted: NAME-2 after NAME. It is
created before the old one is deleted.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from job import config
from job.config import usage_error
from job.errors import JobError
from k8s.api.errors import refused
from k8s.checks import storage
from k8s.commands import flags, submit
from k8s.commands.lifecycle import refuse_second_run
from k8s.commands.replace import free_name, replace_job, until_pods_ended
from k8s.commands.trigger import KEPT_S
from k8s.render import attempt, render
from k8s.render.submission import Submission
from k8s.state.find import gather
from k8s.state.names import QUEUE_LABEL, schedule_of, trainer_of
from k8s.state.run import state
from k8s.view.follow import follow_run
from k8s.view.output import print_result, where_to_look

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.state.run import Run

EXAMPLES = (
    "mnist-job retry digits --wait",
    "mnist-job retry digits --workers 4 --memory 4Gi -- --checkpoint-every 100",
)
CONTINUE = "--continue"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `retry`."""
    add = parser.add_argument
    flags.add_name(parser, "the run")
    add("--workers", type=int, metavar="N", help="number of workers (default: unchanged)")
    text = "minimum number of workers that train while others are missing (default: unchanged)"
    add("--min-workers", type=int, metavar="M", help=text)
    add("--image", help="image of the job (default: unchanged)")
    add("--cpu", metavar="QUANTITY", help="CPUs of each worker, as its request and its limit")
    add("--memory", metavar="QUANTITY", help="memory of each worker, as its request and its limit")
    add("--queue", metavar="NAME", help="Kueue's local queue, which decides when the run starts")
    add("--deadline", metavar="TIME", help="the run fails after this time, such as 90m or 6h")
    flags.add_wait(parser)
    flags.add_skip_checks(parser)
    parser.usage = "%(prog)s NAME [FLAGS] [-- MORE TRAINING FLAGS]"


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Start a run again; returns the exit status."""
    changes = Submission(
        name=arguments.name,
        image=arguments.image,
        workers=arguments.workers,
        min_workers=arguments.min_workers,
        cpu=arguments.cpu,
        memory=arguments.memory,
        queue=arguments.queue,
        deadline_s=config.parse_duration("--deadline", arguments.deadline) if arguments.deadline else None,
        arguments=arguments.training,
    )
    cluster = connect()
    old = gather(cluster, arguments.name)
    refuse_unfinished(old, cluster.flags)
    schedule = schedule_of(old.job)
    if schedule and cluster.get("CronJob", schedule):
        refuse_second_run(cluster, schedule, old)
    new = retried_job(old, dataclasses.replace(changes, name=old.name))  # the name may be that of a Job
    new["metadata"]["name"] = free_name(cluster, old, new["spec"]["completions"])
    until_pods_ended(cluster, old.job)  # before the checks, which count what the pods use
    submit.check(cluster, new, storage.output_claim(cluster, new), old.name, skip=arguments.skip_checks)
    made = submit.create(cluster, new, lambda: replace_job(cluster, old, new))
    name, workers = old.name, made["spec"]["completions"]
    result = {"name": name, "namespace": cluster.namespace, "uid": made["metadata"]["uid"], "workers": workers}
    text = f"submitted {name} again with {workers} workers; it continues from its newest checkpoint, if it has one"
    print_result(arguments.output, result, text, where_to_look(cluster, name))
    return follow_run(cluster, made, arguments.output) if arguments.wait else 0


def refuse_unfinished(run: Run, flags: str) -> None:
    """Refuse to retry a run that has not ended.

    Raises:
        LauncherError: 2.
    """
    current = state(run)
    if current.ended or current.word == "cancelled":
        return
    if current.word == "suspended":
        raise refused(f"{run.name} is suspended, not ended", f"`mnist-job resume {run.name} {flags}` continues it")
    raise refused(f"{run.name} has not ended ({current})", f"`mnist-job cancel {run.name} {flags}` stops it")


def retried_job(run: Run, changes: Submission) -> Object:
    """The Job, without a name yet, that continues a run as it was submitted, apart from the changes.

    Args:
        run: it has ended or is cancelled.
        changes: the flags that change; its arguments are added to those of the training.

    Raises:
        JobError: 64, the run cannot continue with that number of workers.
    """
    new = attempt.next_job(run.job)
    spec, metadata = new["spec"], new["metadata"]
    args = trainer_of(spec["template"])["args"]
    refuse_other_averaging(args, changes, spec["completions"])
    render.fill_job(new, changes)
    if CONTINUE not in args:
        args.append(CONTINUE)
    if QUEUE_LABEL in metadata["labels"]:
        spec["suspend"] = True  # until Kueue admits it
    if schedule_of(new):
        spec.setdefault("ttlSecondsAfterFinished", KEPT_S)
    return attempt.record_submission(new)


def refuse_other_averaging(args: list[str], changes: Submission, workers: int) -> None:
    """Refuse another number of workers where parameters are averaged: each number is another training."""
    if changes.workers in (None, workers):
        return
    try:
        every = config.parse([*args[1:], *changes.arguments]).sync_every
    except JobError:  # flags of another version of the job: the worker will report them
        return
    if every > 1:
        message = f"--workers must stay {workers} for {changes.name}, not {changes.workers}"
        raise usage_error(f"{message}: with --sync-every {every}, a run cannot change its number of workers")
