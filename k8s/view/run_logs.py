"""The logs of a run: first the lines that exist, by time, from the volume where pods are gone; then new lines."""

from __future__ import annotations

import heapq
import math
import queue
import re
import threading
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from job.errors import JobError
from job.output.layout import LOGS
from k8s.api.errors import ApiError, LauncherError
from k8s.diagnose.queueing import was_evicted
from k8s.state.find import workloads_of
from k8s.state.names import INDEX_LABEL, QUEUE_LABEL, UID_LABEL, pod_selector, rank_of, run_name
from k8s.state.pods import created, failures, started
from k8s.state.run import Run, is_settled, state
from k8s.view import loglines
from k8s.view.loglines import Cursor, Line, UnreadableLogError
from k8s.view.output import note

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

QUEUED = 1000  # lines that wait to be shown
PATIENCE_S = 15.0  # to wait for a log that cannot be read and has no writer


class RunLogs:
    """The logs of a run.

    Args:
        cluster: the namespace that the run is in.
        job: its Job.
        ranks: those to read.
        since: the moment of time.monotonic() from which on to read; None for all.
        tail: begin with so many last lines of each pod; None for all.
        show: receives each line.
        stored: copies the logs of some ranks from the volume into a folder; raises JobError or LauncherError.
    """

    def __init__(
        self,
        cluster: Cluster,
        job: Object,
        ranks: set[int],
        since: float | None,
        tail: int | None,
        show: Callable[[Line], object],
        stored: Callable[[set[int], Path], object],
    ) -> None:
        self._cluster, self._job, self._ranks, self._since, self._tail = cluster, job, ranks, since, tail
        self._show, self._stored = show, stored
        # The UID leaves out the pods of an earlier Job of this name.
        self._selector = f"{pod_selector(job['metadata']['name'])},{UID_LABEL}={job['metadata']['uid']}"
        if len(ranks) < Run(job).workers:
            self._selector += f",{INDEX_LABEL} in ({','.join(map(str, sorted(ranks)))})"
        self._pods: dict[str, Object] = {}
        self._cursors: dict[str, Cursor] = {}
        self._followed: dict[str, Object] = {}
        self._news: queue.Queue[Any] = queue.Queue(QUEUED)
        self._stop = threading.Event()
        self._ended = False  # whether the run has

    def show_past(self) -> None:
        """Show what the logs hold now, and say which are missing."""
        self._select_pods()
        with ExitStack() as stack:
            self._show_past(self._read_stored(stack))

    def _read_stored(self, stack: ExitStack) -> list[Iterator[Line]]:
        """The lines of pods that are gone, by rank, to be read until `stack` closes; a note says which are missing."""
        found: dict[int, Iterator[Line]] = {}
        since = clock_time(self._cluster, self._since)
        ranks = self._ranks - ranks_since(self._pods.values(), since)
        if missing_logs(self._job, self._pods.values(), ranks) or (ranks and self._has_earlier_pods()):
            try:
                folder = Path(stack.enter_context(TemporaryDirectory()))
                self._stored(ranks, folder)
            except (LauncherError, JobError, OSError) as problem:
                note(f"the logs on the volume were not read: {problem}")
            else:
                self._select_pods()  # each pod whose lines were copied is either among these or gone
                names = {pod["metadata"]["name"] for pod in self._pods.values()}
                for rank, path in log_files(folder):
                    if any(loglines.read_stored(path, rank, names, None, None)):
                        found[rank] = loglines.read_stored(path, rank, names, since, self._tail)
        for text in missing_logs(self._job, self._pods.values(), ranks - found.keys()):
            note(text)
        return list(found.values())

    def _has_earlier_pods(self) -> bool:
        """Whether pods were deleted without a trace: the run's Job replaced another, or was suspended and resumed."""
        metadata = self._job["metadata"]
        if run_name(self._job) != metadata["name"]:
            return True
        conditions = self._job["status"].get("conditions", [])
        resumed = any(each["type"] == "Suspended" and each["status"] == "False" for each in conditions)
        if not resumed or QUEUE_LABEL not in metadata.get("labels", {}):
            return resumed
        try:  # Kueue resumes each Job that it admits for the first time
            return was_evicted(workloads_of(self._cluster, self._job))
        except ApiError:  # this user may not read Workloads
            return False

    def _show_past(self, stored: list[Iterator[Line]]) -> None:
        patience_s = PATIENCE_S

        def lines(uid: str, pod: Object) -> Iterator[Line]:
            nonlocal patience_s
            ended = {**pod, "status": {"phase": "Succeeded"}}  # so that the log is read only to its current end
            cursor = self._cursors[uid] = Cursor(self._since, self._tail)
            try:
                yield from loglines.read_log(self._cluster, pod, lambda: ended, cursor, self._stop, lambda: patience_s)
            except UnreadableLogError as problem:
                patience_s = 0.0  # the other ranks of a node that is gone must not take as long again
                note(str(problem))

        logs = [lines(uid, pod) for uid, pod in self._pods.items() if started(pod)]
        for line in merged([*stored, *logs]):
            self._show(line)

    def follow(self) -> None:
        """Show new lines until the run has ended and all are shown."""
        self._cluster.patience_s = math.inf
        run, uid = Run(self._job), self._job["metadata"]["uid"]
        if state(run).word == "suspended":
            note(f"{run.name} is suspended; waiting for it to be resumed")
        self._start(self._watch, "Job", "", f"metadata.name={self._job['metadata']['name']}")
        self._start(self._watch, "Pod", self._selector, "")
        reading: set[str] = set()
        try:
            while not self._ended or reading:
                kind, news = self._news.get()
                if kind == "line":
                    self._show(news)
                elif kind == "unreadable":
                    note(str(news))
                elif kind == "closed":
                    reading.remove(news)
                elif kind == "error":
                    raise news
                elif kind == "Pod":
                    self._keep_pods(news.values())
                    reading |= self._follow_started()
                elif kind == "Job" and not self._ended:
                    self._job = news.get(uid, {})
                    if is_settled(self._job):
                        self._select_pods()  # the watch may not have brought the last of them yet
                        reading |= self._follow_started()
                        self._ended = True
        finally:
            self._stop.set()
        note(conclusion(run.name, self._job, self._pods.values(), self._cluster.flags))

    def _select_pods(self) -> None:
        self._keep_pods(self._cluster.select("Pod", self._selector))

    def _keep_pods(self, pods: Iterable[Object]) -> None:
        self._pods = {pod["metadata"]["uid"]: pod for pod in pods if rank_of(pod) in self._ranks}

    def _follow_started(self) -> set[str]:
        """Start to follow the logs of pods that have started since; returns the UIDs of these pods."""
        new = {uid: pod for uid, pod in self._pods.items() if uid not in self._followed and started(pod)}
        for uid, pod in new.items():
            if uid not in self._cursors:
                earlier = [p for p in self._followed.values() if rank_of(p) == rank_of(pod)]
                if earlier:
                    old, name = earlier[-1]["metadata"]["name"], pod["metadata"]["name"]
                    note(f"rank {rank_of(pod)}: pod {name} replaces {old}")
            self._followed[uid] = pod
            self._start(self._read, uid, self._cursors.setdefault(uid, Cursor(self._since)))
        return set(new)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        """Run a function in a thread; an error of it ends follow()."""

        def guarded() -> None:
            try:
                work(*arguments)
            except Exception as error:  # noqa: BLE001 - whatever ends the thread, follow() raises it
                self._news.put(("error", error))

        threading.Thread(target=guarded, daemon=True).start()

    def _watch(self, kind: str, selector: str, fields: str) -> None:
        for objects in self._cluster.watch(kind, selector, fields, self._stop):
            self._news.put((kind, objects))

    def _read(self, uid: str, cursor: Cursor) -> None:
        def patience_s() -> float:
            return PATIENCE_S if self._ended else math.inf

        pod = self._followed[uid]
        try:
            for line in loglines.read_log(
                self._cluster, pod, lambda: self._pods.get(uid), cursor, self._stop, patience_s
            ):
                self._news.put(("line", line))
        except UnreadableLogError as problem:
            self._news.put(("unreadable", problem))
        self._news.put(("closed", uid))


