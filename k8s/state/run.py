"""One run as the cluster shows it at a moment, and the state that it is in. What reads it is pure."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from job import telemetry
from job.errors import Exit
from k8s.api.errors import ApiError, refused
from k8s.state.exits import REASON_OF_CODE, ContainerExit, container_exits, first_cause, kebab_case
from k8s.state.names import (
    APP,
    CANCELLED,
    CONTAINER,
    JOB_NAME_LABEL,
    NAME_LABEL,
    QUEUE_LABEL,
    RUN_LABEL,
    RUNS,
    UID_LABEL,
    pods_of,
    rank_of,
    run_name,
)
from k8s.state.pods import NO_IMAGE, created, hindrance, is_cut_off, is_over, is_pulling, is_scheduled, started

if TYPE_CHECKING:
    from collections.abc import Iterable

    from job.telemetry import Record
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

DONE = {"SuccessCriteriaMet", "Complete"}
FAILED = {"FailureTarget", "Failed"}
OUTCOMES = {"published", "rejected", "failed"}  # the words of runs that have ended
TOO_OFTEN = {"MaxFailedIndexesExceeded", "FailedIndexes"}
# What the Job controller says of an exit code that fails a Job at once.
BY_CODE = re.compile(r"pod \S*?/?([^/\s]+) failed with exit code (\d+)")
LAST_LINES = 200  # a traceback may stand behind the last record


@dataclass(frozen=True)
class Run:
    """What there is of one run.

    events are those of the Job, of its pods, deleted ones too, and of its claim, the oldest first. record is the newest
    of rank 0's log. down are the names of the nodes that are not ready; None if this user may not list nodes. flags are
    the command-line flags that select the run's namespace and cluster.
    """

    job: Object
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    record: Record | None = None
    claim: Object | None = None
    down: tuple[str, ...] | None = None
    flags: str = ""

    @property
    def name(self) -> str:
        """The run's name, which is not always its Job's: see names.run_name()."""
        return run_name(self.job)

    @property
    def namespace(self) -> str:
        """The namespace of its Job; empty for one that was only rendered."""
        return str(self.job["metadata"].get("namespace", ""))

    @property
    def workers(self) -> int:
        """How many workers it has."""
        return int(self.job["spec"]["completions"])

    @cached_property
    def newest(self) -> dict[int, Object]:
        """Each rank's newest pod, in order."""
        found = {rank_of(pod): pod for pod in sorted(self.pods, key=created)}
        return dict(sorted(found.items()))

    def condition(self, *types: str) -> Object | None:
        """The first of the Job's conditions of these types that holds."""
        found = self.job.get("status", {}).get("conditions", [])
        return next((c for c in found if c["type"] in types and c["status"] == "True"), None)


@dataclass(frozen=True)
class State:
    """The state of a run in a word or two.

    detail is empty or says more, as `2 of 4`, or why `latest` did not move. done is the share of the training that is
    done. code is a worker's, and None where the run has not ended or ended without one.
    """

    word: str
    detail: str = ""
    ended: bool = False
    code: int | None = None
    accuracy: float | None = None
    done: float | None = None

    def __str__(self) -> str:
        return f"{self.word}{':' if self.word in OUTCOMES and self.detail else ''} {self.detail}".strip()


def gather(cluster: Cluster, name: str) -> Run:
    """A run, with the pods of its newest Job.

    Args:
        cluster: where to look.
        name: the run's name, or that of one of its Jobs.

    Raises:
        LauncherError: 2, there is no such run, or the Job of that name does not belong to one.
    """
    job = job_of(cluster, name)
    return Run(job, own_pods(job, cluster.select("Pod", pods_of(job["metadata"]["name"]))))


def gather_every(cluster: Cluster, *, everywhere: bool = False) -> list[Run]:
    """All runs of the namespace or of all namespaces, newest first, each with the pods of its newest Job."""
    pods: dict[tuple[str, str], list[Object]] = defaultdict(list)
    for pod in cluster.select("Pod", RUNS, everywhere=everywhere):
        metadata = pod["metadata"]
        pods[metadata.get("namespace", ""), metadata["labels"].get(JOB_NAME_LABEL, "")].append(pod)
    jobs = sorted(newest_jobs(cluster.select("Job", RUNS, everywhere=everywhere)).values(), key=created, reverse=True)
    return [
        Run(job, own_pods(job, pods[job["metadata"].get("namespace", ""), job["metadata"]["name"]])) for job in jobs
    ]


