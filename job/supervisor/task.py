"""What a supervisor starts: a process that tells by records how it goes, and ends with an exit code that says it."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from job import telemetry
from job.cluster import Cluster, identify
from job.config import Config, parse
from job.errors import Exit, JobError
from job.system import process

if TYPE_CHECKING:
    from collections.abc import Callable

# How a collective ends when a peer goes away or, the last one, hangs, by the names of TensorFlow's errors.
LOST_PEER = {"AbortedError", "CancelledError", "UnavailableError", "DeadlineExceededError"}
# And by NCCL's words, which TensorFlow passes on as an InternalError.
NCCL_LOST_PEER = re.compile("remote process exited or there was a network error|unhandled system error")
BEAT_S = 1.0
PACKAGE = Path(__file__).parents[1]


class Teller:
    """Sends this worker's records to the supervisor and, once there is a journal, to the run's folder.

    Args:
        cluster: who this worker is.
        pipe: the number of the pipe to the supervisor.
        restarts: how often this worker was started again.
    """

    def __init__(self, cluster: Cluster, pipe: int, restarts: int) -> None:
        self._cluster, self._restarts = cluster, restarts
        self._pipe = os.fdopen(pipe, "w", buffering=1, encoding="utf-8")
        self._lock = threading.Lock()
        self._phase, self._told_at = "", 0.0
        self.journal: Callable[[telemetry.Record], None] | None = None

    def __call__(self, phase: str, **fields: Any) -> None:
        """Send a record of the given fields."""
        record = self._send(phase, **fields)
        if self.journal:
            self.journal(record)

    def beat(self, phase: str = "", **fields: Any) -> None:
        """Say that it goes on, without a figure: for the supervisor alone, and once a second at most.

        Args:
            phase: the present one where none is given; a new one is told at once.
            fields: of the record.
        """
        if phase not in {"", self._phase} or time.monotonic() >= self._told_at + BEAT_S:
            self._send(phase or self._phase, **fields)

    def pulse(self) -> None:
        """Show from now on, by an empty line a second, that this process is not stopped; its work may hang even so.

        To be called once TensorFlow is imported, which keeps every other Python thread waiting.
        """

        def write() -> None:
            while True:
                with self._lock:
                    self._pipe.write("\n")
                time.sleep(BEAT_S)

        threading.Thread(target=write, name="pulse", daemon=True).start()

    def _send(self, phase: str, **fields: Any) -> telemetry.Record:
        self._phase, self._told_at = phase, time.monotonic()
        cluster = self._cluster
        record = telemetry.Record(time.time(), cluster.run, cluster.rank, phase, restarts=self._restarts, **fields)
        with self._lock:
            self._pipe.write(telemetry.to_json(record) + "\n")
        return record


def main(work: Callable[[Config, Cluster, Teller], int]) -> NoReturn:
    """Do the work, with the command line and the environment that the supervisor gives, and end with its exit code."""
    process.end_with_parent()
    if telemetry.PIPE not in os.environ:
        sys.exit("this is started by a supervisor: run `python -m job train`")
    config, cluster = parse(sys.argv[1:]), identify(os.environ)
    if cluster is None:
        raise RuntimeError("the supervisor gave no identity")
    tell = Teller(cluster, int(os.environ[telemetry.PIPE]), int(os.environ[telemetry.RESTARTS]))
    try:
        code = work(config, cluster, tell)
    except Exception as error:  # noqa: BLE001 - whatever it is, it becomes an exit code and a sentence
        failure = explain(error, cluster.workers)
        if failure.code == Exit.BUG:
            traceback.print_exc()
        code = failure.code
        fields = {"reason": failure.reason, "message": failure.message, "hint": failure.hint or None}
        with suppress(JobError):  # the journal's, which may be what failed
            tell("failed", code=int(code), **fields)
    # TensorFlow's threads have kept a finished process from exiting for up to 40 s.
    sys.stderr.flush()
    os._exit(code)


def explain(error: Exception, workers: int) -> JobError:
    """The exit code, reason and sentence of what ended the work of one of so many workers."""
    if isinstance(error, JobError):
        return error
    name, first_line = type(error).__name__, (str(error).splitlines() or [""])[0]
    lost = name in LOST_PEER or NCCL_LOST_PEER.search(str(error))
    tensorflows = type(error).__module__.startswith("tensorflow")
    if workers > 1 and tensorflows and lost:
        # Its first line says that a graph failed, and one far below why: `Collective ops is aborted by: ...`.
        cause = re.search(r"aborted by: (.+)", str(error)) or re.search(r"(NCCL: .+)", str(error))
        what = cause[1] if cause else first_line
        return JobError(Exit.TRY_AGAIN, "peer-lost", f"a peer was lost: {name}: {what}", "start the run again")
    if isinstance(error, MemoryError) or (tensorflows and name == "ResourceExhaustedError"):
        hint = "give it more memory, or a smaller --batch-size"
        return JobError(Exit.OUT_OF_MEMORY, "out-of-memory", f"memory ran out: {name}: {first_line}", hint)
    # The last place in this project's own code: below it are TensorFlow's depths, and code that it generated.
    frames = traceback.extract_tb(error.__traceback__)
    place = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)][-1]
    message = f"{name} at {place.filename}:{place.lineno}: {first_line}"
    return JobError(Exit.BUG, "bug", message, "please report it with the lines above")
