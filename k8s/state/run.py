"""A run as the cluster shows it at a moment, and the state that follows from it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from job.errors import Exit
from k8s.state.containers import holding
from k8s.state.exits import REASON_OF_CODE, ContainerExit, container_exits, first_cause, kebab_case
from k8s.state.names import (
    CANCELLED,
    QUEUE_LABEL,
    least_workers,
    rank_of,
    run_name,
)
from k8s.state.pods import (
    created,
    has_finished,
    is_cut_off,
    is_pulling,
    is_scheduled,
    start_problem,
    started,
    waits_for_image,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from job.telemetry import Record
    from k8s.api.objects import Object

DONE = {"SuccessCriteriaMet", "Complete"}
FAILED = {"FailureTarget", "Failed"}
OUTCOMES = {"published", "rejected", "failed"}  # the words of runs that have ended
TOO_OFTEN = {"MaxFailedIndexesExceeded", "FailedIndexes"}
# The Job controller's message about an exit code that fails a Job at once.
BY_CODE = re.compile(r"pod \S*?/?([^/\s]+) failed with exit code (\d+)")


@dataclass(frozen=True)
class Run:
    """One run, as the cluster shows it.

    events are those of the Job, of its pods, deleted ones too, and of its claim, the oldest first. record is the newest
    of rank 0's log. down are the names of the nodes that are not ready; None if nodes were not read. kueue is why Kueue
    has not started it; empty if it does not wait for Kueue. evicted is a word for why Kueue stopped it, such as
    `preempted`; empty if it did not. flags are the command-line flags that select the run's namespace and cluster.
    logged are the ends of workers whose pods are gone, as the logs on the volume show them.
    """

    job: Object
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    record: Record | None = None
    claim: Object | None = None
    down: tuple[str, ...] | None = None
    kueue: str = ""
    evicted: str = ""
    flags: str = ""
    logged: tuple[ContainerExit, ...] = ()

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
        """The number of workers."""
        return int(self.job["spec"]["completions"])

    @cached_property
    def newest(self) -> dict[int, Object]:
        """Each rank's newest pod, in the order of ranks."""
        pods = {rank_of(pod): pod for pod in sorted(self.pods, key=created)}
        return dict(sorted(pods.items()))

    @cached_property
    def exits(self) -> list[ContainerExit]:
        """How its workers' containers ended, in the order of time."""
        return sorted([*container_exits(self.pods), *self.logged], key=lambda ended: (ended.when, ended.rank))

    @property
    def lacks_pods(self) -> bool:
        """Whether a worker has no pod, or only one that failed."""
        existing = [pod for pod in self.newest.values() if pod["status"].get("phase") != "Failed"]
        return len(existing) < self.workers

    def condition(self, *types: str) -> Object | None:
        """The first condition of the Job that has one of these types and is true."""
        conditions = self.job.get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] in types and c["status"] == "True"), None)


@dataclass(frozen=True)
class State:
    """The state of a run in a word or two.

    detail is empty or adds to the word, such as `2 of 4`, or why `latest` did not move. done is the completed share of
    the training. code is a worker's exit code; None if the run has not ended, or ended without one.
    """

    word: str
    detail: str = ""
    ended: bool = False
    code: int | None = None
    accuracy: float | None = None
    done: float | None = None

    def __str__(self) -> str:
        return f"{self.word}{':' if self.word in OUTCOMES and self.detail else ''} {self.detail}".strip()


def state(run: Run) -> State:
    """The state that a run is in."""
    if run.condition(*DONE):
        last = published_exit(run)
        kept = f"kept because {last.message}" if last and last.reason == "kept" else ""
        return State("published", kept, ended=True, code=Exit.OK, accuracy=last.accuracy if last else None)
    if run.condition(*FAILED):
        return failed(run)
    if run.job["spec"].get("suspend"):
        metadata = run.job["metadata"]
        suspended = "queued" if QUEUE_LABEL in metadata.get("labels", {}) else "suspended"
        if CANCELLED in metadata.get("annotations", {}):
            return State("cancelled")
        return State(suspended, run.evicted if suspended == "queued" else "")
    if 0 in failed_ranks(run):
        return State("stuck", "worker 0 failed too often")
    start = None if trains_with_fewer(run) else state_from_pods(run)
    return state_of_end(run) or start or state_from_record(run.record, run.workers)


def trains_with_fewer(run: Run) -> bool:
    """Whether a run goes on although workers are missing, as its rank 0 last reported."""
    record, chief = run.record, run.newest.get(0)
    if record is None or chief is None or least_workers(run.job) == run.workers:
        return False
    if record.phase == "waiting" or (record.phase != "published" and has_finished(chief)):
        return False
    return (record.joined or run.workers) < run.workers


def published_exit(run: Run) -> ContainerExit | None:
    """The exit of rank 0 that says what became of the published model; None if its pod is gone."""
    exits = [each for each in run.exits if each.rank == 0 and each.code == Exit.OK]
    return exits[-1] if exits else None


def is_settled(job: Object) -> bool:
    """Whether a run has ended, is cancelled or, without a Job, was deleted: nothing more happens by itself."""
    return not job or (current := state(Run(job))).ended or current.word == "cancelled"