def merged(logs: Iterable[Iterator[Line]]) -> Iterator[Line]:
    """The lines of several logs in the order of time."""
    return heapq.merge(*logs, key=lambda line: line.at)


def clock_time(cluster: Cluster, moment: float | None) -> datetime | None:
    """The time by the API server's clock at a moment of time.monotonic(); None for none."""
    return None if moment is None else cluster.now() - timedelta(seconds=time.monotonic() - moment)


def log_files(folder: Path) -> list[tuple[int, Path]]:
    """The ranks and the paths of the logs in a copy of a run's folder."""
    found = [(re.fullmatch(r"rank-(\d+)\.log", path.name), path) for path in (folder / LOGS).glob("*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def ranks_since(pods: Iterable[Object], since: datetime | None) -> set[int]:
    """The ranks whose newest pod was created no later than a time; empty if `since` is None.

    Earlier pods of these ranks have written nothing after that time.
    """
    newest = {rank_of(pod): pod for pod in sorted(pods, key=created)}
    return {rank for rank, pod in newest.items() if since and datetime.fromisoformat(created(pod)) <= since}


def conclusion(name: str, job: Object, pods: Iterable[Object], flags: str) -> str:
    """What to say once all lines are shown.

    Args:
        name: of the run.
        job: its Job; empty if it was deleted.
        pods: the run's.
        flags: those that select the namespace.
    """
    if not job:
        return f"{name} was deleted"
    now = state(Run(job, tuple(pods)))
    failed = now.ended and now.word != "published"
    return f"{name} is {now}" + (f"; `mnist-job why {name} {flags}` says why" if failed else "")


def missing_logs(job: Object, pods: Collection[Object], ranks: set[int]) -> list[str]:
    """Which logs are missing because their pods were deleted: of whole ranks, and of pods that were replaced."""
    notes = []
    pods_by_rank = {rank: sorted((p for p in pods if rank_of(p) == rank), key=created) for rank in sorted(ranks)}
    without = ", ".join(f"rank {rank}" for rank, present in pods_by_rank.items() if not present)
    if without and is_settled(job):
        notes.append(f"logs deleted with their pods when the run ended: {without}")
    elif without and job["spec"].get("suspend"):
        notes.append(f"logs deleted with their pods when the run was suspended: {without}")
    for rank, present in pods_by_rank.items():
        earlier = failures(present[-1]) - len(present[:-1]) if present else 0
        if earlier > 0:
            notes.append(f"logs deleted with earlier pods of rank {rank}: {earlier}")
    return notes
