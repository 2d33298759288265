"""The first process of every worker: owns signals, restarts, stalls and exit codes, and imports no TensorFlow.

It gathers with the other workers' supervisors, starts the trainer and starts it again. It touches no volume while a
trainer lives, so that one that hangs cannot stop it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import queue
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.config import settings_hash, settings_to_match
from job.dataset import fingerprint
from job.errors import PUBLISHED, Exit, JobError
from job.rendezvous.client import EVERY_S, Heard, Member, check_apart
from job.rendezvous.http import serve
from job.rendezvous.server import Answer, Gathering, Request
from job.supervisor.outcome import EXPLAINED_CODES, FINAL_CODES, Outcome, is_published, judge
from job.supervisor.restart_policy import CAUSED_BY_PEER, MAX_PEER_RESTARTS, MAX_RESTARTS, RestartPolicy
from job.supervisor.status import WorkerStatus
from job.supervisor.supervised_process import Ended, SupervisedProcess
from job.supervisor.watchdog import STEPPING, Watchdog
from job.system import process, termination
from job.telemetry import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.cluster import Cluster
    from job.config import Config
    from job.rendezvous.http import Server

STOP_S = 10.0  # from SIGTERM to SIGKILL where this worker was told to stop
DRAIN_S = 1.0  # for the last lines on standard output, which may have no reader
ANEW_S = 5.0  # and where it is to join anew


@dataclass(frozen=True)
class Stop:
    """This worker was told to stop."""


def supervise(config: Config, cluster: Cluster) -> int:
    """Do this worker's part of the run, its records going to standard output as logfmt; returns the exit code."""
    supervisor = Supervisor(config, cluster)
    # Before all else: a container's first process is not even ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: supervisor.events.put(Stop()))
    try:
        end = supervisor.run()
    except JobError as error:
        end = Outcome(error.code, error.reason, error.message, error.hint)
    supervisor.finish(end)
    return end.code