def failed(run: Run) -> State:
    """The state of a run that failed or was rejected."""
    decisive, code = decisive_exit(run), exit_code(run)
    if code == Exit.REJECTED:
        message, accuracy = (decisive.message, decisive.accuracy) if decisive else ("", None)
        return State("rejected", message, ended=True, code=code, accuracy=accuracy)
    condition = kebab_case((run.condition(*FAILED) or {}).get("reason", ""))
    reason = decisive.reason if decisive else REASON_OF_CODE.get(code or 0, condition)
    return State("failed", reason, ended=True, code=code)


def decisive_exit(run: Run) -> ContainerExit | None:
    """The exit that is the first cause of a run's failure; None if there is none, or its pod was deleted."""
    reason = (run.condition(*FAILED) or {}).get("reason", "")
    ends = run.exits
    if reason == "PodFailurePolicy":
        return first_cause([ending for ending in ends if ending.code in REASON_OF_CODE])
    return first_cause(ends) if exhausted_ranks(run) else None


def lacks_cause(run: Run) -> bool:
    """Whether a run failed and the pods that could say why are gone."""
    return bool(run.condition(*FAILED)) and decisive_exit(run) is None and run.lacks_pods


def exit_code(run: Run) -> int | None:
    """A failed run's exit code: of the worker that made it fail, or the last one of a worker that failed too often."""
    if fatal := failing_pod(run):
        return fatal[1]
    codes = [ending.code for ending in run.exits if ending.rank in exhausted_ranks(run) and ending.code]
    return codes[-1] if codes else None


def failing_pod(run: Run) -> tuple[str, int] | None:
    """The name of the pod that made a Job fail at once, and its exit code, as the Job controller reports them."""
    condition = run.condition(*FAILED) or {}
    match = BY_CODE.search(condition.get("message", "")) if condition.get("reason") == "PodFailurePolicy" else None
    return (match[1], int(match[2])) if match else None


def exhausted_ranks(run: Run) -> set[int]:
    """The ranks that failed too often, of a Job that failed because of that."""
    return failed_ranks(run) if (run.condition(*FAILED) or {}).get("reason") in TOO_OFTEN else set()


def failed_ranks(run: Run) -> set[int]:
    """The ranks that failed too often. With --min-workers, their Job may go on."""
    ranges = [part.partition("-") for part in run.job.get("status", {}).get("failedIndexes", "").split(",") if part]
    return {rank for first, _, last in ranges for rank in range(int(first), int(last or first) + 1)}


def state_of_end(run: Run) -> State | None:
    """The state of a run in which a container keeps a pod from ending after its trainer; None for any other run."""
    container = next(filter(None, map(holding, run.newest.values())), None)
    ended = sum(map(has_finished, run.newest.values()))
    if container is None:
        return None
    return State("ending", f"{ended} of {run.workers} pods ended, {container} {container.doing}")


def state_from_pods(run: Run) -> State | None:
    """The state of a run whose workers have not all started; None once they have."""
    pods = run.newest
    if len(pods) < run.workers:
        return State("starting", f"{len(pods)} of {run.workers} pods created")
    live = [pod for pod in pods.values() if not has_finished(pod)]
    if unscheduled := [pod for pod in live if not is_scheduled(pod)]:
        return State("waiting for nodes", f"{run.workers - len(unscheduled)} of {run.workers} scheduled")
    if not all(map(started, live)):
        return state_of_start(live)
    if run.record:
        return None
    if 0 in pods and is_cut_off(pods[0]):  # its log exists but cannot be read
        return State("out of reach", f"node {pods[0]['spec']['nodeName']} does not answer")
    return State("starting", f"{len(live)} of {run.workers} running")


def state_of_start(pods: Sequence[Object]) -> State:
    """The state of a run that some of these pods keep from starting."""
    stuck = next((pod for pod in pods if start_problem(pod)), None)
    pulling = waits_for_image(stuck) if stuck else any(map(is_pulling, pods))
    detail = f"{sum(map(started, pods))} of {len(pods)} running"
    return State("pulling" if pulling else "starting", f"{detail}, {start_problem(stuck)}" if stuck else detail)


def state_from_record(record: Record | None, workers: int) -> State:
    """The state that rank 0's newest record shows."""
    if record is None or record.phase in ("starting", "failed", "restarting"):
        return State("starting")
    if record.phase == "waiting":
        return State("joining", f"{record.joined or 0}/{workers}")
    if record.phase == "training" and record.step is not None and record.steps:
        share = record.step / record.steps
        fewer = f" with {record.joined} of {workers} workers" if record.joined else ""
        return State("training", f"{100 * share:.0f}%{fewer}", done=share, accuracy=record.accuracy)
    done = 1.0 if record.phase in ("evaluating", "publishing", "published") else None
    return State("loading" if record.phase == "data" else record.phase, done=done)


def age_s(timestamp: str, now: datetime) -> float:
    """Seconds since a time in RFC 3339."""
    return (now - datetime.fromisoformat(timestamp)).total_seconds()
