"""logs: show the log of every rank, live until the run has ended."""

from __future__ import annotations

import heapq
import json
import math
import os
import queue
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from job.config import parse_duration, usage
from k8s.api.errors import LauncherError
from k8s.state.names import INDEX_LABEL, UID_LABEL, pods_of, rank_of
from k8s.state.pods import created, started
from k8s.state.run import Run, is_settled, job_of, state
from k8s.view import loglines
from k8s.view.loglines import Cursor, Line, Unreadable
from k8s.view.output import note

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

EARLIER = ("batch.kubernetes.io/job-index-failure-count", "batch.kubernetes.io/job-index-ignored-failure-count")
COLOURS = ("36", "33", "32", "35", "34", "31")
AT_A_TIME = 50  # ranks: each takes a connection, through the API server to a node, and a thread
QUEUED = 1000  # lines that wait to be shown
PATIENCE_S = 15.0  # for a log that cannot be read where nothing more can come


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `logs` takes."""
    add = parser.add_argument
    add("name", metavar="NAME", help="the run")
    add("--rank", type=int, action="append", default=[], metavar="N", help="only this rank; may be given several times")
    add("--since", metavar="TIME", help="only what is newer, as 90s, 10m or 1h")
    add("--grep", metavar="REGEX", help="only lines in which it is found")
    add("--no-follow", action="store_true", help="show what is there, and end")


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Show the logs of a run; returns the exit status."""
    try:
        pattern = re.compile(arguments.grep or "")
    except re.error as error:
        raise usage(f"--grep must be a regular expression, not {arguments.grep!r}: {error}") from None
    since = int(time.time()) - parse_duration("--since", arguments.since) if arguments.since else 0
    cluster = connect()
    job = job_of(cluster, arguments.name)
    workers = Run(job).workers
    for rank in arguments.rank:
        if not 0 <= rank < workers:
            raise usage(f"--rank must be from 0 to {workers - 1} for {arguments.name}, not {rank}")
    show = Shown(workers, pattern, as_json=arguments.output == "json")
    ranks = sorted(set(arguments.rank or range(workers)))
    if len(ranks) > AT_A_TIME:
        left = f"{ranks[0]} to {ranks[AT_A_TIME - 1]} of {len(ranks)}"
        show.remark(f"at most {AT_A_TIME} ranks are shown at a time, here {left}; --rank names others")
    logs = Logs(cluster, job, set(ranks[:AT_A_TIME]), since, show)
    logs.past()
    if not arguments.no_follow and not is_settled(job):
        logs.follow()
    return 0


class Shown:
    """Shows lines on standard output, and remarks on standard error.

    Args:
        ranks: how many there are.
        pattern: which lines are shown.
        as_json: whether each line is a JSON object.
    """

    def __init__(self, ranks: int, pattern: re.Pattern[str], *, as_json: bool) -> None:
        self._width, self._pattern, self._as_json = len(str(ranks - 1)), pattern, as_json
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def line(self, line: Line) -> None:
        """Show a line of a log."""
        if not self._pattern.search(line.text):
            return
        if self._as_json:
            fields = {"rank": line.rank, "pod": line.pod, "time": line.time, "line": line.text}
            print(json.dumps(fields), flush=True)
            return
        prefix = f"rank {line.rank:>{self._width}} |"
        if self._colour:
            prefix = f"\x1b[{COLOURS[line.rank % len(COLOURS)]}m{prefix}\x1b[0m"
        print(prefix, line.text, flush=True)

    def remark(self, text: str) -> None:
        """Say what is to be known beside the lines."""
        note(text)