class Supervisor:
    """One worker's supervisor."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self.events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._config, self._cluster = config, cluster
        self._restarts = RestartPolicy()
        self._status = WorkerStatus(cluster, self._restarts)
        self._join: Callable[[Request], Answer] | None = None
        self._member: Member | None = None
        self._told = False
        self._child = 0

    def run(self) -> Outcome:
        """Start the trainer as often as it takes.

        Raises:
            JobError: why this worker cannot go on.
        """
        cluster = self._cluster
        try:
            dataset = fingerprint.read_fingerprint(self._config.data, self._config.dataset)
        except JobError:
            end = self._look()
            if end and self._status.phase == "published":  # it needs no data any more
                return end
            raise
        if cluster.workers > 1:
            settings = settings_hash(settings_to_match(self._config, dataset))
            if cluster.rank == 0:
                gathering = Gathering(cluster.run, cluster.job_uid, settings, cluster.workers)
                self._status.gathering = gathering
                self._join = functools.partial(gathering.join, wait_s=EVERY_S)
            self._member = self._status.member = Member(cluster, settings, self.events, self._join)
        with self._serve():
            while True:
                end = self._attempt()
                if not self._goes_on(end):
                    return end

    def finish(self, end: Outcome) -> None:
        """Tell how this worker ended; ends the process where nobody reads it."""
        if end.code not in PUBLISHED:
            self._status.say(
                "failed", code=int(end.code), reason=end.reason, message=end.message, hint=end.hint or None
            )
        rank, step, accuracy = self._cluster.rank, self._status.step, self._status.accuracy
        known = {} if accuracy is None else {"accuracy": accuracy}
        termination.write(end.code, end.reason, end.message, rank=rank, step=step, hint=end.hint, **known)
        if not self._status.writer.drain(DRAIN_S):
            os._exit(end.code)

    def _serve(self) -> Server:
        host, _, port = self._cluster.supervisors[self._cluster.rank].rpartition(":")
        # Locally, nobody else is to reach it.
        host = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "[::1]": "::1"}.get(host, "")
        try:
            return serve(host, int(port), self._status.gauges.text, self._join)
        except OSError as error:
            message = f"the supervisor's port {port} cannot be used: {error.strerror}"
            raise JobError(Exit.TRY_AGAIN, "port-taken", message, "end what uses it") from error

    def _attempt(self) -> Outcome:
        """Gather, and run the trainer to its end, unless there is nothing to train."""
        if end := self._look():
            return end
        gathering, addresses = self._gather()
        cluster = dataclasses.replace(self._cluster, tensorflow=addresses)
        child = SupervisedProcess("job.supervisor.trainer", self._config, cluster, self._restarts.total, self.events)
        return self._watch(child, gathering)

    def _look(self) -> Outcome | None:
        """How rank 0 ends without training, if it does: the run is published, or its folder is of no use."""
        if self._cluster.rank > 0:
            return None
        child = SupervisedProcess(
            "job.supervisor.precheck", self._config, self._cluster, self._restarts.total, self.events
        )
        end = self._watch(child, "")
        if end.code != Exit.OK or self._status.phase == "published":
            return end
        if self._told:
            raise JobError(Exit.TRY_AGAIN, "stopped", "told to stop before the training began", "start it again")
        return None

    def _gather(self) -> tuple[str, tuple[str, ...]]:
        """Wait until all workers have met; returns the id of the gathering, and every worker's address."""
        cluster, timeout_s = self._cluster, self._config.join_timeout
        if self._member is None:
            return "", cluster.tensorflow
        self._say_joined(0)
        self._member.wait()
        attempt = self._member.request.attempt
        deadline = time.monotonic() + timeout_s
        missing, absent, joined = "worker 0 has not answered", "", 0
        while event := self._next(deadline):
            if isinstance(event, Stop):
                raise JobError(Exit.TRY_AGAIN, "stopped", "told to stop while the workers gathered", "start it again")
            if not isinstance(event, Heard) or event.request.attempt != attempt:
                continue
            if isinstance(event.answer, str):
                # Rank 0 may be gone because it gave up first: whom it had waited for is still told.
                now = f"{absent}, and then {event.answer}" if absent else event.answer
                if now != missing:
                    missing = now
                    self._status.say("waiting", message=missing)
                continue
            if event.answer.addresses:
                check_apart(event.answer.addresses)
                self._member.joined(event.answer.gathering)
                self._say_joined(cluster.workers)
                return event.answer.gathering, event.answer.addresses
            ranks = ", ".join(map(str, event.answer.missing))
            more = cluster.workers - event.answer.joined - len(event.answer.missing)
            others = f" and {more} more" if more > 0 else ""
            missing = absent = f"worker{'s' if len(event.answer.missing) > 1 else ''} {ranks}{others} had not come"
            if event.answer.joined != joined:
                joined = event.answer.joined
                self._say_joined(joined)
        message = f"not all of the {cluster.workers} workers came within {timeout_s} s: {missing}"
        raise JobError(Exit.TRY_AGAIN, "peers-missing", message, "see why they did not start")

    def _say_joined(self, joined: int) -> None:
        self._status.say("waiting", joined=joined, message=f"{joined} of {self._cluster.workers} workers joined")

    def _watch(self, child: SupervisedProcess, gathering: str) -> Outcome:
        """Follow a child to its end, and end it where this worker is told to stop, it hangs or others gather anew."""
        self._child = child.pid
        self._status.phase = "starting"
        watch = Watchdog(child, self._config, self._status, gathering)
        while True:
            event = self._next(watch.deadline)
            if isinstance(event, Ended):
                self._child = 0
                if watch.ours is None and event.exit_code not in EXPLAINED_CODES and not is_published(watch.told):
                    sys.stderr.writelines(event.chatter)
                    sys.stderr.flush()
                return judge(event, watch.told, watch.ours)
            if isinstance(event, Record):
                if event.step and event.phase in STEPPING:
                    self._restarts.record_step(event.step)
                watch.hear(event)
            elif isinstance(event, Stop):
                self._told = True
                watch.leave(STOP_S, Outcome(Exit.TRY_AGAIN, "stopped", "told to stop"))
            elif isinstance(event, Heard) and watch.ours is None and watch.is_over(event):
                watch.leave(ANEW_S, Outcome(Exit.TRY_AGAIN, "gathering", "the workers gather anew"))
            watch.look()

    def _goes_on(self, end: Outcome) -> bool:
        """Whether the trainer is to be started again, once it is time.

        Raises:
            JobError: 75 where it was started often enough, or this worker is told to stop.
        """
        if self._told and end.code not in FINAL_CODES:
            raise JobError(Exit.TRY_AGAIN, "stopped", end.message, "start it again")
        if end.code in FINAL_CODES or end.reason == "run-in-use":
            return False
        wait_s: float | None
        if end.code == Exit.TRY_AGAIN and end.reason in CAUSED_BY_PEER:
            wait_s = 0.0
            if not self._restarts.allow_peer_restart():
                message = f"lost its peers {MAX_PEER_RESTARTS} times in a row without a new step: {end.message}"
                hint = (
                    "see why the other workers end, and whether TensorFlow's port, 2222 in a cluster, is open to them"
                )
                raise JobError(Exit.TRY_AGAIN, "peers-lost", message, hint)
        else:
            wait_s = self._restarts.next_delay()
            if wait_s is None:
                message = f"gave up after {MAX_RESTARTS} restarts without a new step: {end.message}"
                raise JobError(Exit.TRY_AGAIN, "restarts-used-up", message, end.hint or "see the lines above")
            self._status.gauges.restarted(end.reason)
        self._status.say("restarting", reason=end.reason, message=end.message)
        deadline = time.monotonic() + wait_s
        while event := self._next(deadline):
            if isinstance(event, Stop):
                raise JobError(Exit.TRY_AGAIN, "stopped", "told to stop before the trainer was started again")
        return True

    def _next(self, deadline: float) -> object | None:
        """The next event; None when there is none until the deadline, in seconds of time.monotonic()."""
        while True:
            process.reap(self._child)
            left = deadline - time.monotonic()
            try:
                return self.events.get(timeout=min(max(0.0, left), EVERY_S))
            except queue.Empty:
                if left <= EVERY_S:
                    return None
