"""The first process of every worker: owns signals, restarts, stalls and exit codes, and imports no TensorFlow.

It gathers with the other workers' supervisors, starts the trainer and starts it again. It touches no volume while a
trainer lives, so that one that hangs cannot stop it.
"""

from __future__ import annotations

import dataclasses
import functools
import queue
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job import fingerprint, process, telemetry, termination
from job.child import Child, Ended
from job.config import settings_hash, settings_to_match
from job.endpoints import serve
from job.errors import PUBLISHED, Exit, JobError
from job.gathering import Answer, Gathering, Request
from job.gauges import Gauges
from job.member import EVERY_S, Heard, Member
from job.restarts import FOLLOWED, IN_A_ROW, Restarts
from job.telemetry import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.cluster import Cluster
    from job.config import Config
    from job.endpoints import Server

FINAL = set(Exit) - {Exit.TRY_AGAIN, Exit.INTERRUPTED}
EXPLAINED = set(Exit) - {Exit.BUG}  # what a trainer ends with after a sentence that says it all
STEPPING = {"training", "evaluating"}  # no step in --stall-timeout means here that it hangs
# Phases through which all go together, whatever the last message, up to a second ago, said.
IN_STEP = ("joining", "restoring", "compiling", "training", "evaluating", "publishing", "published")
BEFORE_STEPS = {"starting", "data", "joining", "restoring", "compiling"}  # where there is nothing to save
PATIENCE_S = 900.0  # for each of the other phases, which slow volumes and throttled CPUs may draw out
STOP_S = 10.0  # from SIGTERM to SIGKILL where this worker was told to stop
ANEW_S = 5.0  # and where it is to join anew
PROGRESS = ("step", "steps", "checkpoint")
GONE_S = 5.0  # from SIGKILL to the end, which is beyond a process whose volume hangs


@dataclass(frozen=True)
class Stop:
    """This worker was told to stop."""


@dataclass(frozen=True)
class End:
    """How a child, or this worker, ended; as in JobError."""

    code: int
    reason: str
    message: str
    hint: str = ""


def supervise(config: Config, cluster: Cluster) -> int:
    """Do this worker's part of the run, its records going to standard output as logfmt; returns the exit code."""
    supervisor = Supervisor(config, cluster)
    # Before all else: a container's first process is not even ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: supervisor.events.put(Stop()))
    try:
        end = supervisor.run()
    except JobError as error:
        end = End(error.code, error.reason, error.message, error.hint)
    supervisor.finish(end)
    return end.code


