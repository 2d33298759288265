"""submit: check that the cluster can run the job, and start it.

Render the Job, run the preflight checks, with a dry run of everything that is to be created, create the missing parts
of the setup, and create the Job as it was checked.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from job.config import usage_error
from k8s.api.errors import ApiError, LauncherError, Status, refused
from k8s.checks import preflight, setup, storage
from k8s.checks.model import absent
from k8s.checks.trial import remedy
from k8s.commands.flags import add_dry_run, add_skip_checks, add_submission, add_wait, submission_of
from k8s.commands.model import settle_owners
from k8s.render import render
from k8s.render.attempt import record_submission
from k8s.render.model import config_map
from k8s.state.names import DATA_LABEL, RUN_SELECTOR
from k8s.state.pods import created
from k8s.view.follow import follow_run
from k8s.view.output import note, print_objects, print_result, where_to_look

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object
    from k8s.render.submission import Submission

EXAMPLES = (
    "mnist-job submit --name digits --workers 2 --wait",
    "mnist-job submit --name cnn --model examples/keras_cnn/model.py -- --batch-size 256",
    "mnist-job submit --overlay gpu --queue night --deadline 2h -- --epochs 3 --batch-size 256",
)
OUTPUTS = ("text", "json", "yaml", "name")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `submit`."""
    add_wait(parser)
    add_dry_run(parser)
    add_skip_checks(parser)
    add_submission(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Submit a run; returns the exit status."""
    submission = submission_of(arguments)
    job, model = render_job(arguments, submission), model_map(submission)
    if arguments.dry_run:
        return show(arguments, job, connect, model=model)
    if arguments.wait and arguments.output not in ("text", "json"):
        raise usage_error(
            f"--wait prints text or json, not {arguments.output}", "leave out --wait, or choose another --output"
        )
    cluster = connect()
    job = submit(cluster, job, model, skip=arguments.skip_checks)
    name, workers = job["metadata"]["name"], job["spec"]["completions"]
    print_result(
        arguments.output,
        {"name": name, "namespace": cluster.namespace, "uid": job["metadata"]["uid"]},
        f"submitted {name} with {workers} workers in namespace {cluster.namespace}",
        where_to_look(cluster, name),
    )
    return follow_run(cluster, job, arguments.output) if arguments.wait else 0


def render_job(arguments: argparse.Namespace, submission: Submission) -> Object:
    """The Job of a submission. Its overlay's namespace, if it has one, becomes that of the command.

    Raises:
        JobError: 64, another namespace is given.
    """
    job = render.job(submission)
    arguments.namespace = render.take_namespace(job, arguments.namespace, submission.overlay)
    return job


def model_map(submission: Submission) -> Object | None:
    """The ConfigMap of the submission's model; None if the image's own is trained."""
    return None if submission.model is None else config_map(submission.model)


def submit(cluster: Cluster, job: Object, model: Object | None = None, *, skip: bool = False) -> Object:
    """Start a run; returns its Job as the API server created it.

    Args:
        cluster: where the run starts.
        job: the rendered Job.
        model: the ConfigMap of its model; None for the image's own.
        skip: whether to ignore failed checks, unless the API server refuses the run.

    Raises:
        LauncherError: 2, a check failed or the API server refused an object. Nothing is left behind.
    """
    job, claim = prepare(cluster, job)
    check(cluster, job, claim, job["metadata"]["name"], model, skip=skip)
    return create(cluster, job, lambda: cluster.create(job), model)


def prepare(cluster: Cluster, job: Object) -> tuple[Object, Object | None]:
    """A rendered Job as it is sent, and the claim of the output (None if it does not exist yet).

    If a claim serves only one node, all workers run there, beside the other pods that use it.
    """
    claim = storage.output_claim(cluster, job)
    if storage.needs_one_node(claim):
        render.put_on_one_node(job)
    elif storage.data_needs_one_node(cluster, job):
        render.put_on_one_node(job, DATA_LABEL)
    return record_submission(job), claim


def check(
    cluster: Cluster, job: Object, claim: Object | None, name: str, model: Object | None = None, *, skip: bool
) -> None:
    """Have preflight check a Job.

    Args:
        cluster: where the Job would run.
        job: the rendered Job.
        claim: the output's claim; None if there is none yet.
        name: of the run, for the error message.
        model: the ConfigMap of a model that is given with the Job; None without one.
        skip: whether to ignore failed checks, unless the API server refuses the run.

    Raises:
        LauncherError: 2, a check failed.
    """
    checks = preflight.check_all(cluster, job, claim, model)
    skipped = [preflight.passed_over(each) for each in checks]
    checks = skipped if skip else checks
    for each in checks:
        if each.failed or each.state == "warning":
            note(str(each))
    if any(each.failed for each in checks):
        way = "" if any(each.failed for each in skipped) else "; --skip-checks submits it all the same"
        raise refused(f"{name} was not submitted", f"see above{way}")


def create(cluster: Cluster, job: Object, send: Callable[[], Object], model: Object | None = None) -> Object:
    """Create the missing objects of the setup that a Job needs, and its model's ConfigMap, then call send().

    The ConfigMap gets its owners afterwards, because these have no UID before.

    Returns:
        What send() returns.

    Raises:
        LauncherError: 2, the API server refused an object. Objects that were created before it are deleted again.
    """
    made = create_setup(cluster, job, model)
    try:
        sent = send()
    except LauncherError as error:
        if error.status == Status.REFUSED:  # after a lost answer, the run may exist
            take_back(cluster, made)
        if not isinstance(error, ApiError):
            raise
        hint = remedy(cluster, "Job", error.message)
        raise refused(f"the API server refuses the run: {error.message}", hint) from error
    settle_owners(cluster, job["spec"]["template"], model)
    return sent


def create_setup(cluster: Cluster, job: Object, model: Object | None = None) -> list[Object]:
    """Create the missing objects of the setup that a Job needs, and its model's ConfigMap; returns those it created.

    Existing objects stay as they are.

    Raises:
        LauncherError: 2, the API server refuses one. Objects that were created before it are deleted again.
    """
    made: list[Object] = []
    for new in [*setup.missing(cluster, job), *absent(cluster, model)]:
        try:
            made.append(cluster.create(new))
        except ApiError as error:
            if error.reason == "AlreadyExists":  # another submission created it meanwhile
                continue
            take_back(cluster, made)
            message = f"the {new['kind']} {new['metadata']['name']} cannot be created: {error.message}"
            raise refused(message, remedy(cluster, new["kind"], error.message)) from error
    return made


def take_back(cluster: Cluster, made: Sequence[Object]) -> None:
    """Delete what a refused submission has created, unless another run was submitted meanwhile and may use it."""
    for one in reversed(made):
        kind, name = one["kind"], one["metadata"]["name"]
        try:
            runs = cluster.select("Job", RUN_SELECTOR)
            with suppress(ApiError):  # a user without permissions on schedules
                runs += cluster.select("CronJob", RUN_SELECTOR)
            if not any(created(run) >= created(one) for run in runs):
                cluster.delete(kind, name, uid=one["metadata"]["uid"])
        except LauncherError as error:
            note(f"the {kind} {name} was created and not deleted: {error}")


def show(
    arguments: argparse.Namespace,
    job: Object,
    connect: Callable[[], Cluster],
    object_of: Callable[[Object], Object] = lambda job: job,
    model: Object | None = None,
) -> int:
    """Print what would be sent, in a form that `kubectl apply -f -` accepts; returns the exit status.

    Args:
        arguments: the command's, with its --dry-run.
        job: the rendered Job.
        connect: gives the cluster; not called for --dry-run=client.
        object_of: gives the object that is sent in place of the Job, such as a schedule's CronJob.
        model: the ConfigMap of the Job's model; None for the image's own.
    """
    if arguments.dry_run == "client":
        namespace, (shared, job) = arguments.namespace, without_cluster(job)
        shared += [model] if model else []
    else:
        cluster = connect()
        namespace, (job, _) = cluster.namespace, prepare(cluster, job)
        shared = [*setup.missing(cluster, job), *absent(cluster, model)]
    objects = [*shared, object_of(job)]
    if namespace:
        objects = [{**new, "metadata": {"namespace": namespace, **new["metadata"]}} for new in objects]
    print_objects(arguments.output, objects)
    return 0


def without_cluster(job: Object) -> tuple[list[Object], Object]:
    """The setup and a rendered Job for an empty namespace; a claim of another name is taken to serve several nodes."""
    shared = setup.needed(job)
    if any(new["kind"] == "PersistentVolumeClaim" and storage.needs_one_node(new) for new in shared):
        render.put_on_one_node(job)
    return shared, record_submission(job)
