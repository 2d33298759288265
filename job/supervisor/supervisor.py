"""The first process of every worker: owns signals, restarts, stalls and exit codes, and imports no TensorFlow.

It meets the other workers' supervisors, starts the trainer, and starts it again. It touches no volume while a trainer
runs, so that a hung volume cannot stop it: log_process.py writes its log.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.cluster import exit_code, pod_name
from job.dataset.fingerprint import read_fingerprint
from job.error_table import errors_from
from job.errors import PUBLISHED, Exit, JobError
from job.model_file import read_model
from job.must_match import model_changed, model_sha256, settings_hash, settings_to_match
from job.output.log_file import LogFile
from job.rendezvous.listener import serve
from job.rendezvous.peers import EVERY_S, Attendance, Peers, ReplyEvent, check_distinct
from job.supervisor.forking import fork_channel
from job.supervisor.log_process import LogProcess
from job.supervisor.outcome import EXPLAINED_CODES, FINAL_CODES, Outcome, is_published, judge
from job.supervisor.restart_policy import (
    CAUSED_BY_PEER,
    LASTING,
    MAX_PEER_RESTARTS,
    MAX_RESTARTS,
    USELESS_HERE,
    RestartPolicy,
)
from job.supervisor.status import WorkerStatus
from job.supervisor.supervised_process import Exited, SupervisedProcess
from job.supervisor.watchdog import BEFORE_STEPS, STEPPING, Watchdog
from job.system import process, termination
from job.telemetry import Record

if TYPE_CHECKING:
    import socket

    from job.cluster import Cluster
    from job.config import Config

STOP_S = 10.0  # from SIGTERM to SIGKILL when this worker has to stop
# The same when it has to meet the others in a new round: a trainer that loses a peer between steps may not notice.
# With --min-workers it is STOP_S, because they may meet to take a worker in, and then save a checkpoint first.
REJOIN_S = 2.0
END_S = 1.0  # for the message to rank 0 that this worker ends
FLUSH_S = 1.0  # for the last lines on standard output, which may have no reader
LOOPBACK = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "[::1]": "::1"}


@dataclass(frozen=True)
class Stop:
    """This worker received SIGTERM."""


def supervise(config: Config, cluster: Cluster) -> int:
    """Do this worker's part of the run; its records go to standard output and to its log. Returns the exit code."""
    log = LogProcess(LogFile(config.output, cluster.run, cluster.rank), pod_name(os.environ))
    supervisor = Supervisor(config, cluster, log)
    # First of all, because the kernel drops a signal that a container's first process does not handle.
    signal.signal(signal.SIGTERM, lambda *_: supervisor.events.put(Stop()))
    try:
        outcome = supervisor.run()
    except JobError as error:
        outcome = Outcome(error.code, error.reason, error.message, error.hint)
    supervisor.finish(outcome)
    return outcome.code


