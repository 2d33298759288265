"""What `status` shows of runs, as JSON has it. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from k8s.state import events
from k8s.state.exits import container_exit, container_exits
from k8s.state.pods import created, failures, hindrance, is_pulling, is_scheduled
from k8s.state.run import Run, age_s, state
from k8s.state.schedule import Schedule, state_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from k8s.api.objects import Object
    from k8s.state.exits import ContainerExit

EVENTS = 8
Reasons = Counter[str]


def run_summary(seen: Run, now: datetime) -> dict[str, Any]:
    """A run in a line."""
    is_now = state(seen)
    return {
        "name": seen.name,
        "state": is_now.word,
        "detail": is_now.detail,
        "ended": is_now.ended,
        "code": is_now.code,
        "workers": seen.workers,
        "age_s": round(age_s(created(seen.job), now)),
        "accuracy": is_now.accuracy,
    }


def run_details(seen: Run, now: datetime, restarted: Mapping[int, Reasons]) -> dict[str, Any]:
    """A run rank by rank.

    Args:
        seen: the run.
        now: the present time.
        restarted: how often a rank's trainer was started again for which reason, of those that were.
    """
    record, ends = seen.record, container_exits(seen.pods)
    figures = ("epoch", "step", "steps", "loss", "examples_per_s", "eta_s", "checkpoint")
    return {
        **run_summary(seen, now),
        "progress": {name: getattr(record, name) for name in figures} if record else None,
        "ranks": [rank_fields(seen, rank, ends, restarted.get(rank, Counter())) for rank in range(seen.workers)],
        "events": [event_fields(event) for event in seen.events[-EVENTS:]],
    }


def event_fields(event: Object) -> dict[str, Any]:
    """An event."""
    about, reason = events.about(event), event.get("reason")
    return {"when": events.when(event), "about": about, "reason": reason, "message": events.message(event)}


def rank_fields(seen: Run, rank: int, ends: list[ContainerExit], restarted: Reasons) -> dict[str, Any]:
    """A worker: where it is, what it does, how often it was replaced and its trainer started again."""
    pod = seen.newest.get(rank)
    name = pod["metadata"]["name"] if pod else None
    before = [ending for ending in ends if ending.rank == rank and ending.pod != name]
    replaced = Counter(ending.reason for ending in before)
    if pod and (gone := failures(pod) - len(before)) > 0:
        replaced["unknown, the pod is gone"] = gone
    return {
        "rank": rank,
        "phase": rank_phase(seen, rank),
        "node": pod["spec"].get("nodeName") if pod else None,
        "pod": name,
        "restarts": restart_count(seen, rank),
        "restarted_after": dict(restarted),
        "replaced_after": dict(replaced),
    }


def restart_count(seen: Run, rank: int) -> int:
    """How often a worker's trainer was started again in its present pod."""
    if seen.record is None:
        return 0
    return seen.record.restarts if rank == 0 else int(worker_status(seen, rank).get("restarts", 0))


def worker_status(seen: Run, rank: int) -> Mapping[str, Any]:
    """What rank 0 says of another worker; nothing where that does as all do."""
    others = (seen.record.workers if seen.record else None) or {}
    found: Mapping[str, Any] = others.get(str(rank), {})
    return found


def rank_phase(seen: Run, rank: int) -> str:
    """What a worker does."""
    pod = seen.newest.get(rank)
    if pod is None:
        return "no pod"
    if end := container_exit(pod):
        return "ended" if end.code is None else f"ended with {end.code}"
    if not is_scheduled(pod):
        return "waits for a node"
    if hindered := hindrance(pod):
        return hindered
    if pod["status"].get("phase") != "Running":
        return "pulling" if is_pulling(pod) else "starting"
    return str(worker_status(seen, rank).get("phase") or (seen.record.phase if seen.record else "starting"))


def schedule_summary(seen: Schedule, now: datetime) -> dict[str, Any]:
    """A schedule in a line, as JSON has it."""
    word, detail = state_of(seen)
    coming, missed = seen.next(now), seen.missed(now)
    return {
        "name": seen.name,
        "state": word,
        "detail": detail,
        "cron": seen.cronjob["spec"]["schedule"],
        "timezone": seen.zone,
        "next": coming and coming.isoformat(),
        "missed": missed and missed.isoformat(),
        "last": run_summary(seen.last, now) if seen.last else None,
        "failures": seen.failures,
        "failures_at_least": seen.at_least,
        "workers": seen.cronjob["spec"]["jobTemplate"]["spec"]["completions"],
        "age_s": round(age_s(created(seen.cronjob), now)),
    }


def schedule_details(seen: Schedule, now: datetime) -> dict[str, Any]:
    """A schedule with its runs, the newest first, and its last events, as JSON has it."""
    history = [run_summary(run, now) for run in seen.runs]
    return {
        **schedule_summary(seen, now),
        "history": history,
        "events": [event_fields(event) for event in seen.events[-EVENTS:]],
    }
