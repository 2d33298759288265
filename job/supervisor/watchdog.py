"""Ends a supervised process that hangs, that has lost its peers, or that has to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from job.errors import Exit, JobError
from job.supervisor.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.config import Config
    from job.rendezvous.peers import Peers, ReplyEvent
    from job.supervisor.status import WorkerStatus
    from job.supervisor.supervised_process import SupervisedProcess
    from job.telemetry import Record

STEPPING = {"training", "evaluating"}  # phases to which --stall-timeout applies
BEFORE_STEPS = {"starting", "data", "joining", "restoring", "compiling"}  # phases in which there is nothing to save
PATIENCE_S = 900.0  # for each of the other phases, which slow volumes and throttled CPUs may prolong
GOODBYE_S = 10.0  # for the last all-reduce, which a disconnected peer would prolong
# How long a peer may go without a request, and a trainer that has joined without a line. Both are due once a second.
# TensorFlow's own heartbeats allow as much. On a fifth of a CPU no two were more than 1.3 s apart.
SILENT_S = 10.0
JOIN_S = 60.0  # TensorFlow takes a second or two to connect workers that have all started to join
NEWCOMERS_S = 120.0  # the same with workers that the others have taken in, from when rank 0's trainer joins
PAUSED_S = 3.0  # between two calls of check(), due every second; longer if this process itself was stopped
# From SIGKILL to the exit, by --device. A hung volume can prevent it, and a GPU's driver first frees what the process
# had there.
GONE_S = {"cpu": 5.0, "gpu": 30.0}
NEVER = float("inf")


@dataclass(frozen=True)
class Ages:
    """For how many seconds each sign of life has been missing; -inf if it is not expected.

    record_s counts from the trainer's last record, pulse_s from its last line of any kind, peer_s from the last
    request of `peer`, the worker that has been silent for longest, and joining_s from when all workers were joining.
    """

    record_s: float
    pulse_s: float
    peer: int
    peer_s: float
    joining_s: float


def find_hang(phase: str, ages: Ages, patience_s: float) -> Outcome | None:
    """Why a process has to be killed; None if it need not be.

    Args:
        phase: its phase.
        ages: for how long its signs of life, and its peers', have been missing.
        patience_s: how long it may send no record in this phase.
    """
    if ages.record_s >= patience_s:
        message = f"the trainer made no progress in phase {phase} for {patience_s:g} s"
        hint = "raise --stall-timeout if a step may take that long" if phase in STEPPING else ""
        return Outcome(Exit.TRY_AGAIN, "stalled", message, hint)
    if ages.pulse_s >= SILENT_S:
        message = f"the trainer gave no sign of life in phase {phase} for {SILENT_S:g} s"
        return Outcome(Exit.TRY_AGAIN, "stalled", message)
    # A trainer that completes steps has all of its peers, whatever happened to their supervisors.
    if min(ages.record_s, ages.peer_s) >= SILENT_S:
        return Outcome(Exit.TRY_AGAIN, "peer-lost", f"worker {ages.peer} has sent nothing for {SILENT_S:g} s")
    if ages.joining_s >= JOIN_S:
        message = f"TensorFlow has not connected the workers within {JOIN_S:g} s, although all have started"
        hint = "check that TensorFlow's port, 2222 in a cluster, is open between them"
        return Outcome(Exit.TRY_AGAIN, "not-joined", message, hint)
    return None


class Watchdog:
    """Watches one process from its start to its exit.

    round_id is the rendezvous round in which the process was started, empty if it needs no other workers. The clock
    returns monotonic seconds.

    Attributes:
        final_record: the record in which the process reported how it ended, or is about to.
        forced: why the process is made to exit.
    """

    def __init__(
        self,
        process: SupervisedProcess,
        config: Config,
        status: WorkerStatus,
        peers: Peers,
        round_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._process, self._config, self._status, self._peers = process, config, status, peers
        self._round_id, self._clock = round_id, clock
        self._gone_s = GONE_S[config.device]
        self.final_record: Record | None = None
        self.forced: Outcome | None = None
        self._kill_at = self._give_up_at = NEVER
        self._record_at = self._checked_at = clock()
        self._joining_since = NEVER
        self._resumed_from = 0  # the step of the checkpoint that the process restored
        self._resumed_at = -NEVER  # this process was stopped until then, and could not read what came meanwhile

    @property
    def deadline(self) -> float:
        """When check() is due, by the clock."""
        return min(self._kill_at, self._give_up_at, self._checked_at + 1)

    def must_rejoin(self, event: ReplyEvent) -> bool:
        """Whether the process has to exit because the workers meet in a new round. Rank 0 publishes alone."""
        phase = self._status.phase
        return event.ends_round(self._round_id) and not (
            phase == "published" or (phase == "publishing" and self._peers.rank == 0)
        )

    def take_record(self, record: Record) -> None:
        """Take note of a record of the process."""
        self._record_at = self._clock()
        if record.phase in {"failed", "published"}:
            self.final_record = record
        if record.phase != "failed":
            self._status.update(record)
        if record.phase != "training":
            self._resumed_from = record.checkpoint or self._resumed_from
            return
        self._peers.note_step(self._round_id)
        if (record.checkpoint or 0) > self._resumed_from and (record.step or 0) < (record.steps or 0):
            # Each round makes a checkpoint of its own before the next one, however often a worker comes and goes.
            self._peers.take_in()

    def request_exit(self, seconds: float, outcome: Outcome) -> None:
        """Make the process exit within so many seconds, or at once if it has nothing to save.

        Args:
            seconds: from SIGTERM to SIGKILL.
            outcome: why. The first reason counts.
        """
        self.forced = self.forced or outcome
        if self._status.phase in BEFORE_STEPS:
            seconds = 0.0
        else:
            self._process.terminate()
        self._kill_at = min(self._kill_at, self._clock() + seconds)

    def check(self) -> None:
        """Kill the process if it hangs, or if it has not exited in time.

        Raises:
            JobError: 75, the process survives SIGKILL.
        """
        now = self._clock()
        if now - self._checked_at > PAUSED_S:
            self._resumed_at = now
        self._checked_at = now
        if now >= self._give_up_at:
            message = f"the trainer has not exited {self._gone_s:g} s after SIGKILL"
            what = "a volume or the GPU" if self._config.device == "gpu" else "a volume"
            raise JobError(Exit.TRY_AGAIN, "trainer-hangs", message, f"check whether {what} hangs")
        if self._give_up_at < NEVER:
            return
        if self._kill_at == NEVER:
            self.forced = self.forced or find_hang(self._status.phase, self._ages(now), self._patience_s())
        elif now < self._kill_at:
            return
        elif self.forced and self._peers.rank == 0 and self._status.phase in STEPPING:
            step = self._status.checkpoint
            saved = f"the newest checkpoint that it reported is of step {step}" if step else "it reported no checkpoint"
            message = f"{self.forced.message}, and the trainer was killed because it did not end in time; {saved}"
            self.forced = replace(self.forced, message=message)
        if self.forced:
            self._process.kill()
            self._give_up_at = now + self._gone_s

    def _ages(self, now: float) -> Ages:
        needs_peers = self._round_id != "" and self._status.phase not in {"publishing", "published"}
        peer, peer_at = self._peers.longest_silent() if needs_peers else (0, NEVER)
        self._joining_since = min(now, self._joining_since) if self._all_joining() else NEVER

        def age(moment: float) -> float:
            return now - max(moment, self._resumed_at)

        return Ages(age(self._record_at), age(self._process.pulse_at), peer, age(peer_at), age(self._joining_since))

    def _all_joining(self) -> bool:
        """Whether this is rank 0 and its trainer waits for TensorFlow to connect workers that have all started."""
        return self._is_joining() and self._peers.all_started(self._round_id)

    def _is_joining(self) -> bool:
        return self._status.phase == "joining" and self._process.pulse_at == NEVER

    def _patience_s(self) -> float:
        """How long the process may send no record."""
        phase = self._status.phase
        if phase in STEPPING:
            return float(self._config.stall_timeout)
        if phase == "published":
            return GOODBYE_S
        if self._is_joining() and self._peers.tries_newcomers(self._round_id):
            # The others are enough. The trainers must not give up first, because each would count a restart.
            return min(NEWCOMERS_S, self._config.join_timeout / 2)
        return PATIENCE_S + (self._config.join_timeout if phase == "joining" else 0)
