"""How --wait follows a run: its pods' way to the first step, then the training, then how it ended."""

from __future__ import annotations

import dataclasses
import json
import math
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from job import telemetry
from job.config import Config
from job.errors import PUBLISHED
from job.local import display as progress
from job.telemetry import Record
from k8s.api.errors import ApiError, LauncherError, Status
from k8s.diagnose.evidence import explain_with_log, gather_evidence
from k8s.state.names import CONTAINER, claim_of, pods_of, rank_of
from k8s.state.run import Run, is_settled, own, state
from k8s.view.loglines import has_ended
from k8s.view.output import note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

LAST_WORDS_S = 5.0  # for rank 0's last records to come once the Job has ended
RETRY_S = 0.5
# States in which no worker tells anything yet.
BEFORE_RECORDS = {"queued", "suspended", "waiting for nodes", "pulling", "starting", "out of reach"}


class Follower:
    """Hears of a run's Job, its pods and rank 0's records, in threads of its own.

    Args:
        cluster: where it runs; from here on an API server that is away is waited for.
        job: the run's Job.
    """

    def __init__(self, cluster: Cluster, job: Object) -> None:
        self._cluster, self._name = cluster, job["metadata"]["name"]
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._latest: dict[str, list[Object]] = {}  # of each kind that is in the queue
        self._taking = threading.Lock()
        self._over = threading.Event()
        self._log: threading.Thread | None = None
        self._logged = ""  # the UID of the pod whose log is read
        self._said = 0.0  # the time of the newest record
        self.run = Run(job, ())
        cluster.patience_s = math.inf

    def __enter__(self) -> Self:
        for kind, what in (
            ("Job", {"fields": f"metadata.name={self._name}"}),
            ("Pod", {"selector": pods_of(self._name)}),
        ):
            threading.Thread(target=self._watch, args=(kind, what), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def next(self, seconds: float) -> Record | None:
        """Wait so long for news and take it into `run`; gives rank 0's record if it was one, else None."""
        try:
            news = self._news.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(news, LauncherError):
            raise news
        if isinstance(news, Record):
            self.run = dataclasses.replace(self.run, record=news)
            return news
        with self._taking:
            objects = self._latest.pop(news)
        if news == "Pod":
            self.run = dataclasses.replace(self.run, pods=own(self.run.job, objects))
            self._read_log(self.run.pods)
        elif objects:
            self.run = dataclasses.replace(self.run, job=objects[0])
        else:
            message = f"run {self._name} was deleted; its model is on the volume if it was published"
            raise LauncherError(Status.REFUSED, message)
        return None

    def _watch(self, kind: str, what: dict[str, str]) -> None:
        try:
            for objects in self._cluster.watch(kind, **what, stop=self._over):
                with self._taking:  # a thousand pods change faster than each change can be looked at
                    if kind not in self._latest:
                        self._news.put(kind)
                    self._latest[kind] = list(objects.values())
        except LauncherError as error:  # as where this user may not watch
            self._news.put(error)

    def _read_log(self, pods: Iterable[Object]) -> None:
        """Read the log of rank 0's newest pod, if it has one and is not read already."""
        begun = [p for p in pods if rank_of(p) == 0 and p["status"]["phase"] not in ("Pending", "Unknown")]
        newest = max(begun, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
        if newest and newest["metadata"]["uid"] != self._logged:
            self._logged, self._said = newest["metadata"]["uid"], 0.0  # another node has another clock
            self._log = threading.Thread(target=self._listen, args=(newest["metadata"],), daemon=True)
            self._log.start()

    def _has_ended(self, uid: str) -> bool:
        return has_ended(next((pod for pod in self.run.pods if pod["metadata"]["uid"] == uid), None))

    def _listen(self, pod: Object) -> None:
        """Put the records of a pod's log into the queue, each once, however often the connection breaks.

        A stream may end in good order though the container has not: where the way from API server to node breaks.
        """
        while not self._over.is_set() and pod["uid"] == self._logged:
            over = self._has_ended(pod["uid"])
            try:
                for line in self._cluster.logs(pod["name"], CONTAINER, follow=True):
                    record = telemetry.parse(line)
                    if record and record.time > self._said:
                        self._said = record.time
                        self._news.put(record)
            except ApiError as error:
                if error.code in (403, 404):
                    return
            except LauncherError as error:
                self._news.put(error)
                return
            except OSError:
                pass  # an API server, or a node, that is away
            else:
                if over:
                    return
            self._over.wait(RETRY_S)

    def last_words(self) -> list[Record]:
        """Rank 0's records that come after the Job has ended."""
        deadline, found = time.monotonic() + LAST_WORDS_S, []
        while (left := deadline - time.monotonic()) > 0 and self._log:
            if record := self.next(min(left, RETRY_S)):
                found.append(record)
            if not self._log.is_alive() and self._news.empty():
                break
        return found


class JsonLines(progress.Lines):
    """Rank 0's records, a line of JSON each."""

    def show_progress(self, record: Record) -> None:
        """Show a record."""
        telemetry.write_line(telemetry.to_json(record))


def display_of(output: str, workers: int, name: str) -> progress.Lines:
    """The display that suits what is asked for and where standard output goes."""
    settings = Config(workers=workers)
    return JsonLines(settings, name) if output == "json" else progress.display(settings, name)


def follow(cluster: Cluster, job: Object, output: str = "text") -> int:
    """Show how a run goes until it has ended, and how it ended; returns its exit code. Ctrl-C leaves the run going.

    Args:
        cluster: where it runs.
        job: its Job, as the API server made it.
        output: text, or json: each record and the result as a line of JSON.

    Raises:
        LauncherError: 2, when the Job was deleted meanwhile.
    """
    name, workers = job["metadata"]["name"], job["spec"]["completions"]
    began = time.monotonic()
    try:
        seen = show_progress(cluster, job, display_of(output, workers, name))
        return conclude(cluster, seen, time.monotonic() - began, output)
    except KeyboardInterrupt:
        note(f"{name} goes on; come back by: mnist-job status {name} -n {cluster.namespace} --watch")
        raise


def show_progress(cluster: Cluster, job: Object, display: progress.Lines) -> Run:
    """Show how a run goes until it has ended; returns how it was seen last."""
    name, shown = job["metadata"]["name"], ""
    with display, Follower(cluster, job) as follower:
        while not is_settled(follower.run.job):
            if record := follower.next(RETRY_S):
                display.show(record)
            elif (now := state(follower.run)) and now.word in BEFORE_RECORDS and f"{now}" != shown:
                shown = f"{now}"
                display.show(Record(time.time(), name, 0, now.word, message=now.detail or None))
        for record in follower.last_words():
            display.show(record)
    return follower.run


def conclude(cluster: Cluster, seen: Run, seconds: float, output: str) -> int:
    """Say how a run ended, and where its model is; returns its exit code."""
    name, now = seen.name, state(seen)
    code = Status.FAILED if now.code is None else now.code
    published = code in PUBLISHED
    found = explain_with_log(cluster, gather_evidence(cluster, name))
    record = seen.record
    result = {
        "name": name,
        "state": now.word,
        "code": int(code),
        "reason": found.reason,
        "accuracy": now.accuracy if now.accuracy is not None else record and record.accuracy,
        "seconds": round(seconds, 1),
        "model": f"models/{name}" if published else None,
        "claim": claim_of(seen.job["spec"]["template"]),
        "message": found.sentence if code else now.detail or (record and record.message),
    }
    if output == "json":
        print(json.dumps(result))
        return code
    where = f"-n {cluster.namespace}"
    if published:
        shown = {name: result[name] for name in ("accuracy", "seconds", "model", "claim")}
        print(f"{name} is {result['state']}: " + ", ".join(f"{key} {value}" for key, value in shown.items()))
        print(f"  {result['message']}")
        print(f"  mnist-job fetch {name} {where}    brings the model and its report here")
    if code:
        note(f"error: {found}")
    return code
