"""Find runs in the cluster: the Jobs of a run, its pods, its newest record."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeGuard

from job import telemetry
from k8s.api.errors import ApiError, LauncherError, Status, refused
from k8s.state.names import (
    APP,
    CONTAINER,
    JOB_NAME_LABEL,
    JOB_UID_LABEL,
    NAME_LABEL,
    RUN_LABEL,
    RUN_SELECTOR,
    UID_LABEL,
    pod_selector,
    run_name,
)
from k8s.state.pods import created, started
from k8s.state.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from job.telemetry import Record
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

LAST_LINES = 200  # of a log, in which the newest record is searched: a traceback may follow it


class NoRunError(LauncherError):
    """There is no run, Job or schedule of a name."""


def gather(cluster: Cluster, name: str) -> Run:
    """A run, with the pods of its newest Job.

    Args:
        cluster: where to look.
        name: the run's name, or that of one of its Jobs.

    Raises:
        LauncherError: 2, there is no such run, or the Job of that name does not belong to one.
    """
    job = job_of(cluster, name)
    return Run(job, own_pods(job, cluster.select("Pod", pod_selector(job["metadata"]["name"]))))


def gather_every(cluster: Cluster, *, everywhere: bool = False) -> list[Run]:
    """All runs of the namespace or of all namespaces, newest first, each with the pods of its newest Job."""
    pods: dict[tuple[str, str], list[Object]] = defaultdict(list)
    for pod in cluster.select("Pod", RUN_SELECTOR, everywhere=everywhere):
        metadata = pod["metadata"]
        pods[metadata.get("namespace", ""), metadata["labels"].get(JOB_NAME_LABEL, "")].append(pod)
    jobs = sorted(
        newest_jobs(cluster.select("Job", RUN_SELECTOR, everywhere=everywhere)).values(), key=created, reverse=True
    )
    return [
        Run(job, own_pods(job, pods[job["metadata"].get("namespace", ""), job["metadata"]["name"]])) for job in jobs
    ]


def jobs_of(cluster: Cluster, run: str) -> list[Object]:
    """The Jobs of a run: while `retry` replaces one there are two. Empty if there is no run of that name."""
    named = cluster.get("Job", run)
    first = [named] if named and is_ours(named) and run_name(named) == run else []
    return [*first, *filter(is_ours, cluster.select("Job", f"{RUN_SELECTOR},{RUN_LABEL}={run}"))]


def workloads_of(cluster: Cluster, job: Object) -> list[Object]:
    """The Workloads that Kueue has made for a Job.

    Raises:
        ApiError: 404, Kueue is not installed; or this user may not list them.
    """
    return cluster.select("Workload", f"{JOB_UID_LABEL}={job['metadata']['uid']}")


def newest_jobs(jobs: Iterable[Object]) -> dict[tuple[str, str], Object]:
    """The newest Job of each run, by namespace and name of the run.

    A Job that is being deleted counts only if its run has no other.
    """
    ordered = sorted(filter(is_ours, jobs), key=by_age)
    return {(job["metadata"].get("namespace", ""), run_name(job)): job for job in ordered}


def by_age(job: Object) -> tuple[bool, str]:
    """Sorts the Jobs of a run: those that are being deleted first, then the oldest first."""
    return not is_being_deleted(job), created(job)


def find_job(cluster: Cluster, name: str) -> Object | None:
    """The newest Job of a run, by the run's name or else by that of one of its Jobs; None if there is no such run."""
    jobs = jobs_of(cluster, name)
    if not jobs and (named := cluster.get("Job", name)) and is_ours(named):
        jobs = jobs_of(cluster, run_name(named))
    return max(jobs, key=by_age, default=None)


def job_of(cluster: Cluster, name: str) -> Object:
    """The newest Job of a run.

    Raises:
        NoRunError: 2, there is no such run, Job or schedule.
        LauncherError: 2, the Job of that name does not belong to a run, or it is a schedule's name.
    """
    if job := find_job(cluster, name):
        return job
    if cluster.get("Job", name):
        message = f"the Job {name} in namespace {cluster.namespace} does not belong to {APP}"
        raise refused(message, f"it lacks the label {RUN_SELECTOR} or the container {CONTAINER}")
    if is_schedule(get_if_allowed(cluster, "CronJob", name)):
        raise refused(f"{name} is a schedule, not a run", f"`mnist-job status {name} {cluster.flags}` lists its runs")
    raise NoRunError(
        Status.REFUSED,
        f"there is no run {name} in namespace {cluster.namespace}",
        f"`mnist-job status {cluster.flags}` lists the runs; to continue a run whose Job was deleted, submit it with "
        "the same flags and `-- --continue`",
    )


def is_ours(thing: Object) -> bool:
    """Whether this is the Job of a run or the CronJob of a schedule.

    It has this application's label and a container `trainer`. Other objects may have the label alone.
    """
    if thing["metadata"].get("labels", {}).get(NAME_LABEL) != APP:
        return False
    job = thing["spec"].get("jobTemplate", thing)["spec"]
    return any(container["name"] == CONTAINER for container in job["template"]["spec"]["containers"])


def is_being_deleted(thing: Object) -> bool:
    """Whether an object was deleted but still exists, because something else has to happen first."""
    return "deletionTimestamp" in thing["metadata"]


def is_schedule(cronjob: Object | None) -> TypeGuard[Object]:
    """Whether this is the CronJob of a schedule that is not being deleted."""
    return cronjob is not None and is_ours(cronjob) and not is_being_deleted(cronjob)


def own_pods(job: Object, pods: Iterable[Object]) -> tuple[Object, ...]:
    """A Job's own pods among those with its name: an earlier Job of that name may have left some."""
    uid = job["metadata"]["uid"]
    return tuple(pod for pod in pods if pod["metadata"].get("labels", {}).get(UID_LABEL, uid) == uid)


def get_if_allowed(cluster: Cluster, kind: str, name: str, otherwise: Object | None = None) -> Object | None:
    """An object; None if there is none, `otherwise` if this user may not read it."""
    try:
        return cluster.get(kind, name)
    except ApiError as error:
        if error.code != 403:
            raise
        return otherwise


def newest_record(cluster: Cluster, run: Run) -> Record | None:
    """The newest record in the log of rank 0's newest pod; None if there is none."""
    pod = run.newest.get(0)
    if pod is None or not started(pod):
        return None
    try:
        lines = cluster.last_lines(pod["metadata"]["name"], CONTAINER, LAST_LINES)
    except (ApiError, OSError):
        return None
    return next((record for line in reversed(lines) if (record := telemetry.parse(line))), None)