class Supervisor:
    """One worker's supervisor."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self.events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._config, self._cluster = config, cluster
        self._gauges = Gauges(cluster.run, cluster.rank, cluster.workers)
        self._restarts = Restarts()
        self._gathering: Gathering | None = None  # rank 0's
        self._join: Callable[[Request], Answer] | None = None
        self._member: Member | None = None
        self._told = False
        self._phase = "starting"
        self._progress: dict[str, int | None] = {}  # the last known of PROGRESS
        self._child = 0

    def run(self) -> End:
        """Start the trainer as often as it takes.

        Raises:
            JobError: why this worker cannot go on.
        """
        cluster = self._cluster
        try:
            dataset = fingerprint.read(self._config.data, self._config.dataset)
        except JobError:
            end = self._look()
            if end and self._phase == "published":  # it needs no data any more
                return end
            raise
        if cluster.workers > 1:
            settings = settings_hash(settings_to_match(self._config, dataset))
            if cluster.rank == 0:
                self._gathering = Gathering(cluster.run, cluster.job_uid, settings, cluster.workers)
                self._join = functools.partial(self._gathering.join, wait_s=EVERY_S)
            self._member = Member(cluster, settings, self.events, self._join)
        with self._serve():
            while True:
                end = self._attempt()
                if not self._goes_on(end):
                    return end

    def finish(self, end: End) -> None:
        """Tell how this worker ended."""
        if end.code not in PUBLISHED:
            self._say("failed", code=int(end.code), reason=end.reason, message=end.message, hint=end.hint or None)
        rank, step, hint = self._cluster.rank, self._progress.get("step"), end.hint
        termination.write(end.code, end.reason, end.message, rank=rank, step=step, hint=hint)

    def _serve(self) -> Server:
        host, _, port = self._cluster.supervisors[self._cluster.rank].rpartition(":")
        # Locally, nobody else is to reach it.
        host = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "[::1]": "::1"}.get(host, "")
        try:
            return serve(host, int(port), self._gauges.text, self._join)
        except OSError as error:
            message = f"the supervisor's port {port} cannot be used: {error.strerror}"
            raise JobError(Exit.TRY_AGAIN, "port-taken", message, "end what uses it") from error

    def _attempt(self) -> End:
        """Gather, and run the trainer to its end, unless there is nothing to train."""
        if end := self._look():
            return end
        gathering, addresses = self._gather()
        cluster = dataclasses.replace(self._cluster, tensorflow=addresses)
        return self._watch(Child("job.trainer", self._config, cluster, self._restarts.total, self.events), gathering)

    def _look(self) -> End | None:
        """How rank 0 ends without training, if it does: the run is published, or its folder is of no use."""
        if self._cluster.rank > 0:
            return None
        end = self._watch(Child("job.look", self._config, self._cluster, self._restarts.total, self.events), "")
        if end.code != Exit.OK or self._phase == "published":
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
        missing, joined = "worker 0 has not answered", 0
        while event := self._next(deadline):
            if isinstance(event, Stop):
                raise JobError(Exit.TRY_AGAIN, "stopped", "told to stop while the workers gathered", "start it again")
            if not isinstance(event, Heard) or event.request.attempt != attempt:
                continue
            if isinstance(event.answer, str):
                if event.answer != missing:
                    missing = event.answer
                    self._say("waiting", message=missing)
                continue
            if event.answer.addresses:
                check_apart(event.answer.addresses)
                self._member.joined(event.answer.gathering)
                self._say_joined(cluster.workers)
                return event.answer.gathering, event.answer.addresses
            ranks = ", ".join(map(str, event.answer.missing))
            more = cluster.workers - event.answer.joined - len(event.answer.missing)
            others = f" and {more} more" if more > 0 else ""
            missing = f"worker{'s' if len(event.answer.missing) > 1 else ''} {ranks}{others} had not come"
            if event.answer.joined != joined:
                joined = event.answer.joined
                self._say_joined(joined)
        message = f"not all of the {cluster.workers} workers came within {timeout_s} s: {missing}"
        raise JobError(Exit.TRY_AGAIN, "peers-missing", message, "see why they did not start")

    def _say_joined(self, joined: int) -> None:
        self._say("waiting", joined=joined, message=f"{joined} of {self._cluster.workers} workers joined")

    def _watch(self, child: Child, gathering: str) -> End:  # noqa: C901 - one branch for each kind of event
        """Follow a child to its end, and end it where this worker is told to stop, it hangs or others gather anew."""
        self._child = child.pid
        self._phase = "starting"
        told: Record | None = None  # how it ended, or is about to, in its own words
        ours: End | None = None  # why it was ended from here
        kill_at = gone_at = float("inf")
        heard_at = time.monotonic()
        while True:
            event = self._next(min(kill_at, gone_at, heard_at + self._patience()))
            now = time.monotonic()
            if isinstance(event, Ended):
                self._child = 0
                return self._end(event, told, ours)
            if isinstance(event, Record):
                heard_at = now
                if event.phase in {"failed", "published"}:
                    told = event
                if event.phase != "failed":
                    self._hear(event)
            elif isinstance(event, Stop):
                self._told = True
                kill_at = min(kill_at, now + self._leave(child, STOP_S))
            elif isinstance(event, Heard):
                # A trainer that publishes needs nobody any more.
                if ours is None and is_over(event, gathering) and self._phase not in {"publishing", "published"}:
                    ours = End(Exit.TRY_AGAIN, "gathering", "the workers gather anew")
                    kill_at = min(kill_at, now + self._leave(child, ANEW_S))
            elif now >= gone_at:
                message = f"the trainer has not ended {GONE_S:g} s after SIGKILL"
                raise JobError(Exit.TRY_AGAIN, "trainer-hangs", message, "see whether a volume hangs")
            else:
                if ours is None and not self._told:
                    message = f"the trainer made no progress in phase {self._phase} for {self._patience():g} s"
                    ours = End(Exit.TRY_AGAIN, "stalled", message)
                child.kill()
                kill_at = heard_at = float("inf")
                gone_at = now + GONE_S

    def _leave(self, child: Child, seconds: float) -> float:
        """Have a trainer leave; returns after how many seconds to kill it."""
        if self._phase in BEFORE_STEPS:
            return 0.0
        child.terminate()
        return seconds

    def _patience(self) -> float:
        """How long the trainer may be silent, in seconds."""
        if self._phase in STEPPING:
            return float(self._config.stall_timeout)
        return PATIENCE_S + (self._config.join_timeout if self._phase == "joining" else 0)

    def _hear(self, record: Record) -> None:
        """Take notice of a trainer's record, and show it unless it only says that training goes on."""
        if record.step and record.phase in STEPPING:
            self._restarts.reached(record.step)
        news = record.phase != self._phase or record.loss is not None or record.message
        self._note(record)
        if news:
            self._show(record)

    def _end(self, ended: Ended, told: Record | None, ours: End | None) -> End:
        """What the end of a child means."""
        code = ended.code if ended.code >= 0 else 128 - ended.code
        if told and told.phase == "published":  # whatever happened to it after that
            return End(told.code or 0, told.reason or "", told.message or "")
        if told and told.code == code:
            end = End(code, told.reason or "", told.message or "", told.hint or "")
        elif code == Exit.OK:
            end = End(code, "", "")
        elif ours or self._told:
            end = ours or End(Exit.TRY_AGAIN, "stopped", "told to stop")
        elif ended.code == -signal.SIGKILL and ended.oom_kills > 0:
            hint = "give it more memory, or a smaller --batch-size"
            end = End(Exit.OUT_OF_MEMORY, "out-of-memory", "the kernel killed the trainer for memory", hint)
        elif ended.code < 0:
            end = End(code, "killed", f"the trainer was killed by {process.killed_by(code)}")
        else:
            end = End(code, "unknown-code", f"the trainer ended with {code} and said nothing")
        if ours is None and not self._told and code not in EXPLAINED:
            sys.stderr.writelines(ended.chatter)
            sys.stderr.flush()
        return end

    def _goes_on(self, end: End) -> bool:
        """Whether the trainer is to be started again, once it is time.

        Raises:
            JobError: 75 where it was started often enough, or this worker is told to stop.
        """
        if self._told and end.code not in FINAL:
            raise JobError(Exit.TRY_AGAIN, "stopped", end.message, "start it again")
        if end.code in FINAL or end.reason == "run-in-use":
            return False
        followed = end.code == Exit.TRY_AGAIN and end.reason in FOLLOWED
        wait_s = 0.0 if followed else self._restarts.again()
        if wait_s is None:
            message = f"gave up after {IN_A_ROW} restarts without a new step: {end.message}"
            raise JobError(Exit.TRY_AGAIN, "restarts-used-up", message, end.hint or "see the lines above")
        if not followed:
            self._gauges.restarted(end.reason)
        self._say("restarting", reason=end.reason, message=end.message)
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

    def _say(self, phase: str, **fields: Any) -> None:
        """Show a record of the supervisor's own."""
        known = {**self._progress, "restarts": self._restarts.total, **fields}
        record = Record(time.time(), self._cluster.run, self._cluster.rank, phase, **known)
        self._note(record)
        self._show(record)

    def _note(self, record: Record) -> None:
        """Keep what a record tells of this worker, for its peers, the metrics and the next record."""
        self._phase = record.phase
        self._progress |= {name: value for name in PROGRESS if (value := getattr(record, name)) is not None}
        self._gauges.show(record)
        if self._member:
            self._member.tell(record.phase, self._restarts.total)

    def _show(self, record: Record) -> None:
        """Write a record to standard output, rank 0's with what it has heard of the others."""
        if self._gathering:
            differing = {
                str(rank): {"phase": other.phase, "restarts": other.restarts}
                for rank, other in sorted(self._gathering.heard().items())
                if rank != record.rank and (other.restarts or other.phase not in {record.phase, *IN_STEP})
            }
            record = dataclasses.replace(record, workers=differing or None)
        telemetry.say(telemetry.to_logfmt(record))


def check_apart(addresses: tuple[str, ...]) -> None:
    """Refuse two workers at one address: TensorFlow would wait for ever."""
    for rank, address in enumerate(addresses):
        if (first := addresses.index(address)) < rank:
            message = f"workers {first} and {rank} both gave the address {address}"
            raise JobError(Exit.TRY_AGAIN, "same-address", message, "give each a POD_IP or a port of its own")


def is_over(heard: Heard, gathering: str) -> bool:
    """Whether the workers gather anew, in place of the gathering in which a trainer was started."""
    answer, asked_in = heard.answer, heard.request.gathering
    return isinstance(answer, Answer) and gathering != "" and gathering == asked_in != answer.gathering
