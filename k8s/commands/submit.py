"""submit: check that the cluster can run the job, and start it.

Render (pure) -> preflight -> server-side dry run -> send unchanged.
"""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from job import config
from k8s.api.errors import ApiError, LauncherError, Status
from k8s.checks import storage
from k8s.commands import preflight
from k8s.render import render
from k8s.state.names import CLAIM
from k8s.view import follow
from k8s.view.output import note, where_to_look

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.render.render import Submission


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `submit` takes."""
    add_submission_flags(parser)
    add_wait(parser)
    add_dry_run(parser)
    parser.usage = "%(prog)s [FLAGS] [-- TRAINING FLAGS]"


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add --wait."""
    parser.add_argument("--wait", action="store_true", help="follow the run to its end, and exit with its code")


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run, whose values are kubectl's."""
    # As flags without a value, for one that may have a value would take the argument after it.
    add = functools.partial(parser.add_argument, dest="dry_run", action="store_const")
    add("--dry-run", "--dry-run=server", const="server", help="print what would be sent, as YAML, and send nothing")
    add("--dry-run=client", const="client", help="so too, but no cluster is asked, and none needed")


def add_submission_flags(
    parser: argparse.ArgumentParser, name: str = "name of the run and its Job (default: <dataset>-<UTC time>)"
) -> None:
    """Add the flags that say what a run is to be."""
    add = parser.add_argument
    add("--name", help=name)
    add("--overlay", default="cpu", metavar="NAME", help="cpu, gpu, local, or a folder of yours (default: cpu)")
    add("--component", action="append", default=[], metavar="NAME", help="add a component; may be given several times")
    add("--image", help="the job's image (default: the overlay's)")
    add("--workers", type=int, metavar="N", help="number of workers (default: the overlay's)")
    add("--cpu", metavar="QUANTITY", help="CPUs of each worker, requested and at most")
    add("--memory", metavar="QUANTITY", help="memory of each worker, requested and at most")
    add("--gpus", type=int, metavar="N", help="GPUs of each worker: 0 or 1")
    add("--queue", metavar="NAME", help="Kueue's local queue, which decides when the run starts")
    add("--deadline", metavar="TIME", help="the run fails after it, as 90m or 6h (default: the overlay's, 6h)")
    add("--claim", metavar="NAME", help=f"the claim for the output (default: the overlay's, {CLAIM})")
    add("--data", metavar="CLAIM", help="a claim with the dataset, read-only at /data (default: the image's dataset)")


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Submit a run; returns the exit status."""
    submission = read(arguments, datetime.now(UTC))
    if arguments.dry_run:
        return show(arguments, submission, connect)
    cluster = connect()
    job = send(cluster, submission)
    name = job["metadata"]["name"]
    if arguments.output == "json":
        print(json.dumps({"name": name, "namespace": cluster.namespace, "uid": job["metadata"]["uid"]}))
    else:
        print(f"submitted {name} with {job['spec']['completions']} workers in namespace {cluster.namespace}")
        print(where_to_look(name, cluster.namespace))
    return follow.follow(cluster, job, arguments.output) if arguments.wait else 0


def read(arguments: argparse.Namespace, now: datetime) -> Submission:
    """The submission that the flags ask for.

    Raises:
        JobError: 64.
    """
    settings = render.check_arguments(arguments.training)
    return render.Submission(
        name=arguments.name or f"{settings.dataset.replace('_', '-')}-{now:%Y%m%d-%H%M%S}",
        overlay=arguments.overlay,
        components=tuple(arguments.component),
        image=arguments.image,
        workers=arguments.workers,
        cpu=arguments.cpu,
        memory=arguments.memory,
        gpus=arguments.gpus,
        queue=arguments.queue,
        deadline_s=config.parse_duration("--deadline", arguments.deadline) if arguments.deadline else None,
        claim=arguments.claim,
        data=arguments.data,
        arguments=arguments.training,
    )


def prepare(cluster: Cluster, submission: Submission) -> tuple[Object, Object | None]:
    """The Job of a submission, on one node if a claim needs that; and the output's claim, None if there is none yet."""
    job = render.job(submission)
    claim = storage.find(cluster, job)
    if storage.needs_one_node(claim) or storage.data_needs_one_node(cluster, job):
        render.put_on_one_node(job)
    return job, claim