def jobs_of(cluster: Cluster, name: str) -> list[Object]:
    """The Jobs of a run: while `retry` replaces one there are two. Empty if there is no run of that name.

    Args:
        cluster: where to look.
        name: the run's name, or that of one of its Jobs.
    """
    named = cluster.get("Job", name)
    first = [named] if named and is_ours(named) else []
    run = run_name(first[0]) if first else name
    return [*first, *cluster.select("Job", f"{RUNS},{RUN_LABEL}={run}")]


def newest_jobs(jobs: Iterable[Object]) -> dict[tuple[str, str], Object]:
    """The newest Job of each run, by namespace and name of the run.

    A Job that is being deleted counts only if its run has no other.
    """
    ordered = sorted(jobs, key=by_age)
    return {(job["metadata"].get("namespace", ""), run_name(job)): job for job in ordered}


def by_age(job: Object) -> tuple[bool, str]:
    """Sorts the Jobs of a run: those that are being deleted first, then the oldest first."""
    return not is_being_deleted(job), created(job)


def find_job(cluster: Cluster, name: str) -> Object | None:
    """The newest Job of a run, by the run's name or that of one of its Jobs; None if there is no such run."""
    return max(jobs_of(cluster, name), key=by_age, default=None)


def job_of(cluster: Cluster, name: str) -> Object:
    """The newest Job of a run.

    Raises:
        LauncherError: as gather() does.
    """
    if job := find_job(cluster, name):
        return job
    if cluster.get("Job", name):
        message = f"the Job {name} in namespace {cluster.namespace} does not belong to {APP}"
        raise refused(message, f"it lacks the label {RUNS}")
    if (cronjob := optional(cluster, "CronJob", name)) and not is_being_deleted(cronjob):
        raise refused(f"{name} is a schedule, not a run", f"`mnist-job status {name} {cluster.flags}` lists its runs")
    raise refused(
        f"there is no run {name} in namespace {cluster.namespace}",
        f"`mnist-job status {cluster.flags}` lists the runs; "
        f"`mnist-job submit --name {name} {cluster.flags} -- --continue` continues one whose Job was deleted",
    )


def is_ours(found: Object) -> bool:
    """Whether a Job or a CronJob bears this application's label."""
    return bool(found["metadata"].get("labels", {}).get(NAME_LABEL) == APP)


def is_being_deleted(found: Object) -> bool:
    """Whether an object was deleted but still exists, because something else has to happen first."""
    return "deletionTimestamp" in found["metadata"]


def own_pods(job: Object, pods: Iterable[Object]) -> tuple[Object, ...]:
    """A Job's own pods among those with its name: an earlier Job of that name may have left some."""
    uid = job["metadata"]["uid"]
    return tuple(pod for pod in pods if pod["metadata"].get("labels", {}).get(UID_LABEL, uid) == uid)


def state(run: Run) -> State:
    """The state that a run is in."""
    if run.condition(*DONE):
        told = [e for e in container_exits(run.pods) if e.rank == 0 and e.code == Exit.OK][-1:]
        kept = next((f"kept, for {e.message}" for e in told if e.reason == "kept"), "")
        return State("published", kept, ended=True, code=Exit.OK, accuracy=told[0].accuracy if told else None)
    if run.condition(*FAILED):
        return failed(run)
    if run.job["spec"].get("suspend"):
        metadata = run.job["metadata"]
        queued = "queued" if QUEUE_LABEL in metadata.get("labels", {}) else "suspended"
        return State("cancelled" if CANCELLED in metadata.get("annotations", {}) else queued)
    return before_records(run) or at_work(run.record, run.workers)


def is_settled(job: Object) -> bool:
    """Whether a run has ended, is cancelled or, without a Job, deleted: nothing comes any more by itself."""
    return not job or (now := state(Run(job))).ended or now.word == "cancelled"


def failed(run: Run) -> State:
    """The state of a run that failed, or was rejected."""
    found, code = culprit(run), exit_code(run)
    reason = (
        found.reason
        if found
        else REASON_OF_CODE.get(code or 0, kebab_case((run.condition(*FAILED) or {}).get("reason", "")))
    )
    if code == Exit.REJECTED:
        told, accuracy = (found.message, found.accuracy) if found else ("", None)
        return State("rejected", told, ended=True, code=code, accuracy=accuracy)
    return State("failed", reason, ended=True, code=code)


