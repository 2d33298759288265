"""A cluster that is a few dicts, with what the commands use of k8s.cluster.Cluster; and objects to put into it."""

from __future__ import annotations

import copy
import itertools
import random
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from k8s.api.errors import ApiError
from k8s.api.objects import matches
from k8s.state.names import APP, CONTAINER, INDEX_LABEL, JOB_NAME_LABEL, NAME_LABEL, QUEUE_LABEL

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

ROOT = Path(__file__).parents[2]
UID_LABEL = "batch.kubernetes.io/controller-uid"
VOLUME_POD = "mnist-job-volume-"
TEMPLATE = {"metadata": {"labels": {}}, "spec": {"containers": [{"name": CONTAINER}]}}


class FakeCluster:
    """Objects by kind and name, changed at once and by nobody else.

    Attributes:
        objects: what there is.
        asked: every change that was asked for: verb, kind, and the object, the change or the name.
        texts: the logs, by pod's name.
        command: what runs in a container.
        stdin: the input of the last command.
        pod_status: the status of a pod that is created.
        forbidden: what may not be done: verb, kind and subresource.
        said: the lines about waits.
    """

    def __init__(self, *objects: Object) -> None:
        self.namespace, self.flags, self.patience_s = "here", "-n here", 30.0
        self.objects = {(found["kind"], found["metadata"]["name"]): found for found in objects}
        self.asked: list[tuple[str, str, Any]] = []
        self.texts: dict[str, Log] = {}
        self.command: Callable[[Sequence[str], Callable[[bytes], Any]], tuple[int, str]] | None = None
        self.stdin = b""
        self.pod_status: Object = {"phase": "Running"}
        self.forbidden: set[tuple[str, str, str]] = set()
        self.said: list[str] = []
        self.say = self.said.append
        self._numbers = itertools.count(1)

    def given(self) -> Cluster:
        """This, as the commands take it."""
        return cast("Cluster", self)

    def get(self, kind: str, name: str) -> Object | None:
        """An object."""
        return copy.deepcopy(self.objects.get((kind, name)))

    def select(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> list[Object]:
        """The objects with these labels; everywhere is here."""
        del everywhere
        assert not fields or kind == "Event"
        found = [one for (its, _), one in self.objects.items() if its == kind and matches(fields, one)]
        return [copy.deepcopy(one) for one in found if selects(selector, one["metadata"].get("labels", {}))]

    def each(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> Iterator[Object]:
        """As select(), one at a time."""
        yield from self.select(kind, selector, fields, everywhere=everywhere)

    def in_namespace(self, _namespace: str) -> Cluster:
        """Itself: everything is in one namespace."""
        return self.given()

    def watch(self, kind: str, selector: str, fields: str, stop: threading.Event) -> Iterator[dict[str, Object]]:
        """The objects as they are, whenever that changes."""
        name = fields.removeprefix("metadata.name=")
        shown = None
        while not stop.is_set():
            found = [one for one in self.select(kind, selector) if name in ("", one["metadata"]["name"])]
            now = {one["metadata"]["uid"]: one for one in found}
            if now != shown:
                shown = now
                yield now
            stop.wait(0.001)

    def create(self, new: Object, *, dry_run: bool = False) -> Object:
        """Create an object."""
        self.asked.append(("dry-run" if dry_run else "create", new["kind"], copy.deepcopy(new)))
        made = copy.deepcopy(new)
        prefix = made["metadata"].pop("generateName", "")
        made["metadata"].setdefault("name", f"{prefix}{next(self._numbers)}")
        made["metadata"]["uid"] = f"uid-{next(self._numbers)}"
        made["metadata"]["creationTimestamp"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        if new["kind"] == "Pod":
            made["status"] = self.pod_status
        key = (new["kind"], made["metadata"]["name"])
        if key in self.objects:
            raise ApiError(409, "AlreadyExists", f"{key} already exists", "create it")
        if not dry_run:
            self.objects[key] = made
        return copy.deepcopy(made)

    def patch(self, kind: str, name: str, change: Object, subresource: str = "") -> Object:
        """Change an object, if it is still of the version in the change."""
        self.asked.append(("patch", f"{kind}/{subresource}" if subresource else kind, change))
        there, version = self.objects[kind, name], change.get("metadata", {}).get("resourceVersion")
        if version not in (None, there["metadata"].get("resourceVersion")):
            raise ApiError(409, "Conflict", "the object has been modified", "change it")
        self.objects[kind, name] = self._next_version(merged(there, change))
        return copy.deepcopy(self.objects[kind, name])

    def replace(self, new: Object, *, dry_run: bool = False) -> Object:
        """Put an object in the place of one, if that is still of its version."""
        self.asked.append(("dry-run" if dry_run else "replace", new["kind"], copy.deepcopy(new)))
        there = self.objects[new["kind"], new["metadata"]["name"]]["metadata"]
        if new["metadata"].get("resourceVersion") not in (None, there.get("resourceVersion")):
            raise ApiError(409, "Conflict", "the object has been modified", "replace it")
        made = copy.deepcopy(new)
        if not dry_run:
            self.objects[new["kind"], new["metadata"]["name"]] = self._next_version(made)
        return made

    def delete(self, kind: str, name: str, *, grace_s: int | None = None, uid: str = "", orphan: bool = False) -> None:
        """Delete an object, and forget whose its Jobs were."""
        assert grace_s in (None, 0)
        self.asked.append(("orphan" if orphan else "delete", kind, name))
        if (kind, name) in self.objects and uid in ("", self.objects[kind, name]["metadata"]["uid"]):
            del self.objects[kind, name]

    def _next_version(self, one: Object) -> Object:
        if "resourceVersion" in one["metadata"]:
            one["metadata"]["resourceVersion"] = str(next(self._numbers))
        return one

    def may(self, verb: str, kind: str, subresource: str = "") -> bool:
        """Whether that may be done."""
        return (verb, kind, subresource) not in self.forbidden

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)

    def logs(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        since_time: str = "",
        tail: int | None = None,
        timestamps: bool = False,
        since_s: int | None = None,
    ) -> Iterator[str]:
        """A log's lines; since_s counts from the end of 2026-01-01T00:00."""
        if since_s is not None:
            since_time = f"{datetime(2026, 1, 1, 0, 1, tzinfo=UTC) - timedelta(seconds=since_s):%Y-%m-%dT%H:%M:%SZ}"
        assert container == CONTAINER
        if ("Pod", pod) not in self.objects:
            raise ApiError(404, "NotFound", f"no pod {pod}", "read its log")
        if pod not in self.texts:
            raise ApiError(400, "BadRequest", f"container in pod {pod} is waiting to start", "read its log")
        assert timestamps
        lines = self.texts[pod].read(since_time, follow=follow)
        return lines if tail is None else itertools.islice(lines, max(self.texts[pod].written - tail, 0), None)

    def run_in(
        self,
        pod: str,
        container: str,
        command: Sequence[str],
        write: Callable[[bytes], Any],
        stdin: Iterable[bytes] = (),
    ) -> tuple[int, str]:
        """Run a command."""
        assert ("Pod", pod) in self.objects
        assert container == "volume"
        assert self.command
        self.stdin = b"".join(stdin)
        return self.command(command, write)


class VolumeCluster(FakeCluster):
    """A cluster whose volume pod runs its commands on a folder in place of the volume of the claim `output`.

    Args:
        root: the folder.
        objects: what there is besides the claim.
        seed: of the moments at which a connection is cut, always once at least; None: it never is.

    Attributes:
        commands: those that ran, as one text each.
        cuts: how often a connection was cut.
        breaks: words of commands whose connection breaks once, after they are done.
    """

    def __init__(self, root: Path, *objects: Object, seed: int | None = None) -> None:
        claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "output"}}
        claim |= {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
        super().__init__(*objects, claim)
        root.mkdir(exist_ok=True)
        self.root, self.command = root, self.run
        self.commands, self.breaks, self.cuts = list[str](), list[str](), 0
        self._random = random.Random(seed) if seed is not None else None  # noqa: S311 - no secret

    def run(self, command: Sequence[str], write: Callable[[bytes], Any]) -> tuple[int, str]:
        """Run a command; a part of its output comes before a cut."""
        self.commands.append(" ".join(command))
        [pod] = [one for (kind, name), one in self.objects.items() if kind == "Pod" and name.startswith(VOLUME_POD)]
        [mount] = [m for m in pod["spec"]["containers"][0]["volumeMounts"] if m["name"] == "output"]
        assert not mount.get("readOnly") or not {"promote", "--yes", "sh"} & set(command)
        here = [re.sub(r"^((?:--[a-z]+=)?)/(?:output|tmp)\b", rf"\g<1>{self.root}", word) for word in command]
        here = [sys.executable if word == "python" else word for word in here]
        done = subprocess.run(here, input=self.stdin, capture_output=True, check=False, cwd=ROOT)
        output = done.stdout.replace(str(self.root).encode(), b"/output")
        if self._random and (self.cuts == 0 or self._random.random() < 0.6):
            self.cuts += 1
            write(output[: self._random.randrange(len(output) + 1)])
            raise ConnectionError("cut")
        if self.breaks and self.breaks[0] in command:
            self.breaks.pop(0)
            raise ConnectionError("cut")
        write(output)
        return done.returncode, done.stderr.decode().replace(str(self.root), "/output")


def selects(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether a label selector of `a=b` and `a in (b,c)` selects what has these labels."""
    parts = re.findall(r"([^,= ]+)(?:=([^,]*)| in \(([^)]*)\))", selector)
    return all(labels.get(name) in (values.split(",") if values else [value]) for name, value, values in parts)


class Log:
    """The log of a container that writes on while it is read, over connections that are cut.

    Args:
        lines: with their times, in the order in which they stand in the log.
        seed: of the moments at which a connection is cut; None: it never is.
        ends: called once the last line is written.
    """

    def __init__(self, lines: Sequence[str], seed: int | None = None, ends: Callable[[], None] = lambda: None) -> None:
        self._lines, self._ends = lines, ends
        self._random = random.Random(seed) if seed is not None else None  # noqa: S311 - no secret
        self.written = self._furthest = 0
        self.connections = 0

    def read(self, since_time: str, *, follow: bool) -> Iterator[str]:
        """What a request gives; lines are written meanwhile where it follows."""
        self.connections += 1
        since = datetime.fromisoformat(since_time) if since_time else datetime.fromtimestamp(0, UTC)
        # What is not followed ends only where something new was given, or as a whole.
        cut = self._furthest + self._random.randrange(not follow, 12) if self._random else len(self._lines) + 1
        for position in itertools.count():
            if follow and position == self.written < len(self._lines):
                self.written += 1
                if self.written == len(self._lines):
                    self._ends()
            if position == cut and self._random and self._random.random() < 0.7:
                raise ConnectionError("cut")
            if position in (cut, self.written):
                return  # as at its end, and as where an API server stops in good order
            line = self._lines[position]
            self._furthest = max(self._furthest, position + 1)
            if datetime.fromisoformat(cut_to_microseconds(line.split(" ")[0])) >= since:
                yield line


def cut_to_microseconds(stamp: str) -> str:
    """A time in nanoseconds, as datetime reads it."""
    return re.sub(r"(\.\d{6})\d*", r"\1", stamp)


def merged(target: Object, change: Object) -> Object:
    """RFC 7386."""
    result = dict(target)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key) or {}, value) if isinstance(value, dict) else value
    return result


def job(
    name: str = "digits", *conditions: str, suspend: bool = False, queue: str = "", annotations: Object | None = None
) -> Object:
    """A Job of two workers, with what the commands look at."""
    labels = {NAME_LABEL: APP} | ({QUEUE_LABEL: queue} if queue else {})
    metadata = {"name": name, "uid": f"{name}-uid", "labels": labels, "annotations": annotations or {}}
    return {
        "kind": "Job",
        "metadata": metadata | {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"completions": 2, "parallelism": 2, "suspend": suspend, "template": copy.deepcopy(TEMPLATE)},
        "status": {
            "conditions": [{"type": condition, "status": "True", "reason": "Broken"} for condition in conditions]
        },
    }


def volume_job(name: str, *conditions: str, day: int = 1, claim: str = "output", **fields: Any) -> Object:
    """A Job that was created on a day of 2026-11, with a pod template that mounts a claim."""
    found = job(name, *conditions, **fields)
    volumes = [{"name": "output", "persistentVolumeClaim": {"claimName": claim}}]
    mounts = [{"name": "output", "mountPath": "/output"}]
    containers = [{"name": CONTAINER, "image": "mine:1", "volumeMounts": mounts}]
    found["spec"]["template"] = {"spec": {"containers": containers, "volumes": volumes}}
    found["metadata"]["creationTimestamp"] = f"2026-11-{day:02}T06:00:00Z"
    return found


def pod(
    name: str, rank: int, state: str = "running", created: str = "2026-01-01T00:00:00Z", failures: int = 0
) -> Object:
    """A pod of the Job `digits`; state is its container's."""
    labels = {NAME_LABEL: APP, JOB_NAME_LABEL: "digits", INDEX_LABEL: str(rank), UID_LABEL: "digits-uid"}
    annotations = {"batch.kubernetes.io/job-index-failure-count": str(failures)}
    metadata = {"name": name, "uid": f"{name}-uid", "labels": labels, "annotations": annotations}
    phase = {"waiting": "Pending", "running": "Running", "terminated": "Succeeded"}[state]
    return {
        "kind": "Pod",
        "metadata": metadata | {"creationTimestamp": created},
        "status": {"phase": phase, "containerStatuses": [{"name": CONTAINER, "state": {state: {}}}]},
    }
