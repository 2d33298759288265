"""What `status` shows of runs, as JSON has it. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from k8s.state import events
from k8s.state.exits import ended, endings
from k8s.state.pods import created, failures, hindrance, is_pulling, is_scheduled
from k8s.state.run import Run, age_s, state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from k8s.api.objects import Object
    from k8s.state.exits import Ending

EVENTS = 8
Reasons = Counter[str]


def summary(seen: Run, now: datetime) -> dict[str, Any]:
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


def detailed(seen: Run, now: datetime, restarted: Mapping[int, Reasons]) -> dict[str, Any]:
    """A run rank by rank.

    Args:
        seen: the run.
        now: the present time.
        restarted: how often a rank's trainer was started again for which reason, of those that were.
    """
    record, ends = seen.record, endings(seen.pods)
    figures = ("epoch", "step", "steps", "loss", "examples_per_s", "eta_s", "checkpoint")
    return {
        **summary(seen, now),
        "progress": {name: getattr(record, name) for name in figures} if record else None,
        "ranks": [rank_line(seen, rank, ends, restarted.get(rank, Counter())) for rank in range(seen.workers)],
        "events": [event_line(event) for event in seen.events[-EVENTS:]],
    }


def event_line(event: Object) -> dict[str, Any]:
    """An event."""
    about, reason = events.about(event), event.get("reason")
    return {"when": events.when(event), "about": about, "reason": reason, "message": events.message(event)}


def rank_line(seen: Run, rank: int, ends: list[Ending], restarted: Reasons) -> dict[str, Any]:
    """A worker: where it is, what it does, how often it was replaced and its trainer started again."""
    pod = seen.newest.get(rank)
    name = pod["metadata"]["name"] if pod else None
    before = [ending for ending in ends if ending.rank == rank and ending.pod != name]
    replaced = Counter(ending.reason for ending in before)
    if pod and (gone := failures(pod) - len(before)) > 0:
        replaced["unknown, the pod is gone"] = gone
    return {
        "rank": rank,
        "phase": phase_of(seen, rank),
        "node": pod["spec"].get("nodeName") if pod else None,
        "pod": name,
        "restarts": restarts(seen, rank),
        "restarted_after": dict(restarted),
        "replaced_after": dict(replaced),
    }


def restarts(seen: Run, rank: int) -> int:
    """How often a worker's trainer was started again in its present pod."""
    if seen.record is None:
        return 0
    return seen.record.restarts if rank == 0 else int(heard_of(seen, rank).get("restarts", 0))


def heard_of(seen: Run, rank: int) -> Mapping[str, Any]:
    """What rank 0 says of another worker; nothing where that does as all do."""
    others = (seen.record.workers if seen.record else None) or {}
    found: Mapping[str, Any] = others.get(str(rank), {})
    return found


def phase_of(seen: Run, rank: int) -> str:
    """What a worker does."""
    pod = seen.newest.get(rank)
    if pod is None:
        return "no pod"
    if end := ended(pod):
        return "ended" if end.code is None else f"ended with {end.code}"
    if not is_scheduled(pod):
        return "waits for a node"
    if hindered := hindrance(pod):
        return hindered
    if pod["status"].get("phase") != "Running":
        return "pulling" if is_pulling(pod) else "starting"
    return str(heard_of(seen, rank).get("phase") or (seen.record.phase if seen.record else "starting"))