def culprit(run: Run) -> ContainerExit | None:
    """The end that is the first cause of a failed run; None where there is none, or its pod is gone."""
    reason = (run.condition(*FAILED) or {}).get("reason", "")
    ends = container_exits(run.pods)
    if reason == "PodFailurePolicy":
        return first_cause([ending for ending in ends if ending.code in REASON_OF_CODE])
    return first_cause(ends) if used_up(run) else None


def exit_code(run: Run) -> int | None:
    """A failed run's exit code: that of the worker that failed it, or with which a worker was given up."""
    if found := fatal_pod(run):
        return found[1]
    codes = [ending.code for ending in container_exits(run.pods) if ending.rank in used_up(run) and ending.code]
    return codes[-1] if codes else None


def fatal_pod(run: Run) -> tuple[str, int] | None:
    """The name of the pod that failed a Job at once, and its exit code, as the Job controller tells them."""
    condition = run.condition(*FAILED) or {}
    found = BY_CODE.search(condition.get("message", "")) if condition.get("reason") == "PodFailurePolicy" else None
    return (found[1], int(found[2])) if found else None


def used_up(run: Run) -> set[int]:
    """The ranks that ended too often, of a Job that failed for it."""
    reason = (run.condition(*FAILED) or {}).get("reason")
    failed = run.job.get("status", {}).get("failedIndexes", "") if reason in TOO_OFTEN else ""
    ranges = [part.partition("-") for part in failed.split(",") if part]
    return {rank for first, _, last in ranges for rank in range(int(first), int(last or first) + 1)}


def before_records(run: Run) -> State | None:
    """The state of a run whose workers are not all there; None once they are."""
    pods = run.newest
    if len(pods) < run.workers:
        return State("starting", f"{len(pods)} of {run.workers} pods made")
    live = [pod for pod in pods.values() if not is_over(pod)]
    if unscheduled := [pod for pod in live if not is_scheduled(pod)]:
        return State("waiting for nodes", f"{run.workers - len(unscheduled)} of {run.workers} have one")
    begun = [pod for pod in live if started(pod)]
    if len(begun) < len(live):
        hindered = next((reason for pod in live if (reason := hindrance(pod))), "")
        pulling = hindered in NO_IMAGE if hindered else any(is_pulling(pod) for pod in live)
        detail = f"{len(begun)} of {len(live)} run" + (f", {hindered}" if hindered else "")
        return State("pulling" if pulling else "starting", detail)
    if run.record:
        return None
    if 0 in pods and is_cut_off(pods[0]):  # its log is there, but cannot be read
        return State("out of reach", f"node {pods[0]['spec']['nodeName']} does not answer")
    return State("starting", f"{len(live)} of {run.workers} run")


def at_work(record: Record | None, workers: int) -> State:
    """The state that rank 0's newest record tells of."""
    if record is None or record.phase in ("starting", "failed", "restarting"):
        return State("starting")
    if record.phase == "waiting":
        return State("joining", f"{record.joined or 0}/{workers}")
    if record.phase == "training" and record.step is not None and record.steps:
        share = record.step / record.steps
        return State("training", f"{100 * share:.0f}%", done=share, accuracy=record.accuracy)
    done = 1.0 if record.phase in ("evaluating", "publishing", "published") else None
    return State("loading" if record.phase == "data" else record.phase, done=done)


def age_s(timestamp: str, now: datetime) -> float:
    """Seconds since a time in RFC 3339."""
    return (now - datetime.fromisoformat(timestamp)).total_seconds()


def optional(cluster: Cluster, kind: str, name: str) -> Object | None:
    """An object that may be looked at or not."""
    try:
        return cluster.get(kind, name)
    except ApiError:
        return None


def last_record(cluster: Cluster, run: Run) -> Record | None:
    """The newest record in the log of rank 0's newest pod; None where there is none."""
    pod = run.newest.get(0)
    if pod is None or not started(pod):
        return None
    try:
        lines = list(cluster.logs(pod["metadata"]["name"], CONTAINER, tail=LAST_LINES))
    except (ApiError, OSError):
        return None
    return next((record for line in reversed(lines) if (record := telemetry.parse(line))), None)
