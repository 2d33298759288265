"""One run as the cluster shows it at a moment, and the state that it is in. What reads it is pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from job import telemetry
from job.errors import Exit
from k8s.contract import APP, CANCELLED, CONTAINER, NAME_LABEL, QUEUE_LABEL, Object, pods_of, rank_of
from k8s.errors import ApiError, LauncherError, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from job.telemetry import Record
    from k8s.cluster import Cluster

DONE = {"SuccessCriteriaMet", "Complete"}
FAILED = {"FailureTarget", "Failed"}
# Reasons for which a container waits that are just its way to run.
ON_ITS_WAY = {"ContainerCreating", "PodInitializing", ""}


@dataclass(frozen=True)
class Run:
    """What there is of one run.

    events are those of the Job, of its pods and of its claim, the oldest first; record is the newest of rank 0's log.
    nodes are the names of those that are not ready; None where that may not be asked.
    """

    job: Object
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    record: Record | None = None
    claim: Object | None = None
    down: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.job["metadata"]["name"])

    @property
    def workers(self) -> int:
        """How many workers it has."""
        return int(self.job["spec"]["completions"])

    @property
    def newest(self) -> dict[int, Object]:
        """Each rank's newest pod."""
        return {rank_of(pod): pod for pod in sorted(self.pods, key=created)}

    def condition(self, *types: str) -> Object | None:
        """The first of the Job's conditions of these types that holds."""
        found = self.job.get("status", {}).get("conditions", [])
        return next((c for c in found if c["type"] in types and c["status"] == "True"), None)


@dataclass(frozen=True)
class Ending:
    """How a worker's container ended: as in its termination message, or by Kubernetes' own words.

    when is RFC 3339; accuracy the share of test examples that the published model classifies rightly.
    """

    rank: int
    pod: str
    code: int
    reason: str
    message: str
    hint: str
    when: str
    step: int | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class State:
    """The state of a run in a word or two.

    detail is empty or says more, as `2 of 4`. done is the share of the training that is done. code is a worker's, and
    None where the run has not ended or ended without one.
    """

    word: str
    detail: str = ""
    ended: bool = False
    code: int | None = None
    accuracy: float | None = None
    done: float | None = None

    def __str__(self) -> str:
        return f"{self.word} {self.detail}".strip()


def gather(cluster: Cluster, name: str) -> Run:
    """What the cluster shows of a run.

    Raises:
        LauncherError: 2, when there is no such run, or the Job of that name is something else.
    """
    job = cluster.get("Job", name)
    if job is None:
        message = f"there is no run {name} in namespace {cluster.namespace}"
        raise LauncherError(Status.REFUSED, message, "`mnist-job status` lists the runs")
    if job["metadata"].get("labels", {}).get(NAME_LABEL) != APP:
        message = f"the Job {name} in namespace {cluster.namespace} is no run of {APP}"
        raise LauncherError(Status.REFUSED, message, "its labels do not say so")
    return Run(job, tuple(cluster.select("Pod", pods_of(name))))


def state(run: Run) -> State:
    """The state that a run is in."""
    if run.condition(*DONE):
        zero = next((e for e in reversed(endings(run.pods)) if e.rank == 0), None)
        return State("published", ended=True, code=Exit.OK, accuracy=zero.accuracy if zero else None)
    if condition := run.condition(*FAILED):
        ending = fatal(run)
        if ending and ending.code == Exit.REJECTED:
            return State("rejected", ended=True, code=ending.code, accuracy=ending.accuracy)
        reason = ending.reason if ending else kebab(condition.get("reason", ""))
        return State("failed:", reason, ended=True, code=ending.code if ending else None)
    if run.job["spec"].get("suspend"):
        metadata = run.job["metadata"]
        queued = "queued" if QUEUE_LABEL in metadata.get("labels", {}) else "suspended"
        return State("cancelled" if CANCELLED in metadata.get("annotations", {}) else queued)
    return before_records(run) or at_work(run.record, run.workers)


def before_records(run: Run) -> State | None:
    """The state of a run whose workers are not all there; None once they are."""
    pods = run.newest
    if len(pods) < run.workers:
        return State("starting", f"{len(pods)} of {run.workers} pods made")
    live = [pod for pod in pods.values() if pod["status"].get("phase") not in ("Succeeded", "Failed")]
    if unscheduled := [pod for pod in live if not is_scheduled(pod)]:
        return State("waiting for nodes", f"{run.workers - len(unscheduled)} of {run.workers} have one")
    begun = [pod for pod in live if started(pod)]
    if len(begun) < len(live):
        pulling = any(waits_for(pod) not in ON_ITS_WAY for pod in live)
        return State("pulling" if pulling else "starting", f"{len(begun)} of {len(live)} run")
    return None if run.record else State("starting", f"{run.workers} of {run.workers} run")


