"""retry: start a run again that has ended or is cancelled; it goes on from its newest checkpoint.

A Job's template cannot be changed, so the Job is deleted and made again from what it was. The new one is written to a
file first, and stays there if it cannot be created once the old one is gone.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from job import config
from job.config import usage
from job.errors import JobError
from k8s.api.errors import LauncherError, Status
from k8s.checks import storage
from k8s.commands import flags, overlap, submit
from k8s.commands.control import refused, until_ended, until_gone
from k8s.render import render
from k8s.render.submission import Submission
from k8s.state.names import CANCELLED, QUEUE_LABEL, trainer_of
from k8s.state.run import gather, state
from k8s.view import follow
from k8s.view.output import note, where_to_look

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.state.run import Run

CONTINUE = "--continue"
# What Kubernetes adds to a Job.
ADDED = ("batch.kubernetes.io/", "kubectl.kubernetes.io/")
ADDED_LABELS = ("controller-uid", "job-name")
ADDED_TO_SPEC = ("selector", "manualSelector", "suspend")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `retry` takes."""
    add = parser.add_argument
    add("name", metavar="NAME", help="the run")
    add("--workers", type=int, metavar="N", help="number of workers (default: as before, and so for what follows)")
    add("--image", help="the job's image")
    add("--cpu", metavar="QUANTITY", help="CPUs of each worker, requested and at most")
    add("--memory", metavar="QUANTITY", help="memory of each worker, requested and at most")
    add("--queue", metavar="NAME", help="Kueue's local queue, which decides when the run starts")
    add("--deadline", metavar="TIME", help="the run fails after it, as 90m or 6h")
    flags.add_wait(parser)
    parser.usage = "%(prog)s NAME [FLAGS] [-- MORE TRAINING FLAGS]"


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Start a run again; returns the exit status."""
    submission = Submission(
        name=arguments.name,
        image=arguments.image,
        workers=arguments.workers,
        cpu=arguments.cpu,
        memory=arguments.memory,
        queue=arguments.queue,
        deadline_s=config.parse_duration("--deadline", arguments.deadline) if arguments.deadline else None,
        arguments=arguments.training,
    )
    cluster = connect()
    found = gather(cluster, arguments.name)
    refuse_unended(found)
    new = again(found.job, submission)
    scheduled = belong(cluster, found, new)
    until_ended(cluster, arguments.name)  # first, for what its pods take up counts in the checks
    check(cluster, new)
    queue = overlap.hold(new) if scheduled else None
    made = replace(cluster, found.job, new)
    if scheduled:
        go_on(cluster, made, queue)
    name, workers = arguments.name, made["spec"]["completions"]
    if arguments.output == "json":
        fields = {"name": name, "namespace": cluster.namespace, "uid": made["metadata"]["uid"], "workers": workers}
        print(json.dumps(fields))
    else:
        print(f"{name} is submitted again with {workers} workers; it goes on from its newest checkpoint, if it has one")
        print(where_to_look(cluster, name))
    return follow.follow(cluster, made, arguments.output) if arguments.wait else 0


def refuse_unended(run: Run) -> None:
    """Refuse to start a run again that has not ended.

    Raises:
        LauncherError: 2.
    """
    now = state(run)
    if now.ended or now.word == "cancelled":
        return
    if now.word == "suspended":
        raise refused(f"{run.name} is suspended, and has not ended", f"`mnist-job resume {run.name}` goes on with it")
    raise refused(f"{run.name} has not ended ({now})", f"`mnist-job cancel {run.name}` ends it")


def again(job: Object, submission: Submission) -> Object:
    """The Job that goes on with what another one began: as that was submitted, but for what the submission changes.

    Args:
        job: the old one, as the API server has it.
        submission: what is to be different; its arguments are added to those of the training.

    Raises:
        JobError: 64, for a number of workers with which the run cannot go on.
    """
    spec: Object = {name: value for name, value in copy.deepcopy(job["spec"]).items() if name not in ADDED_TO_SPEC}
    template = spec["template"]
    template["metadata"] = as_given(template["metadata"])
    template["spec"].pop("serviceAccount", None)  # serviceAccountName's old name
    new: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": submission.name, **as_given(job["metadata"])},
        "spec": spec,
    }
    refuse_other_averaging(trainer_of(template)["args"], submission, spec["completions"])
    render.fill(new, submission)
    if CONTINUE not in trainer_of(template)["args"]:
        trainer_of(template)["args"].append(CONTINUE)
    if QUEUE_LABEL in new["metadata"]["labels"]:
        spec["suspend"] = True  # until Kueue admits it
    return new


def belong(cluster: Cluster, run: Run, new: Object) -> bool:
    """Have a new Job belong to the schedule of the old one; whether that has one, which is there still.

    Args:
        cluster: where they are.
        run: the old one.
        new: the new Job; it is changed in place.

    Raises:
        LauncherError: 2, another run of the schedule has not ended.
    """
    owner = overlap.owner_of(run.job)
    schedule = cluster.get("CronJob", owner) if owner else None
    if schedule is None:
        return False
    overlap.check_rights(cluster)
    overlap.refuse_taken(cluster, schedule, run.job["metadata"]["uid"])
    new["metadata"]["ownerReferences"] = overlap.owned_by(schedule)
    return True


def go_on(cluster: Cluster, made: Object, queue: str | None) -> None:
    """Have a schedule's new Job go on.

    Raises:
        LauncherError: 2, another run of the schedule was faster.
    """
    try:
        overlap.go_on(cluster, made, queue)
    except LauncherError as error:
        name = made["metadata"]["name"]
        told = f"{name} is submitted again, and suspended: `mnist-job resume {name}` goes on with it"
        raise LauncherError(error.status, f"{error}; {told}") from None


def as_given(metadata: Object) -> Object:
    """The labels and annotations that Kubernetes did not add."""
    labels = {k: v for k, v in metadata.get("labels", {}).items() if not k.startswith(ADDED) and k not in ADDED_LABELS}
    annotations = {
        k: v for k, v in metadata.get("annotations", {}).items() if not k.startswith(ADDED) and k != CANCELLED
    }
    return {"labels": labels} | ({"annotations": annotations} if annotations else {})


def refuse_other_averaging(args: list[str], submission: Submission, workers: int) -> None:
    """Refuse another number of workers where parameters are averaged: that is another training for each number."""
    if submission.workers in (None, workers):
        return
    try:
        every = config.parse([*args[1:], *submission.arguments]).sync_every
    except JobError:  # flags of another version of the job's: the worker will say it
        return
    if every > 1:
        message = f"--workers must stay {workers} for {submission.name}, not {submission.workers}"
        raise usage(f"{message}: with --sync-every {every} each number of workers is another training")


def check(cluster: Cluster, new: Object) -> None:
    """Have the new Job checked while the old one is still there, under a name that is free.

    Raises:
        LauncherError: 2, it cannot run, or the API server refuses it.
    """
    trial = copy.deepcopy(new)
    trial["metadata"]["name"] = f"{new['metadata']['name'][:40].rstrip('-')}-trial"
    claim = storage.output_claim(cluster, trial)
    submit.check(cluster, trial, claim, new["metadata"]["name"])


def replace(cluster: Cluster, old: Object, new: Object) -> Object:
    """Delete a Job and create the one that takes its place; returns that as the API server made it.

    Raises:
        LauncherError: the new one could not be created; it says in which file it is.
    """
    name, uid = old["metadata"]["name"], old["metadata"]["uid"]
    kept = keep(new)
    try:
        cluster.delete("Job", name, uid=uid)
        until_gone(cluster, "Job", name, uid)
        made = cluster.create(new)
    except BaseException as error:
        told = (
            f"the new Job is in {kept}: once the old one is gone, `kubectl apply -n {cluster.namespace} -f` creates it"
        )
        if isinstance(error, LauncherError):
            raise LauncherError(Status(error.status), f"{error}; {told}") from None
        note(told)
        raise
    kept.unlink(missing_ok=True)
    return made


def keep(new: Object) -> Path:
    """Write a Job to a file here, or among the temporary ones where nothing can be written here.

    Nobody else reads it, and nobody knows its name beforehand: the folder may be everybody's.
    """
    import yaml  # noqa: PLC0415 - not needed for a command's --help

    text = yaml.safe_dump(new, sort_keys=False)
    name = f"{new['metadata']['name']}.retry."
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            number, path = tempfile.mkstemp(".yaml", name, folder)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
            return Path(path)
    message = f"{name}*.yaml can be written neither here nor in {tempfile.gettempdir()}"
    raise refused(message, "it keeps the Job until it runs")