class Logs:
    """The logs of a run's pods: first what is there, in the order of time, then what comes, as it comes.

    Args:
        cluster: where the run is.
        job: its Job.
        ranks: those whose logs are wanted.
        since: the earliest time that is wanted, in seconds since 1970; 0 for all.
        show: shows them.
    """

    def __init__(self, cluster: Cluster, job: Object, ranks: set[int], since: int, show: Shown) -> None:
        self._cluster, self._job, self._ranks, self._since, self._show = cluster, job, ranks, since, show
        # Not those of an earlier Job of this name.
        self._selector = f"{pods_of(job['metadata']['name'])},{UID_LABEL}={job['metadata']['uid']}"
        if len(ranks) < Run(job).workers:
            self._selector += f",{INDEX_LABEL} in ({','.join(map(str, sorted(ranks)))})"
        self._pods: dict[str, Object] = {}
        self._cursors: dict[str, Cursor] = {}
        self._begun: dict[str, Object] = {}  # the pods whose logs are read, or were
        self._news: queue.Queue[Any] = queue.Queue(QUEUED)
        self._stop = threading.Event()
        self._over = False  # whether the run has ended

    def past(self) -> None:
        """Show what the logs hold now, and say which are gone."""
        self._select()
        for text in gone(self._job, list(self._pods.values()), self._ranks):
            self._show.remark(text)

        patience_s = PATIENCE_S

        def lines(uid: str, pod: Object) -> Iterator[Line]:
            nonlocal patience_s
            ended = {**pod, "status": {"phase": "Succeeded"}}  # to its present end, and no further
            cursor = self._cursors[uid] = Cursor(self._since)
            try:
                yield from loglines.read(self._cluster, pod, lambda: ended, cursor, self._stop, lambda: patience_s)
            except Unreadable as problem:
                patience_s = 0.0  # or a node that is away would take as long again for each of its ranks
                self._show.remark(str(problem))

        begun = [lines(uid, pod) for uid, pod in self._pods.items() if started(pod)]
        for line in heapq.merge(*begun, key=lambda line: line.at):
            self._show.line(line)

    def follow(self) -> None:
        """Show what comes, until the run has ended and all is shown."""
        self._cluster.patience_s = math.inf
        name, uid = self._job["metadata"]["name"], self._job["metadata"]["uid"]
        if state(Run(self._job)).word == "suspended":
            self._show.remark(f"{name} is suspended; waiting for it to go on")
        self._start(self._watch, "Job", "", f"metadata.name={name}")
        self._start(self._watch, "Pod", self._selector, "")
        reading: set[str] = set()
        try:
            while not self._over or reading:
                kind, news = self._news.get()
                if kind == "line":
                    self._show.line(news)
                elif kind == "remark":
                    self._show.remark(news)
                elif kind == "closed":
                    reading.remove(news)
                elif kind == "error":
                    raise news
                elif kind == "Pod":
                    self._take(news.values())
                    reading |= self._read()
                elif kind == "Job" and not self._over:
                    self._job = news.get(uid, {})
                    if is_settled(self._job):
                        self._select()  # the watch may not have shown the last of them yet
                        reading |= self._read()
                        self._over = True
        finally:
            self._stop.set()
        self._show.remark(conclusion(name, self._job, self._pods.values()))

    def _select(self) -> None:
        self._take(self._cluster.select("Pod", self._selector))

    def _take(self, pods: Iterable[Object]) -> None:
        self._pods = {pod["metadata"]["uid"]: pod for pod in pods if rank_of(pod) in self._ranks}

    def _read(self) -> set[str]:
        """Begin to read the logs that have begun since; gives the UIDs of their pods."""
        new = {uid: pod for uid, pod in self._pods.items() if uid not in self._begun and started(pod)}
        for uid, pod in new.items():
            if uid not in self._cursors:
                replaced = [p for p in self._begun.values() if rank_of(p) == rank_of(pod)]
                if replaced:
                    was, now = replaced[-1]["metadata"]["name"], pod["metadata"]["name"]
                    self._show.remark(f"rank {rank_of(pod)}: pod {now} has taken the place of {was}")
            self._begun[uid] = pod
            self._start(self._listen, uid, self._cursors.setdefault(uid, Cursor(self._since)))
        return set(new)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except LauncherError as error:
                self._news.put(("error", error))

        threading.Thread(target=guarded, daemon=True).start()

    def _watch(self, kind: str, selector: str, fields: str) -> None:
        for found in self._cluster.watch(kind, selector, fields, self._stop):
            self._news.put((kind, found))

    def _listen(self, uid: str, cursor: Cursor) -> None:
        try:
            for line in loglines.read(
                self._cluster,
                self._begun[uid],
                lambda: self._pods.get(uid),
                cursor,
                self._stop,
                lambda: PATIENCE_S if self._over else math.inf,
            ):
                self._news.put(("line", line))
        except Unreadable as problem:
            self._news.put(("remark", str(problem)))
        self._news.put(("closed", uid))


def conclusion(name: str, job: Object, pods: Iterable[Object]) -> str:
    """What to say once all is shown."""
    if not job:
        return f"{name} was deleted"
    now = state(Run(job, tuple(pods)))
    failed = now.ended and now.word != "published"
    return f"{name} is {now}" + (f"; `mnist-job why {name}` says why" if failed else "")


def gone(job: Object, pods: Sequence[Object], ranks: set[int]) -> list[str]:
    """Which logs are gone, for their pods were deleted: of whole ranks, and of pods that were replaced."""
    found = []
    of_rank = {rank: sorted((p for p in pods if rank_of(p) == rank), key=created) for rank in sorted(ranks)}
    none = [rank for rank, there in of_rank.items() if not there]
    if none and is_settled(job):
        found.append(f"the logs of {named(none)} are gone: they were deleted with their pods when the run ended")
    elif none and job["spec"].get("suspend"):
        found.append(f"{named(none)} had no pods while suspended, and what the earlier ones wrote is gone with them")
    for rank, there in of_rank.items():
        if not there:
            continue
        annotations = there[-1]["metadata"].get("annotations", {})
        lost = sum(int(annotations.get(name, 0)) for name in EARLIER) - len(there[:-1])
        if lost > 0:
            found.append(
                f"rank {rank}: the logs of {lost} earlier pod{'s' * (lost > 1)} are gone: deleted with the pods"
            )
    return found


def named(ranks: Sequence[int]) -> str:
    """Ranks as a sentence has them."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
