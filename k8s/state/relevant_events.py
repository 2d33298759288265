"""Which events of a run or a schedule still tell something about it. Pure.

The cluster keeps an event for about an hour, even if what it warned of has passed: a pod had to wait for its volume,
or a probe failed because its pod was stopping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.state.events import last_seen, message, object_name
from k8s.state.find import is_being_deleted
from k8s.state.pods import created, has_finished, pod_condition
from k8s.state.run import state

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from k8s.state.run import Run
    from k8s.state.schedule import Schedule


def relevant_events(run: Run) -> list[Object]:
    """A run's events without those from before its Job, and without warnings of what has passed; the oldest first."""
    is_published = state(run).code == 0
    return [event for event in run.events if not is_over(event, run, is_published=is_published)]


def relevant_schedule_events(schedule: Schedule) -> list[Object]:
    """A schedule's events without the warning about a run that `cancel` has taken from the CronJob's controller."""
    return [event for event in schedule.events if event.get("reason") != "MissingJob"]


def is_over(event: Object, run: Run, *, is_published: bool) -> bool:
    """Whether an event tells nothing about a run any more."""
    return is_published or has_passed(event, run) if event.get("type") == "Warning" else is_older(event, run)


def is_older(event: Object, run: Run) -> bool:
    """Whether an event is older than a run's Job: about its claim, which other runs use too."""
    return last_seen(event) < created(run.job)


def has_passed(event: Object, run: Run) -> bool:
    """Whether what a warning is about has passed."""
    kind, about = event["involvedObject"].get("kind"), object_name(event)
    if kind == "PersistentVolumeClaim":
        return is_older(event, run) and (run.claim or {}).get("status", {}).get("phase") == "Bound"
    if kind == "Job":
        return event.get("reason") == "FailedCreate" and not run.lacks_pods
    pod = next((pod for pod in run.pods if pod["metadata"]["name"] == about), None)
    is_probe = event.get("reason") == "Unhealthy"
    if is_probe and message(event).startswith("Startup probe"):
        return True  # its container is only starting; if that takes too long, the kubelet stops it and says so
    if pod is None or has_finished(pod) or is_being_deleted(pod):
        return is_probe
    return pod_condition(pod, "Ready") is not None
