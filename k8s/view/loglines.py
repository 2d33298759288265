"""A pod's log as lines with their times, each line once however often the connection breaks."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from k8s.api.errors import ApiError
from k8s.state.names import CONTAINER, rank_of
from k8s.state.pods import container_state

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

RETRY_S = 0.5
# Standard error and standard output get their time stamps separately: a line may stand behind one with a later time.
MARGIN_S = 2


@dataclass(frozen=True)
class Line:
    """A line of a pod's log; at is its time in whole seconds since 1970 and nanoseconds, and orders lines."""

    rank: int
    pod: str
    time: str
    text: str
    at: tuple[int, int]


class UnreadableLogError(Exception):
    """A log cannot be read, for example because its node is gone; the logs of other pods may still be."""


class Cursor:
    """How far a log has been read. It can be read again from there without losing or repeating a line.

    Kubernetes filters a log by whole seconds. The lines of the last seconds are sent again, and are recognised by their
    time stamp and text.

    Args:
        since: read what was written from this moment of time.monotonic() on; None for all. The node computes the time,
            because the clock of this machine may be wrong.
        tail: read only so many last lines of what is there at first; None for all.
    """

    def __init__(self, since: float | None = None, tail: int | None = None) -> None:
        self._since, self._tail = since, tail
        self._newest = 0
        self._recent: set[tuple[int, str]] = set()
        self._first: tuple[int, str] | None = None
        self._before_first = False

    def request(self) -> dict[str, Any]:
        """Arguments of Cluster.logs() that ask for the lines that are not known yet."""
        if not self._first:
            since = {} if self._since is None else {"since_s": max(1, math.ceil(time.monotonic() - self._since))}
            return {"since_time": "", "tail": self._tail, **since}
        # A repeated response may begin with lines that the first one left out, up to the first line that was read.
        self._before_first = (self._tail, self._since) != (None, None) and self._first in self._recent
        begin = datetime.fromtimestamp(self._newest - MARGIN_S, UTC)
        return {"since_time": begin.strftime("%Y-%m-%dT%H:%M:%SZ"), "tail": None}

    def is_new(self, line: str, second: int) -> bool:
        """Whether a line is not known yet; from then on it is.

        Args:
            line: as it was sent, with its time stamp.
            second: its time, in whole seconds since 1970.
        """
        entry = (second, line)
        self._before_first = self._before_first and entry != self._first and second <= self._newest
        if self._before_first or entry in self._recent:
            return False
        self._first = self._first or entry
        if second > self._newest:
            self._newest = second
            self._recent = {known for known in self._recent if known[0] >= second - MARGIN_S}
        self._recent.add(entry)
        return True


def read_log(
    cluster: Cluster,
    pod: Object,
    current: Callable[[], Object | None],
    cursor: Cursor,
    stop: threading.Event,
    patience_s: Callable[[], float],
) -> Iterator[Line]:
    """The new lines of a pod's log, until its container has ended and all are read, or stop is set.

    Args:
        cluster: the namespace that the pod is in.
        pod: the pod, as it was at first.
        current: returns the pod as it is now; None once it is deleted.
        cursor: how far the log has been read.
        stop: ends it.
        patience_s: returns for how long to retry a log that cannot be read.

    Raises:
        UnreadableLogError: it could not be read for so long.
        ApiError: the user may not read it.
    """
    name, rank = pod["metadata"]["name"], rank_of(pod)
    last_news = time.monotonic()
    while not stop.is_set():
        ended, new = trainer_has_ended(current()), False
        try:
            for text in cluster.logs(name, CONTAINER, follow=not ended, timestamps=True, **cursor.request()):
                if (line := parse_line(text, rank, name)) and cursor.is_new(text, line.at[0]):
                    new, last_news = True, time.monotonic()
                    yield line
            # A response also ends without an error if the connection between API server and node breaks: all is read
            # only when nothing new came.
            if ended and not new:
                return
            last_news = time.monotonic()
            problem = ""
        except ApiError as error:
            if error.code == 404 or (error.code == 400 and ended):  # deleted; never started
                return
            if error.code in (401, 403):
                raise
            problem = error.message
        except OSError as error:
            problem = str(error)
        if problem and time.monotonic() - last_news > patience_s():
            raise UnreadableLogError(f"the log of rank {rank} cannot be read in pod {name}: {problem}")
        stop.wait(0 if ended and new else RETRY_S)


def read_stored(
    path: Path, rank: int, present: Collection[str], since: datetime | None, tail: int | None
) -> Iterator[Line]:
    """The lines of a copy of a rank's log from the volume, `TIME POD TEXT`.

    Args:
        path: the copy.
        rank: the rank.
        present: the names of the pods whose lines are left out, because the cluster still has them.
        since: leave out what was written before; None for nothing.
        tail: only so many last lines of each pod; None for all.
    """
    by_pod: dict[str, deque[Line]] = {}
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for written in file:
            stamp, _, rest = written.partition(" ")
            pod, _, text = rest.partition(" ")
            line = parse_line(f"{stamp} {text[:-1]}", rank, pod) if text.endswith("\n") else None  # else it is torn
            if line is None or pod in present or (since and line.at[0] < since.timestamp()):
                continue
            if tail is None:
                yield line
            else:
                by_pod.setdefault(pod, deque(maxlen=tail)).append(line)
    yield from chain.from_iterable(by_pod.values())


def parse_line(line: str, rank: int, pod: str) -> Line | None:
    """A line that begins with its time, RFC 3339 in the node's time zone; None if it does not."""
    stamp, _, text = line.partition(" ")
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    fraction = re.search(r"\.([0-9]+)", stamp)  # datetime keeps only microseconds
    nanoseconds = int(fraction[1].ljust(9, "0")[:9]) if fraction else 0
    return Line(rank, pod, stamp, text, (int(moment.timestamp()), nanoseconds))


def trainer_has_ended(pod: Object | None) -> bool:
    """Whether the trainer's container has ended, or its pod is deleted."""
    return pod is None or pod["status"]["phase"] in ("Succeeded", "Failed") or "terminated" in container_state(pod)
