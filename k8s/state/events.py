"""Events: what the cluster's parts say of objects, for an hour or so. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.objects import Object

MADE = re.compile(r"^Created pod: (\S+)$")


def of_run(events: Iterable[Object], job: Object, pods: Iterable[Object], claim: str | None) -> tuple[Object, ...]:
    """The events of a Job, of its pods, gone ones too, and of its claim, the oldest first."""
    events = list(events)
    uid = job["metadata"]["uid"]
    own = [event for event in events if event["involvedObject"].get("uid") == uid]
    names = {("Pod", pod["metadata"]["name"]) for pod in pods} | {("PersistentVolumeClaim", claim)}
    names |= {("Pod", found[1]) for event in own if (found := MADE.match(message(event)))}
    others = [e for e in events if (e["involvedObject"].get("kind"), e["involvedObject"].get("name")) in names]
    return tuple(sorted([*own, *others], key=when))


def when(event: Object) -> str:
    """When an event was last seen, RFC 3339, in whole seconds as most events have it."""
    series = event.get("series") or {}
    seen = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""
    return re.sub(r"\.\d+", "", seen)


def message(event: Object) -> str:
    """What an event says."""
    return str(event.get("message") or "").removeprefix("(combined from similar events): ")


def about(event: Object) -> str:
    """The name of what an event is of."""
    return str(event["involvedObject"].get("name", ""))


def last(events: Iterable[Object], *reasons: str, of: str = "") -> Object | None:
    """The newest of the events, oldest first, with one of these reasons; of that name only, if one is given."""
    found = [event for event in events if event.get("reason") in reasons and of in ("", about(event))]
    return found[-1] if found else None
