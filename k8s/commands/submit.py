"""submit: check that the cluster can run the job, and start it.

Render the Job, run the preflight checks, let the API server try it in a dry run, create what is missing of the setup,
and create the Job as it was checked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from job.config import usage_error
from k8s.api.errors import ApiError, LauncherError, Status
from k8s.checks import admission, preflight, setup, storage
from k8s.commands.flags import add_dry_run, add_submission, add_wait, submission_of
from k8s.render import render
from k8s.render.attempt import record_submission
from k8s.state.names import DATA_LABEL
from k8s.view.follow import follow_run
from k8s.view.output import note, print_objects, print_result, where_to_look

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.render.submission import Submission

EXAMPLES = (
    "mnist-job submit --name digits --workers 2 --wait",
    "mnist-job submit --overlay gpu --queue night --deadline 2h -- --epochs 3 --batch-size 256",
)
OUTPUTS = ("text", "json", "yaml", "name")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `submit`."""
    add_wait(parser)
    add_dry_run(parser)
    add_submission(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Submit a run; returns the exit status."""
    submission = submission_of(arguments, datetime.now(UTC))
    if arguments.dry_run:
        return show(arguments, submission, connect)
    if arguments.wait and arguments.output not in ("text", "json"):
        raise usage_error(
            f"--wait prints text or json, not {arguments.output}", "leave out --wait, or choose another --output"
        )
    cluster = connect()
    job = submit(cluster, submission)
    name, workers = job["metadata"]["name"], job["spec"]["completions"]
    print_result(
        arguments.output,
        {"name": name, "namespace": cluster.namespace, "uid": job["metadata"]["uid"]},
        f"submitted {name} with {workers} workers in namespace {cluster.namespace}",
        where_to_look(cluster, name),
    )
    return follow_run(cluster, job, arguments.output) if arguments.wait else 0


def submit(cluster: Cluster, submission: Submission) -> Object:
    """Start a run; returns its Job as the API server created it.

    Raises:
        LauncherError: 2, a check failed or the API server refused an object. Nothing is left behind by a check.
    """
    job, claim = prepare(cluster, submission)
    check(cluster, job, claim, submission.name)
    create_setup(cluster, job)
    return cluster.create(job)


def prepare(cluster: Cluster, submission: Submission) -> tuple[Object, Object | None]:
    """The Job of a submission and the claim of the output, None if there is none yet.

    If a claim serves only one node, all workers run there, beside the other pods that use it.
    """
    job = render.job(submission)
    claim = storage.output_claim(cluster, job)
    if storage.needs_one_node(claim):
        render.put_on_one_node(job)
    elif storage.data_needs_one_node(cluster, job):
        render.put_on_one_node(job, DATA_LABEL)
    return record_submission(job), claim


def check(cluster: Cluster, job: Object, claim: Object | None, name: str) -> None:
    """Have preflight and the API server check a Job.

    Args:
        cluster: where the Job would run.
        job: the rendered Job.
        claim: the output's claim; None if there is none yet.
        name: of the run, for the error's sentence.

    Raises:
        LauncherError: 2, a check failed, or the API server refuses the Job.
    """
    checks = preflight.check_all(cluster, job, claim)
    for each in checks:
        if each.failed or each.state == "warning":
            note(str(each))
    if any(each.failed for each in checks):
        raise LauncherError(Status.REFUSED, f"{name} was not submitted", "see above")
    try:
        cluster.create(job, dry_run=True)
    except ApiError as error:
        # A cluster whose webhooks do not support dry runs can still run the Job.
        if admission.NO_DRY_RUN not in error.message:
            raise


def create_setup(cluster: Cluster, job: Object) -> None:
    """Create the objects of the setup that a Job needs and that are missing; existing ones stay as they are.

    Raises:
        LauncherError: 2, this user may not create one, or the API server refuses it.
    """
    for new in setup.missing(cluster, job):
        kind, name = new["kind"], new["metadata"]["name"]
        try:
            cluster.create(new)
        except ApiError as error:
            if error.reason == "AlreadyExists":  # another submission created it meanwhile
                continue
            if error.code != 403:
                raise
            remedy = f"ask an administrator to run `kubectl apply -k k8s/manifests/setup -n {cluster.namespace}`"
            message = f"the {kind} {name} cannot be created: {error.message}"
            raise LauncherError(Status.REFUSED, message, remedy) from error


def show(
    arguments: argparse.Namespace,
    submission: Submission,
    connect: Callable[[], Cluster],
    object_of: Callable[[Object], Object] = lambda job: job,
) -> int:
    """Print what would be sent, in a form that `kubectl apply -f -` accepts; returns the exit status.

    Args:
        arguments: the command's, with its --dry-run.
        submission: what to render.
        connect: gives the cluster; not called for --dry-run=client.
        object_of: gives the object that is sent in place of the Job, such as a schedule's CronJob.
    """
    if arguments.dry_run == "client":
        namespace, (shared, job) = arguments.namespace, without_cluster(submission)
    else:
        cluster = connect()
        namespace, (job, _) = cluster.namespace, prepare(cluster, submission)
        shared = setup.missing(cluster, job)
    objects = [*shared, object_of(job)]
    if namespace:
        objects = [{**new, "metadata": {"namespace": namespace, **new["metadata"]}} for new in objects]
    print_objects(arguments.output, objects)
    return 0


def without_cluster(submission: Submission) -> tuple[list[Object], Object]:
    """The setup and the Job for an empty namespace; a claim of the user's own is assumed to serve several nodes."""
    job = render.job(submission)
    shared = setup.needed(job)
    if any(new["kind"] == "PersistentVolumeClaim" and storage.needs_one_node(new) for new in shared):
        render.put_on_one_node(job)
    return shared, record_submission(job)
