"""The fields of runs and schedules that `status` shows and prints as JSON. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from k8s.state import events
from k8s.state.containers import holding
from k8s.state.exits import container_exit
from k8s.state.names import claim_of, model_of, trainer_of
from k8s.state.pods import created, failures, is_pulling, is_scheduled, start_problem, started
from k8s.state.relevant_events import relevant_events, relevant_schedule_events
from k8s.state.run import Run, age_s, state
from k8s.state.schedule import Schedule, state_of
from k8s.view.time_spent import time_spent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from job.telemetry import Record
    from k8s.api.objects import Object
    from k8s.state.exits import ContainerExit

EVENTS = 8
PROGRESS = ("epoch", "step", "steps", "loss", "examples_per_s", "eta_s", "checkpoint", "joined")
Reasons = Counter[str]


def run_summary(run: Run, now: datetime) -> dict[str, Any]:
    """A run, for one row."""
    current = state(run)
    return {
        "name": run.name,
        "namespace": run.namespace,
        "state": current.word,
        "detail": current.detail,
        "ended": current.ended,
        "code": None if current.code is None else int(current.code),
        "workers": run.workers,
        "age_s": round(age_s(created(run.job), now)),
        "accuracy": current.accuracy,
        **template_fields(run.job["spec"]["template"]),
        "nodes": sorted({node for pod in run.newest.values() if (node := pod["spec"].get("nodeName"))}),
    }


def run_details(
    run: Run, now: datetime, restarted: Mapping[int, Reasons], records: Sequence[Record], *, whole: bool
) -> dict[str, Any]:
    """A run rank by rank.

    Args:
        run: the run.
        now: the current time.
        restarted: for each rank whose trainer was restarted, the number of restarts by reason.
        records: the last ones of rank 0's log.
        whole: whether they are all records of that log.
    """
    record, exits = run.record, run.exits
    return {
        **run_summary(run, now),
        "kueue": run.kueue or None,
        "progress": {name: getattr(record, name) for name in PROGRESS} if record else None,
        "time": time_spent(run, records, now, whole=whole),
        "ranks": [rank_fields(run, rank, exits, restarted.get(rank, Counter())) for rank in range(run.workers)],
        "events": [event_fields(event) for event in relevant_events(run)[-EVENTS:]],
    }


def schedule_summary(schedule: Schedule, now: datetime) -> dict[str, Any]:
    """A schedule, for one row."""
    word, detail = state_of(schedule)
    coming, missed = schedule.next(now), schedule.missed(now)
    metadata, spec = schedule.cronjob["metadata"], schedule.cronjob["spec"]
    job = spec["jobTemplate"]["spec"]
    return {
        "name": schedule.name,
        "namespace": metadata.get("namespace", ""),
        "state": word,
        "detail": detail,
        "cron": spec["schedule"],
        "timezone": schedule.zone,
        "next": coming and coming.isoformat(),
        "missed": missed and missed.isoformat(),
        "last": run_summary(schedule.last, now) if schedule.last else None,
        "failures": schedule.failures,
        "failures_at_least": schedule.at_least,
        "workers": job["completions"],
        "age_s": round(age_s(created(schedule.cronjob), now)),
        **template_fields(job["template"]),
    }


def schedule_details(schedule: Schedule, now: datetime) -> dict[str, Any]:
    """A schedule with its runs, newest first, and its last events."""
    return {
        **schedule_summary(schedule, now),
        "history": [run_summary(run, now) for run in schedule.runs],
        "events": [event_fields(event) for event in relevant_schedule_events(schedule)[-EVENTS:]],
    }


def template_fields(template: Object) -> dict[str, Any]:
    """A pod template's image, the ConfigMap of its model (None for the image's own), and the claim of the output."""
    return {"image": trainer_of(template).get("image"), "model_map": model_of(template), "claim": claim_of(template)}


def event_fields(event: Object) -> dict[str, Any]:
    """An event."""
    about, reason = events.object_name(event), event.get("reason")
    return {"when": events.last_seen(event), "about": about, "reason": reason, "message": events.message(event)}


def rank_fields(run: Run, rank: int, exits: list[ContainerExit], restarted: Reasons) -> dict[str, Any]:
    """A worker: its node, its phase, how often its pod was replaced and its trainer restarted."""
    pod = run.newest.get(rank)
    name = pod["metadata"]["name"] if pod else None
    earlier = [each for each in exits if each.rank == rank and each.pod != name]
    replaced = Counter(each.reason for each in earlier)
    if pod and (deleted := failures(pod) - len(earlier)) > 0:
        replaced["unknown, the pod is gone"] = deleted
    return {
        "rank": rank,
        "phase": rank_phase(run, rank),
        "node": pod["spec"].get("nodeName") if pod else None,
        "pod": name,
        "restarts": restart_count(run, rank),
        "restarted_after": dict(restarted),
        "replaced_after": dict(replaced),
    }


def restart_count(run: Run, rank: int) -> int:
    """How often a worker's trainer was restarted in its current pod."""
    if run.record is None:
        return 0
    return run.record.restarts if rank == 0 else int(worker_status(run, rank).get("restarts", 0))


def worker_status(run: Run, rank: int) -> Mapping[str, Any]:
    """What rank 0 reports about another worker; empty if that worker is in rank 0's phase and was never restarted."""
    others = (run.record.workers if run.record else None) or {}
    status: Mapping[str, Any] = others.get(str(rank), {})
    return status


def rank_phase(run: Run, rank: int) -> str:
    """What a worker is doing."""
    pod = run.newest.get(rank)
    if pod is None:
        return "no pod"
    if ended := container_exit(pod):
        how = "ended" if ended.code is None else f"ended with {ended.code}"
        how = f"{ended.container} failed" if ended.container else how
        return f"{how}, {held} {held.doing}" if (held := holding(pod)) else how
    if not is_scheduled(pod):
        return "waits for a node"
    if problem := start_problem(pod):
        return problem
    if not started(pod):
        return "pulling" if is_pulling(pod) else "starting"
    return str(worker_status(run, rank).get("phase") or (run.record.phase if run.record else "starting"))
