"""Events: what the cluster's components report about objects, kept for about an hour. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.objects import Object

POD_CREATED = re.compile(r"^Created pod: (\S+)$")


def of_run(events: Iterable[Object], job: Object, pods: Iterable[Object], claim: str | None) -> tuple[Object, ...]:
    """The events of a Job, of its pods, also of deleted ones, and of its claim, the oldest first."""
    events = list(events)
    uid = job["metadata"]["uid"]
    of_job = [event for event in events if event["involvedObject"].get("uid") == uid]
    names = {("Pod", pod["metadata"]["name"]) for pod in pods} | {("PersistentVolumeClaim", claim)}
    names |= {("Pod", match[1]) for event in of_job if (match := POD_CREATED.match(message(event)))}
    others = [e for e in events if (e["involvedObject"].get("kind"), e["involvedObject"].get("name")) in names]
    return tuple(sorted([*of_job, *others], key=last_seen))


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
    return str(event["involvedObject"].get("name", ""))


def newest(events: Iterable[Object], *reasons: str, of: str = "") -> Object | None:
    """The newest event with one of these reasons; None if there is none.

    Args:
        events: the oldest first.
        reasons: such as FailedCreate.
        of: the name of the object; empty for any.
    """
    matches = [event for event in events if event.get("reason") in reasons and of in ("", object_name(event))]
    return matches[-1] if matches else None
