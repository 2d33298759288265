"""Where the time of a run went: in queues, in pulling, and then as rank 0's records say. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from job.time_spent import TimeSpent, goodput
from k8s.checks.capacity import requests
from k8s.state.names import trainer_of
from k8s.state.pods import container_state, created, has_finished, pod_condition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from job.telemetry import Record
    from k8s.api.objects import Object
    from k8s.state.run import Run

EARLIER = "earlier"  # before the lines of a log that were read


def time_spent(run: Run, records: Sequence[Record], now: datetime, *, whole: bool) -> dict[str, Any] | None:
    """The seconds of each part of a run, its goodput and its core-seconds; None before rank 0 has a pod.

    Args:
        run: the run.
        records: the last ones in the log of rank 0's newest pod.
        now: the current time.
        whole: whether they are all records of that log.
    """
    pod = run.newest.get(0)
    if pod is None:
        return None
    job = run.job
    begun = seconds_of(job.get("status", {}).get("startTime") or created(job))
    scheduled = scheduled_at(pod)
    start, end = container_times(pod, now)
    queued = begun - seconds_of(created(job)) + (scheduled or end) - seconds_of(created(pod))
    seconds = {"queued": max(0.0, queued)}
    if scheduled:
        seconds["pulling"] = max(0.0, start - scheduled)
        seconds |= worker_seconds(records, start, end, whole=whole)
    cores = requests(trainer_of(job["spec"]["template"])).get("cpu")
    held = sum(max(0.0, container_times(each, now)[1] - at) for each in run.pods if (at := scheduled_at(each)))
    return {
        "spent_s": {part: round(value, 1) for part, value in seconds.items()},
        "goodput": round(goodput(seconds), 4),
        "core_seconds": None if cores is None else round(cores * held, 1),
    }


def worker_seconds(records: Sequence[Record], start: float, end: float, *, whole: bool) -> dict[str, float]:
    """The seconds of each part of a worker's time, from its container's start to its end; see TimeSpent."""
    spent = TimeSpent(start)
    if records and not whole:
        spent.part = EARLIER
    for record in records:
        spent.update(record.time, record.phase, record.step)
    return spent.at(end)


def scheduled_at(pod: Object) -> float | None:
    """When a pod got its node, in seconds since 1970; None if it has none."""
    condition = pod_condition(pod, "PodScheduled")
    return seconds_of(condition["lastTransitionTime"]) if condition else None


def container_times(pod: Object, now: datetime) -> tuple[float, float]:
    """When a pod's trainer started and ended, in seconds since 1970; now for what has not happened.

    A pod that was rejected or lost with its node has no such times: it ended when its conditions changed last.
    """
    state = container_state(pod)
    ended, running = state.get("terminated", {}), state.get("running", {})
    start, finished = ended.get("startedAt") or running.get("startedAt"), ended.get("finishedAt")
    if not finished and has_finished(pod):
        changed = (each.get("lastTransitionTime") for each in pod["status"].get("conditions", []))
        finished = max(filter(None, changed), default=created(pod))
    end = seconds_of(finished) if finished else now.timestamp()
    return (seconds_of(start) if start else end), end


def seconds_of(timestamp: str) -> float:
    """A time in RFC 3339, in seconds since 1970."""
    return datetime.fromisoformat(timestamp).timestamp()