def show(
    arguments: argparse.Namespace,
    submission: Submission,
    connect: Callable[[], Cluster],
    made_of: Callable[[Object], Object] = lambda job: job,
) -> int:
    """Print what would be sent, as `kubectl apply -f -` takes it; returns the exit status.

    Args:
        arguments: the command's, with its --dry-run.
        submission: what is asked for.
        connect: gives the cluster, if it is to be asked.
        made_of: gives what is sent instead of the Job.
    """
    import yaml  # noqa: PLC0415 - not needed for a command's --help

    if arguments.dry_run == "client":
        namespace, (setup, job) = arguments.namespace, for_no_cluster(submission)
    else:
        cluster = connect()
        namespace, (job, _) = cluster.namespace, prepare(cluster, submission)
        setup = absent(cluster, job)
    objects = [*setup, made_of(job)]
    if namespace:
        objects = [{**new, "metadata": {"namespace": namespace, **new["metadata"]}} for new in objects]
    if arguments.output == "json":
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    else:
        print(yaml.safe_dump_all(objects, sort_keys=False).rstrip())
    return 0


def for_no_cluster(submission: Submission) -> tuple[list[Object], Object]:
    """The setup and the Job where nothing is there yet; a claim of the user's own is taken to serve several nodes."""
    job = render.job(submission)
    setup = setup_of(job)
    if any(new["kind"] == "PersistentVolumeClaim" and storage.needs_one_node(new) for new in setup):
        render.put_on_one_node(job)
    return setup, job


def send(cluster: Cluster, submission: Submission) -> Object:
    """Check, then create what is absent of the setup, and the Job; returns the Job as the API server made it.

    Raises:
        LauncherError: 2, when a check says that it cannot run, or the API server refuses it.
    """
    job, claim = prepare(cluster, submission)
    approve(cluster, job, claim, submission.name)
    set_up(cluster, job)
    return cluster.create(job)


def approve(cluster: Cluster, job: Object, claim: Object | None, name: str) -> None:
    """Have a Job checked, by preflight and by the API server.

    Args:
        cluster: where it is to run.
        job: it.
        claim: the claim that it names; None where there is none of that name.
        name: of the run, for the error's sentence.

    Raises:
        LauncherError: 2, when a check says that it cannot run, or the API server refuses it.
    """
    found = preflight.checks(cluster, job, claim)
    for check in found:
        if check.state in ("failed", "warning"):
            note(str(check))
    if any(check.failed for check in found):
        raise LauncherError(Status.REFUSED, f"{name} was not submitted", "see above")
    try:
        cluster.create(job, dry_run=True)
    except ApiError as error:
        if preflight.NO_DRY_RUN not in error.message:
            raise


def setup_of(job: Object) -> list[Object]:
    """What a Job needs of the setup: all, but for the claim where it has another one."""
    return [
        new
        for new in render.setup()
        if new["kind"] != "PersistentVolumeClaim" or new["metadata"]["name"] == storage.claim_name(job)
    ]


def absent(cluster: Cluster, job: Object) -> list[Object]:
    """What a Job needs of the setup and is not there."""
    return [new for new in setup_of(job) if preflight.is_missing(cluster, new["kind"], new["metadata"]["name"])]


def set_up(cluster: Cluster, job: Object) -> None:
    """Create what a Job needs of the setup and is not there; what is there stays as it is.

    Raises:
        LauncherError: 2, when this user may not.
    """
    for new in absent(cluster, job):
        kind, name = new["kind"], new["metadata"]["name"]
        try:
            cluster.create(new)
        except ApiError as error:
            if error.reason == "AlreadyExists":  # another submission made it meanwhile
                continue
            if error.code != 403:
                raise
            remedy = f"have who may apply the setup: `kubectl apply -k k8s/manifests/setup -n {cluster.namespace}`"
            raise LauncherError(Status.REFUSED, f"the {kind} {name} cannot be made: {error.message}", remedy) from error
