"""A pod's log as lines with their times, each given once however often the connection breaks."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.state.names import CONTAINER, rank_of
from k8s.state.pods import container_state

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

RETRY_S = 0.5
# What is written to standard error is stamped apart from standard output, and may stand behind a later line.
MARGIN_S = 2


@dataclass(frozen=True)
class Line:
    """A line of a pod's log; at is its time in whole seconds since 1970 and nanoseconds, by which lines are ordered."""

    rank: int
    pod: str
    time: str
    text: str
    at: tuple[int, int]


class Unreadable(Exception):  # noqa: N818 - it is told as a remark, and no error of the command
    """A log cannot be read, as that of a pod on a node that is gone."""


class Cursor:
    """Up to where a log is known.

    The log is asked for from a whole second on, for Kubernetes goes by no finer time; the lines of that second and the
    following that are known already come again then, in the order in which they came, and are left out by counting
    equal ones.

    Args:
        since: the earliest time that is wanted, in seconds since 1970; 0 for all.
    """

    def __init__(self, since: int = 0) -> None:
        self._since = since
        self._known: dict[int, Counter[str]] = {}
        self._again: Counter[str] = Counter()

    def begin(self) -> str:
        """The time from which the log is to be asked for now, RFC 3339; empty for all of it."""
        self._again = sum(self._known.values(), Counter())
        begin = max(self._since, max(self._known) - MARGIN_S) if self._known else self._since
        return datetime.fromtimestamp(begin, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if begin else ""

    def is_new(self, line: str, second: int) -> bool:
        """Whether a line, as it came, is not known yet; from then on it is.

        Args:
            line: with its time.
            second: its time, in whole seconds since 1970.
        """
        if self._again[line]:
            self._again[line] -= 1
            return False
        if second not in self._known:
            self._known[second] = Counter()
            newest = max(self._known)
            self._known = {known: lines for known, lines in self._known.items() if known >= newest - MARGIN_S}
        if second in self._known:
            self._known[second][line] += 1
        return True


def read(
    cluster: Cluster,
    first: Object,
    pod: Callable[[], Object | None],
    cursor: Cursor,
    stop: threading.Event,
    patience_s: Callable[[], float],
) -> Iterator[Line]:
    """The new lines of a pod's log, until its container has ended and all are read, or stop is set.

    Args:
        cluster: where it is.
        first: the pod.
        pod: gives it as it is now; None once it is deleted.
        cursor: up to where the log is known.
        stop: ends it.
        patience_s: for how long a log is tried again that cannot be read.

    Raises:
        Unreadable: it could not be read for so long.
        ApiError: it may not be read.
    """
    name, rank = first["metadata"]["name"], rank_of(first)
    heard = time.monotonic()
    while not stop.is_set():
        over, new = has_ended(pod()), False
        try:
            lines = cluster.logs(name, CONTAINER, follow=not over, since_time=cursor.begin(), timestamps=True)
            for line in lines:
                if (parsed := parse(line, rank, name)) and cursor.is_new(line, parsed.at[0]):
                    new, heard = True, time.monotonic()
                    yield parsed
            # An answer also ends in good order where the connection between API server and node breaks.
            if over and not new:
                return
            heard = time.monotonic()
            problem = ""
        except ApiError as error:
            if error.code == 404 or (error.code == 400 and over):  # deleted; never begun
                return
            if error.code in (401, 403):
                raise
            problem = error.message
        except OSError as error:
            problem = str(error)
        if problem and time.monotonic() - heard > patience_s():
            raise Unreadable(f"the log of rank {rank} cannot be read in pod {name}: {problem}")
        stop.wait(0 if over and new else RETRY_S)


def parse(line: str, rank: int, pod: str) -> Line | None:
    """A line that begins with its time, RFC 3339 in the node's zone; None for what is no line of the log."""
    stamp, _, text = line.partition(" ")
    whole, dot, rest = stamp.partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0] if dot else ""
    zone = rest[len(digits) :]
    try:
        moment = datetime.fromisoformat(whole + zone)
        nanoseconds = int(digits.ljust(9, "0")[:9] or 0)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return Line(rank, pod, stamp, text, (int(moment.timestamp()), nanoseconds))


def has_ended(pod: Object | None) -> bool:
    """Whether the trainer's container has ended, or its pod is deleted."""
    return pod is None or pod["status"]["phase"] in ("Succeeded", "Failed") or "terminated" in container_state(pod)
