"""A set of objects that a list and watches keep up to date."""

from __future__ import annotations

import json
import random
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.api.requests import TEMPORARY

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Iterator

    from k8s.api.objects import Object

FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 5.0  # between two watches
GONE = 410  # the version to continue from is too old


def watch(
    list_objects: Callable[[], tuple[list[Object], str]],
    open_watch: Callable[[str], Generator[str]],
    stop: threading.Event,
) -> Iterator[dict[str, Object]]:
    """The objects by UID: first as they are, then again after each change, until stop is set.

    A watch that ends normally continues where it ended. One that breaks starts again from a new list, after a pause
    that grows while no watch brings news.

    Args:
        list_objects: gives the objects, and their version.
        open_watch: gives the lines of a watch that begins after a version.
        stop: ends the iteration.

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
        began, current = time.monotonic(), Watch(open_watch(version), version)
        try:
            for event in current.changes(stop):
                item = event["object"]
                if event["type"] == "DELETED":
                    known.pop(item["metadata"]["uid"], None)
                else:
                    known[item["metadata"]["uid"]] = item
                yield dict(known)
        except ApiError as error:
            if error.code not in TEMPORARY | {GONE}:
                raise
        version = current.version
        useful = current.has_news or time.monotonic() - began > LAST_PAUSE_S
        pause_s = FIRST_PAUSE_S if useful else min(2 * pause_s, LAST_PAUSE_S)
        stop.wait(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret


class Watch:
    """One watch.

    Args:
        lines: its response.
        version: after which it began.

    Attributes:
        version: from which the next watch continues; empty unless this one has ended normally.
        has_news: whether it brought anything.
    """

    def __init__(self, lines: Generator[str], version: str) -> None:
        self._lines, self._newest = lines, version
        self.version, self.has_news = "", False

    def changes(self, stop: threading.Event) -> Iterator[Object]:
        """Its events, without bookmarks, until it ends or breaks or stop is set."""
        with suppress(OSError, ValueError), closing(self._lines):
            for line in self._lines:
                event = json.loads(line)
                if stop.is_set() or event["type"] == "ERROR":
                    return
                self._newest, self.has_news = event["object"]["metadata"]["resourceVersion"], True
                if event["type"] != "BOOKMARK":
                    yield event
            self.version = self._newest
