"""Events: what the cluster's components report about objects, kept for about an hour. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.objects import Object

LEAST_PREFIX = 40  # characters: pods' names begin with the Job's name, but Kubernetes shortens long ones
POD_CREATED = re.compile(r"^Created pod: (\S+)$")


def may_concern(event: Object, job_name: str, claim: str) -> bool:
    """Whether an event may be about a Job, one of its pods or its claim, by the name of the object."""
    name = object_name(event)
    return name == claim or name.startswith(job_name[:LEAST_PREFIX])


def created_pods(events_of_job: Iterable[Object]) -> list[str]:
    """The names of the pods in a Job's events, including deleted pods."""
    return [match[1] for event in events_of_job if (match := POD_CREATED.match(message(event)))]


def last_seen(event: Object) -> str:
    """When an event was last seen, in RFC 3339 with whole seconds, as most events have it."""
    series = event.get("series") or {}
    time = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""
    return re.sub(r"\.\d+", "", time)


def message(event: Object) -> str:
    """The text of an event."""
    return str(event.get("message") or "").removeprefix("(combined from similar events): ")


def object_name(event: Object) -> str:
    """The name of the object that an event is about."""
    return str(event.get("involvedObject", {}).get("name", ""))


def newest(events: Iterable[Object], *reasons: str, of: str = "") -> Object | None:
    """The newest event with one of these reasons; None if there is none.

    Args:
        events: the oldest first.
        reasons: such as FailedCreate.
        of: the name of the object; empty for any.
    """
    matches = [event for event in events if event.get("reason") in reasons and of in ("", object_name(event))]
    return matches[-1] if matches else None
