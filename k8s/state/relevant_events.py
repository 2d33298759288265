"""Which events of a run still tell something about it. Pure.

The cluster keeps an event for about an hour, also when what it warned of has passed: a pod that had to wait for its
volume, a probe that met a pod on its way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.state.events import last_seen, object_name
from k8s.state.find import is_being_deleted
from k8s.state.pods import created, has_finished, pod_condition
from k8s.state.run import state

if TYPE_CHECKING:
    from k8s.api.objects import Object
    from k8s.state.run import Run


def relevant_events(run: Run) -> list[Object]:
    """A run's events without those from before its Job, and without warnings of what has passed; the oldest first."""
    return [
        event for event in run.events if not (has_passed(event, run) if is_warning(event) else is_older(event, run))
    ]


def is_warning(event: Object) -> bool:
    """Whether an event is a warning."""
    return event.get("type") == "Warning"


def is_older(event: Object, run: Run) -> bool:
    """Whether an event is older than a run's Job: about its claim, which other runs use too."""
    return last_seen(event) < created(run.job)


def has_passed(event: Object, run: Run) -> bool:
    """Whether what a warning is about has passed."""
    kind, about = event["involvedObject"].get("kind"), object_name(event)
    if state(run).code == 0:  # published
        return True
    if kind == "PersistentVolumeClaim":
        return is_older(event, run) and (run.claim or {}).get("status", {}).get("phase") == "Bound"
    if kind == "Job":
        return event.get("reason") == "FailedCreate" and len(run.newest) == run.workers
    pod = next((pod for pod in run.pods if pod["metadata"]["name"] == about), None)
    if pod is None or has_finished(pod) or is_being_deleted(pod):
        return event.get("reason") == "Unhealthy"  # a probe that met the end of the pod
    return pod_condition(pod, "Ready") is not None
