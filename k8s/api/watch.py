"""A set of objects that a list and watches keep up to date."""

from __future__ import annotations

import json
import random
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.api.objects import leave_out_unused
from k8s.api.requests import TEMPORARY

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Iterator

    from k8s.api.objects import Object

FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 5.0  # between two watches
GONE = 410  # the version to continue from is too old
CHANGES = {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}


def watch_objects(
    list_objects: Callable[[], tuple[list[Object], str]],
    open_watch: Callable[[str], Generator[str]],
    stop: threading.Event,
    wanted: Callable[[Object], bool] = lambda _: True,
) -> Iterator[dict[str, Object]]:
    """The objects by UID: first as they are, then again after each change, until stop is set.

    A watch that ends normally continues where it ended. A watch that breaks, or sends something invalid, starts again
    from a new list, after a pause that grows until a watch brings a change.

    Args:
        list_objects: gives the objects, and their version.
        open_watch: gives the lines of a watch that begins after a version.
        stop: ends the iteration.
        wanted: says for which objects a change counts.

    Raises:
        ApiError: this user may not list or watch the objects.
    """
    known: dict[str, Object] = {}
    version, pause_s = "", FIRST_PAUSE_S
    while not stop.is_set():
        if not version:
            items, version = list_objects()
            known = {item["metadata"]["uid"]: item for item in items}
            yield dict(known)
        began, newest = time.monotonic(), ""
        lines, start, version = open_watch(version), version, ""  # a new list, unless the watch ends normally
        try:
            with suppress(OSError), closing(lines):
                for line in lines:
                    change = None if stop.is_set() else parse_change(line)
                    if not change:
                        break
                    kind, item = change
                    newest = item["metadata"]["resourceVersion"]
                    if kind == "BOOKMARK" or not wanted(item):
                        continue
                    if kind == "DELETED":
                        known.pop(item["metadata"]["uid"], None)
                    else:
                        known[item["metadata"]["uid"]] = item
                    yield dict(known)
                else:
                    version = newest or start
        except ApiError as error:
            if error.code not in TEMPORARY | {GONE}:
                raise
        useful = newest or time.monotonic() - began > LAST_PAUSE_S
        pause_s = FIRST_PAUSE_S if useful else min(2 * pause_s, LAST_PAUSE_S)
        stop.wait(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret


def parse_change(line: str) -> tuple[str, Object] | None:
    """The type of a change (ADDED, MODIFIED, DELETED or BOOKMARK) and its object, from a line of a watch.

    None if the watch cannot go on: an ERROR, or a line that is cut off or that no API server sends.
    """
    try:
        event = json.loads(line)
        kind, metadata = event["type"], event["object"]["metadata"]
        needed = ("resourceVersion",) if kind == "BOOKMARK" else ("resourceVersion", "uid")
        if kind not in CHANGES or not all(isinstance(metadata[name], str) for name in needed):
            return None
        leave_out_unused(event["object"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return kind, event["object"]
