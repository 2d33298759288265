"""How --wait follows a run: its pods until the first step, then the training, then its result."""

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
from job.local.display import Lines, choose_display
from job.telemetry import Record
from k8s.api.errors import ApiError, Status, refused
from k8s.diagnose.evidence import explain_with_log, gather_evidence
from k8s.state.find import own_pods
from k8s.state.names import claim_of, pod_selector, rank_of
from k8s.state.pods import created, started
from k8s.state.run import Run, is_settled, state
from k8s.view.loglines import Cursor, read_log
from k8s.view.output import note, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

LAST_RECORDS_S = 5.0  # how long to wait for rank 0's last records after the Job has ended
RETRY_S = 0.5
NOT_STARTED = ("Pending", "Unknown")  # phases of a pod
# States in which no worker writes records.
WITHOUT_RECORDS = {"queued", "suspended", "waiting for nodes", "pulling", "starting", "out of reach", "ending", "stuck"}


class Follower:
    """Watches a run's Job, its pods and rank 0's records, in its own threads.

    Args:
        cluster: where it runs; from now on, requests wait for an API server that does not answer.
        job: the run's Job.
    """

    def __init__(self, cluster: Cluster, job: Object) -> None:
        self._cluster, self._job_name = cluster, job["metadata"]["name"]
        self._updates: queue.SimpleQueue[Any] = queue.SimpleQueue()  # records, errors, and kinds of objects
        self._newest: dict[str, list[Object]] = {}  # the objects of each kind in the queue
        self._lock = threading.Lock()
        self._stop, self._stop_log = threading.Event(), threading.Event()
        self._log_thread: threading.Thread | None = None
        self._log_uid = ""  # of the pod whose log is read
        self.run = Run(job, ())
        cluster.patience_s = math.inf

    def __enter__(self) -> Self:
        selections = {
            "Job": {"fields": f"metadata.name={self._job_name}"},
            "Pod": {"selector": pod_selector(self._job_name)},
        }
        for kind, selection in selections.items():
            threading.Thread(target=self._watch, args=(kind, selection), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._stop_log.set()

    def next_record(self, seconds: float) -> Record | None:
        """Wait up to this long for an update and apply it to `run`; returns rank 0's record if it was one.

        Raises:
            LauncherError: 2, the Job was deleted, or this user may not watch it.
        """
        try:
            update = self._updates.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(update, Exception):
            raise update
        if isinstance(update, Record):
            self.run = dataclasses.replace(self.run, record=update)
            return update
        with self._lock:
            objects = self._newest.pop(update)
        if update == "Pod":
            self.run = dataclasses.replace(self.run, pods=own_pods(self.run.job, objects))
            self._read_log(self.run.pods)
        elif objects:
            self.run = dataclasses.replace(self.run, job=objects[0])
        else:
            message = f"run {self.run.name} was deleted; its model is on the volume if it was published"
            raise refused(message)
        return None

    def remaining_records(self) -> list[Record]:
        """Rank 0's records that arrive after the Job has ended."""
        deadline, records = time.monotonic() + LAST_RECORDS_S, []
        while (seconds := deadline - time.monotonic()) > 0 and self._log_thread:
            if record := self.next_record(min(seconds, RETRY_S)):
                records.append(record)
            if not self._log_thread.is_alive() and self._updates.empty():
                break
        return records

    def _watch(self, kind: str, selection: dict[str, Any]) -> None:
        try:
            for objects in self._cluster.watch(kind, **selection, stop=self._stop):
                with self._lock:  # a thousand pods change faster than each change can be handled
                    if kind not in self._newest:
                        self._updates.put(kind)
                    self._newest[kind] = list(objects.values())
        except Exception as error:  # noqa: BLE001 - whatever ends the thread, next_record() raises it
            self._updates.put(error)

    def _read_log(self, pods: Iterable[Object]) -> None:
        """Read the log of rank 0's newest pod, if it has one and is not being read already."""
        # While an added container cannot start, the phase is Pending although the trainer may run.
        readable = [p for p in pods if rank_of(p) == 0 and (started(p) or p["status"]["phase"] not in NOT_STARTED)]
        newest = max(readable, key=created, default=None)
        if newest and newest["metadata"]["uid"] != self._log_uid:
            self._stop_log.set()
            self._log_uid, self._stop_log = newest["metadata"]["uid"], threading.Event()
            self._log_thread = threading.Thread(target=self._read_records, args=(newest, self._stop_log), daemon=True)
            self._log_thread.start()

    def _read_records(self, pod: Object, stop: threading.Event) -> None:
        """Put each record of a pod's log into the queue."""

        def current() -> Object | None:
            return next((each for each in self.run.pods if each["metadata"]["uid"] == pod["metadata"]["uid"]), None)

        try:
            for line in read_log(self._cluster, pod, current, Cursor(), stop, lambda: math.inf):
                if record := telemetry.parse(line.text):
                    self._updates.put(record)
        except ApiError:
            pass  # this user may not read logs: the run is followed without its progress
        except Exception as error:  # noqa: BLE001 - as in _watch()
            self._updates.put(error)


class JsonLines(Lines):
    """Prints rank 0's records as JSON, one on each line."""

    def show(self, record: Record) -> None:
        """Print a record."""
        telemetry.write_line(telemetry.to_json(record))


def follow_run(cluster: Cluster, job: Object, output: str = "text") -> int:
    """Show a run's progress until it has ended, then its result; returns its exit code. Ctrl-C does not stop the run.

    Args:
        cluster: where it runs.
        job: its Job, as the API server returned it.
        output: text; or json, which prints each record and the result as one line.

    Raises:
        LauncherError: 2, the Job was deleted meanwhile.
    """
    name, began = Run(job).name, time.monotonic()
    settings, choose = Config(workers=job["spec"]["completions"]), JsonLines if output == "json" else choose_display
    try:
        run = show_progress(cluster, job, choose(settings, name))
        return show_result(cluster, run, time.monotonic() - began, output)
    except KeyboardInterrupt:
        note(f"{name} keeps running; to follow it again: mnist-job status {name} --watch {cluster.flags}")
        raise


def show_progress(cluster: Cluster, job: Object, display: Lines) -> Run:
    """Show a run's progress until it has ended; returns its last state."""
    shown = ""
    with display, Follower(cluster, job) as follower:
        while not is_settled(follower.run.job):
            record, current = follower.next_record(RETRY_S), state(follower.run)
            if record:
                display.show(_printable(record))
            elif current.word in WITHOUT_RECORDS and str(current) != shown:
                shown = str(current)
                message = current.detail or None
                display.show(_printable(Record(time.time(), follower.run.name, 0, current.word, message=message)))
        for record in follower.remaining_records():
            display.show(_printable(record))
    return follower.run


def _printable(record: Record) -> Record:
    texts: dict[str, Any] = {name: printable(each) for name, each in record.values().items() if isinstance(each, str)}
    return dataclasses.replace(record, **texts)


def show_result(cluster: Cluster, run: Run, seconds: float, output: str) -> int:
    """Print how a run ended, and where its model is; returns its exit code."""
    name, final = run.name, state(run)
    code = Status.FAILED if final.code is None else final.code
    published = code in PUBLISHED
    explanation, record = explain_with_log(cluster, gather_evidence(cluster, name)), run.record
    result = {
        "name": name,
        "state": final.word,
        "code": int(code),
        "reason": explanation.reason,
        "accuracy": final.accuracy if final.accuracy is not None else record and record.accuracy,
        "seconds": round(seconds, 1),
        "model": f"models/{name}" if published else None,
        "claim": claim_of(run.job["spec"]["template"]),
        "message": explanation.sentence if code else final.detail or (record and record.message),
    }
    if output == "json":
        print(json.dumps(result))
        return code
    if published:
        figures = ", ".join(f"{key} {result[key]}" for key in ("accuracy", "seconds", "model", "claim"))
        print(printable(f"{name} is {result['state']}: {figures}"))
        if result["message"]:
            print(printable(f"  {result['message']}"))
        print(f"  mnist-job fetch {name} {cluster.flags}    copies the model and its report here")
    if code:
        note(f"error: {explanation}")
    return code
