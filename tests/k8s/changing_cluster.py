"""A cluster whose state changes each time a command has looked at it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from job import telemetry
from k8s.api.errors import ApiError
from k8s.api.objects import matches
from k8s.state.names import RUN_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from job.telemetry import Record
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object


class ChangingCluster:
    """Plays a cluster with what `status` and `why` use of k8s.api.cluster.Cluster.

    Args:
        moments: the Jobs, pods and events at each look.
        logs: the records in each pod's log; underscores stand for the hyphens of its name.

    Attributes:
        requests: every request, in order.
    """

    namespace, flags, patience_s = "here", "-n here", 30.0

    def __init__(self, *moments: list[Object], **logs: list[Record]) -> None:
        self._moments, self._logs = list(moments), logs
        self.requests: list[str] = []

    def given(self) -> Cluster:
        """Itself, with the type that commands expect."""
        return cast("Cluster", self)

    def get(self, kind: str, name: str) -> Object | None:
        """A Job; no object of another kind exists, and nodes are forbidden."""
        self.requests.append(f"{kind} {name}")
        if kind == "Node":
            raise ApiError(403, "Forbidden", "no", "read nodes")
        if kind == "PersistentVolumeClaim":
            self._next_moment()
        if kind != "Job":
            return None
        return next((one for one in self._now(kind) if one["metadata"]["name"] == name), None)

    def select(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> list[Object]:
        """The objects of a kind with these fields, or those of the team in the selector."""
        self.requests.append(f"{kind} everywhere" if everywhere else f"{kind} {fields}".strip())
        found = [one for one in self._now(kind) if matches(fields, one)]
        if RUN_LABEL in selector:  # no run was retried
            return []
        if "team=" in selector:
            found = [one for one in found if f"team={one['metadata']['labels'].get('team')}" in selector]
        if kind == "Job":
            self._next_moment()
        return found

    def each(self, kind: str, selector: str = "", fields: str = "") -> Iterator[Object]:
        """As select(), one at a time."""
        yield from self.select(kind, selector, fields)

    def _next_moment(self) -> None:
        """A look ends with the claim of one run, or with the list of all Jobs."""
        if len(self._moments) > 1:
            self._moments.pop(0)

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)

    def in_namespace(self, namespace: str) -> Cluster:
        """Itself: all namespaces share the logs."""
        self.requests.append(f"in {namespace}")
        return self.given()

    def keep(self, kind: str, selector: str = "", wanted: object = None, *, everywhere: bool = False) -> None:
        """Objects that are kept change in the same way."""
        self.requests.append(f"watch of {kind} {selector}{'some' if wanted else ''}{' everywhere' * everywhere}")

    def logs(self, name: str, _container: str, *, tail: int) -> Iterator[str]:
        """The last lines of a log, which begins with a line that is no record."""
        self.requests.append(f"log {name}")
        lines = [telemetry.to_logfmt(record) for record in self._logs[name.replace("-", "_")]]
        yield from ["I0000 a note", *lines][-tail:]

    def last_lines(self, name: str, container: str, count: int) -> list[str]:
        """The last lines of a log."""
        return list(self.logs(name, container, tail=count))

    def _now(self, kind: str) -> list[Object]:
        return [one for one in self._moments[0] if kind_of(one) == kind]


def kind_of(one: Object) -> str:
    """The kind of an object, by its fields."""
    if "involvedObject" in one:
        return "Event"
    if "kind" in one:
        return str(one["kind"])
    return "Job" if "completions" in one["spec"] else "Pod"