def at_work(record: Record | None, workers: int) -> State:
    """The state that rank 0's newest record tells of."""
    if record is None or record.phase in ("starting", "failed", "restarting"):
        return State("starting")
    if record.phase == "waiting":
        return State("joining", f"{record.joined or 0}/{workers}")
    if record.phase == "training" and record.step is not None and record.steps:
        share = record.step / record.steps
        return State("training", f"{100 * share:.0f}%", done=share, accuracy=record.accuracy)
    return State(record.phase, done=1.0 if record.phase in ("evaluating", "publishing", "published") else None)


def endings(pods: Iterable[Object]) -> list[Ending]:
    """How the workers' containers ended, the first first."""
    found = [ending for pod in pods if (ending := ended(pod))]
    return sorted(found, key=lambda ending: (ending.when, ending.rank))


def ended(pod: Object) -> Ending | None:
    """How a pod's worker ended; None while it has not, or where the pod went before its container began."""
    terminated = container_state(pod).get("terminated")
    status = pod["status"]
    if not terminated:
        if status.get("phase") != "Failed":
            return None
        # Evicted, or refused by the kubelet, before a container could say anything.
        when = pod["metadata"]["creationTimestamp"]
        reason = kebab(status.get("reason") or "failed")
        return Ending(rank_of(pod), pod["metadata"]["name"], 0, reason, status.get("message", ""), "", when)
    told = message_of(terminated.get("message", ""))
    code = int(terminated["exitCode"])
    if terminated.get("reason") == "OOMKilled":
        told = {
            "reason": "out-of-memory",
            "message": "the kernel killed the worker for memory",
            "step": told.get("step"),
        }
    if status.get("reason") == "Evicted":
        told = {"reason": "evicted", "message": status.get("message", "")}
    return Ending(
        rank=rank_of(pod),
        pod=pod["metadata"]["name"],
        code=code,
        reason=told.get("reason") or ("" if code == 0 else killed_or_not(code)),
        message=told.get("message") or "",
        hint=told.get("hint") or "",
        when=terminated.get("finishedAt") or "",
        step=told.get("step"),
        accuracy=told.get("accuracy"),
    )


def fatal(run: Run) -> Ending | None:
    """The end that failed the Job at once; None where it failed otherwise, or the pod is gone."""
    condition = run.condition(*FAILED)
    if not condition or condition.get("reason") != "PodFailurePolicy":
        return None
    codes = {int(c) for c in Exit if c not in (Exit.OK, Exit.TRY_AGAIN, Exit.INTERRUPTED)}
    return next((ending for ending in endings(run.pods) if ending.code in codes), None)


def message_of(text: str) -> dict[str, Any]:
    """A termination message; where the worker left none, Kubernetes gives the last lines of its log."""
    try:
        found = json.loads(text)
    except ValueError:
        return {"message": (text.strip().splitlines() or [""])[-1][:500]}
    return found if isinstance(found, dict) else {}


def killed_or_not(code: int) -> str:
    """The reason of an end of which nothing is told."""
    return "killed" if code > 128 else "unknown"


def container_state(pod: Object) -> Object:
    """The state of a pod's trainer; empty before there is one."""
    statuses = pod["status"].get("containerStatuses", [])
    return next((status["state"] for status in statuses if status["name"] == CONTAINER), {})


def waits_for(pod: Object) -> str:
    """The reason for which a pod's container waits; empty if it does not, or the kubelet has not said one."""
    return str(container_state(pod).get("waiting", {}).get("reason", ""))


def started(pod: Object) -> bool:
    """Whether a pod's container has begun."""
    return bool({"running", "terminated"} & container_state(pod).keys())


def is_scheduled(pod: Object) -> bool:
    """Whether a pod has a node."""
    return "nodeName" in pod["spec"]


def created(pod: Object) -> str:
    """When an object was made, RFC 3339: sorts as time does."""
    return str(pod["metadata"]["creationTimestamp"])


def age_s(timestamp: str, now: datetime) -> float:
    """Seconds since a time in RFC 3339."""
    return (now - datetime.fromisoformat(timestamp)).total_seconds()


def kebab(word: str) -> str:
    """CamelCase, as Kubernetes' reasons are, in kebab case, as this project's are."""
    parts = "".join(f"-{c.lower()}" if c.isupper() else c for c in word).strip("-")
    return {"o-o-m-killed": "out-of-memory"}.get(parts, parts)


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
        records = [telemetry.parse(line) for line in cluster.logs(pod["metadata"]["name"], CONTAINER, tail=5)]
    except (ApiError, OSError):
        return None
    return next((record for record in reversed(records) if record), None)