class Supervisor:
    """One worker's supervisor.

    Attributes:
        events: Stop, the records and the exit of the process that runs, and rank 0's replies.
    """

    def __init__(self, config: Config, cluster: Cluster, log: LogProcess) -> None:
        self.events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._config, self._cluster = config, cluster
        self._restarts = RestartPolicy()
        self._peers = Peers(cluster, self.events)
        self._status = WorkerStatus(cluster, self._restarts, self._peers, log)
        self._model = ""  # SHA-256 of model.py
        self._stopping = False
        self._child_pid = 0
        self._channel: socket.socket | None = None  # to the fork server

    def run(self) -> Outcome:
        """Run the trainer, and start it again as often as necessary.

        Raises:
            JobError: why this worker cannot continue.
        """
        with fork_channel(self._config) as self._channel:
            return self._run()

    def _run(self) -> Outcome:
        try:
            if self._config.model:
                read_model(self._config.model)
            dataset = read_fingerprint(self._config.data, self._config.dataset)
            must_match = settings_to_match(self._config, dataset)
        except JobError:
            outcome = self._precheck()
            if outcome and self._status.phase == "published":  # a published run needs no dataset and no model
                return outcome
            raise
        self._model = must_match["model"]
        limit_s = self._config.join_timeout / 2  # well before this worker gives up
        self._peers.connect(settings_hash(must_match), self._model, self._config.min_workers, limit_s)
        host, _, port = self._cluster.supervisors[self._cluster.rank].rpartition(":")
        with ExitStack() as stack:
            with errors_from("port", port):
                # Local workers listen on the loopback interface alone, others on all interfaces.
                address = LOOPBACK.get(host, ""), int(port)
                server = stack.enter_context(serve(*address, self._status.metrics.text, self._peers.rendezvous))
            channel = None  # the first check does not wait until the fork server is ready
            while True:
                outcome = self._precheck(channel)
                channel = self._channel
                with errors_from("port", port):
                    server.wait_until_ready()
                outcome = outcome or self._train()
                if not self._restart_after(outcome):
                    return outcome

    def finish(self, outcome: Outcome) -> None:
        """Report how this worker ended; exits the process if nobody reads its standard output."""
        code, reason, message, hint = int(outcome.code), outcome.reason, outcome.message, outcome.hint
        if code not in PUBLISHED:
            self._status.report("failed", code=code, reason=reason, message=message, hint=hint or None)
        accuracy = {} if self._status.accuracy is None else {"accuracy": self._status.accuracy}
        # Otherwise, the others would wait for this worker for up to 3 s, in case it is only slow.
        said = self._peers.say_end() if self._config.min_workers and code not in PUBLISHED else None
        self._peers.stop()
        rank, step = self._cluster.rank, self._status.step
        termination.write(code, reason, message, rank=rank, step=step, hint=hint, **accuracy)
        written = self._status.flush(FLUSH_S)
        if said:
            said.join(END_S)
        if not written:
            os._exit(exit_code(code, os.environ))

    def _precheck(self, channel: socket.socket | None = None) -> Outcome | None:
        """How rank 0 ends without training: the run is published, or its folder unusable. None if it has to train."""
        if self._cluster.rank > 0:
            return None
        outcome = self._run_process("job.supervisor.precheck", self._cluster, "", channel)
        if outcome.code != Exit.OK or self._status.phase == "published":
            return outcome
        if self._stopping:
            raise JobError(Exit.TRY_AGAIN, "stopped", "received SIGTERM before the training", "start the run again")
        return None

    def _train(self) -> Outcome:
        """Meet the other workers, and run the trainer to its exit."""
        round_id, addresses = self._meet()
        if (model := model_sha256()) != self._model:  # the peers compared the file as it was at the start
            raise model_changed(self._model, model)
        cluster = dataclasses.replace(self._cluster, tensorflow=addresses)
        outcome = self._run_process("job.supervisor.trainer", cluster, round_id, self._channel)
        if outcome.reason in {"not-joined", "stalled", "peers-missing"} and self._peers.tries_newcomers(round_id):
            return dataclasses.replace(outcome, reason="peer-lost")  # the others go on without the newcomers
        return outcome

    def _meet(self) -> tuple[str, tuple[str, ...]]:
        """Wait until the workers have met; returns the round's id, and all addresses, empty for a missing worker."""
        cluster, timeout_s = self._cluster, self._config.join_timeout
        if cluster.workers == 1:
            return "", cluster.tensorflow
        self._report_joined(0)
        attempt = self._peers.start_attempt()
        attendance, waits_outside = Attendance(cluster.workers), False
        deadline = time.monotonic() + timeout_s
        while event := self._next_event(deadline):
            if isinstance(event, Stop):
                message = "received SIGTERM while waiting for the other workers"
                raise JobError(Exit.TRY_AGAIN, "stopped", message, "start the run again")
            if not isinstance(event, ReplyEvent) or event.request.attempt != attempt:
                continue
            reply = event.reply
            if not isinstance(reply, str) and reply.addresses:
                check_distinct(reply.addresses)
                self._report_joined(reply.joined, complete=True)
                return reply.round_id, reply.addresses
            if not isinstance(reply, str) and reply.outside:
                # The others go on, and take this worker in at one of their checkpoints.
                deadline = time.monotonic() + timeout_s
                if not waits_outside:
                    message = "the other workers go on without this one, and take it in at a later checkpoint"
                    self._status.report("waiting", message=message)
                waits_outside = True
                continue
            waits_outside = False
            refusal = self._peers.refusal
            before, attendance = attendance, attendance.after(reply, refusal)
            if attendance.joined != before.joined:
                self._report_joined(attendance.joined)
            if (attendance.unreachable or refusal) and attendance.missing != before.missing:
                self._status.report("waiting", message=attendance.missing)
        few = "not enough" if self._config.min_workers else "not all"
        message = f"{few} of the {cluster.workers} workers joined within {timeout_s} s: {attendance.missing}"
        raise JobError(Exit.TRY_AGAIN, "peers-missing", message, "check why they did not start")

    def _report_joined(self, joined: int, *, complete: bool = False) -> None:
        message = f"{joined} of {self._cluster.workers} workers joined"
        if complete and joined < self._cluster.workers:
            message = f"training with {joined} of {self._cluster.workers} workers"
        self._status.report("waiting", joined=joined, message=message)

    def _run_process(self, module: str, cluster: Cluster, round_id: str, channel: socket.socket | None) -> Outcome:
        """Run a process to its exit; end it on SIGTERM, if it hangs, or if the workers meet in a new round."""
        self._status.process_starts()
        restarts, spent = self._restarts.total, self._status.metrics.spent
        child = SupervisedProcess(module, self._config, cluster, restarts, spent, self.events, channel)
        self._child_pid = child.pid
        watchdog = Watchdog(child, self._config, self._status, self._peers, round_id)
        while True:
            event = self._next_event(watchdog.deadline)
            if isinstance(event, Exited):
                self._child_pid = 0
                final_record, forced = watchdog.final_record, watchdog.forced
                if not (event.started or forced):  # the fork server failed, and a new process shows why
                    return self._run_process(module, cluster, round_id, None)
                if not (forced or event.exit_code in EXPLAINED_CODES or is_published(final_record)):
                    self._status.show_errors(event.stderr)
                return judge(event, final_record, forced, began=self._status.phase not in BEFORE_STEPS)
            if isinstance(event, Record):
                if event.step and event.phase in STEPPING:
                    self._restarts.record_step(event.step)
                watchdog.take_record(event)
            elif isinstance(event, Stop):
                self._stopping = True
                watchdog.request_exit(STOP_S, Outcome(Exit.TRY_AGAIN, "stopped", "received SIGTERM"))
            elif isinstance(event, ReplyEvent) and not watchdog.forced and watchdog.must_rejoin(event):
                outcome = Outcome(
                    Exit.TRY_AGAIN, "gathering", "another worker restarted or joined, so all workers restart"
                )
                watchdog.request_exit(STOP_S if self._config.min_workers else REJOIN_S, outcome)
            watchdog.check()

    def _restart_after(self, outcome: Outcome) -> bool:
        """Whether to start again after this outcome; waits for the delay before that.

        Raises:
            JobError: 75, the trainer was started often enough, or this worker received SIGTERM.
        """
        if outcome.code in FINAL_CODES:
            return False
        if self._stopping:
            reason = outcome.reason if outcome.reason == "output-io" else "stopped"
            raise JobError(Exit.TRY_AGAIN, reason, outcome.message, "start the run again")
        if outcome.reason in USELESS_HERE:
            return False
        delay_s = self._restart_delay(outcome)
        self._status.report("restarting", reason=outcome.reason, message=outcome.message, hint=outcome.hint or None)
        deadline = time.monotonic() + delay_s
        while event := self._next_event(deadline):
            if isinstance(event, Stop):
                raise JobError(Exit.TRY_AGAIN, "stopped", "received SIGTERM before the trainer was started again")
        return True

    def _restart_delay(self, outcome: Outcome) -> float:
        """Count a restart; returns the seconds to wait before it.

        Raises:
            JobError: 75, there were too many in a row.
        """
        if outcome.code == Exit.TRY_AGAIN and outcome.reason in CAUSED_BY_PEER:
            if self._restarts.allow_peer_restart():
                return 0.0
            message = f"lost its peers {MAX_PEER_RESTARTS} times in a row without a new step: {outcome.message}"
            hint = "check why the other workers fail, and that TensorFlow's port, 2222 in a cluster, is open to them"
            raise JobError(Exit.TRY_AGAIN, "peers-lost", message, hint)
        delay_s = self._restarts.next_delay()
        if delay_s is None:
            message = f"gave up after {MAX_RESTARTS} restarts without a new step: {outcome.message}"
            reason = outcome.reason if outcome.reason in LASTING else "restarts-used-up"
            raise JobError(Exit.TRY_AGAIN, reason, message, outcome.hint or "see the lines above")
        self._status.metrics.count_restart(outcome.reason)
        return delay_s

    def _next_event(self, deadline: float) -> object | None:
        """The next event; None if none comes before the deadline, in seconds of time.monotonic()."""
        while True:
            process.reap_orphans(self._child_pid)
            remaining_s = deadline - time.monotonic()
            try:
                return self.events.get(timeout=min(max(0.0, remaining_s), EVERY_S))
            except queue.Empty:
                if remaining_s <= EVERY_S:
                    return None
