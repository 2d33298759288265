"""The progress record of a worker: a JSON line in its trainer's pipe and in events.jsonl, logfmt on standard output."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, get_type_hints

from job.streams import or_discard
from job.time_spent import TimeSpent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Environment variables that a supervisor sets for its trainer.
PIPE = "TELEMETRY_FD"  # file descriptor of the pipe that takes the trainer's records
RESTARTS = "RESTARTS"  # how often the trainer was restarted

HEARTBEAT_S = 1.0
# What no trainer sends, but a line of its log may contain.
LINE_LIMIT, NUMBER_LIMIT = 1 << 16, 1 << 53

_PAIR = re.compile(r'(?<![a-z_])([a-z_]+)=("(?:[^"\\]|\\.)*"|\S*)')
_BARE = re.compile(r'[^\s"=\\\x00-\x1f\x7f-\x9f]+')


@dataclass(frozen=True)
class Record:
    """The state of one worker at one time. A field that is None is unknown in this phase, and not written.

    Attributes:
        time: seconds since 1970 (UTC).
        loss: mean cross-entropy in nats over the examples since the last record.
        accuracy: share of the test examples that are classified correctly.
        examples_per_s: over all workers.
        eta_s: seconds of training that are left.
        checkpoint: step of the newest checkpoint on the volume.
        restarts: how often this worker's trainer was restarted.
        joined: how many workers have joined, while this one waits for the others; later only if some are missing.
        workers: from rank 0 only: {rank: {"phase", "restarts"}} of each worker that was restarted or whose phase
            differs from that of most workers.
        code: exit code of a worker that has ended; reason, message and hint are those of its JobError.
    """

    time: float
    run: str
    rank: int
    phase: str
    epoch: int | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    examples_per_s: float | None = None
    eta_s: float | None = None
    checkpoint: int | None = None
    restarts: int = 0
    joined: int | None = None
    workers: dict[str, Any] | None = None
    code: int | None = None
    reason: str | None = None
    message: str | None = None
    hint: str | None = None

    def values(self) -> dict[str, Any]:
        """The fields that are known, in the order of the class."""
        return {name: value for name, value in vars(self).items() if value is not None}


_TYPES = {
    name: next(t for t in (dict, float, int, str) if t.__name__ in str(hint))
    for name, hint in get_type_hints(Record).items()
}


def to_json(record: Record) -> str:
    """The record as one line of JSON, without a line end."""
    return json.dumps(record.values())


def to_logfmt(record: Record) -> str:
    """The record as one line of logfmt, without a line end."""
    return " ".join(f"{key}={logfmt_value(value)}" for key, value in record.values().items())


def logfmt_value(value: Any) -> str:
    """One value in logfmt; text with a space, a quote, an equals sign or a line end becomes a JSON string."""
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3f}".rstrip("0").rstrip(".")
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def parse(line: str) -> Record | None:
    """The record in a line of JSON or logfmt; None if the line is torn or holds no record."""
    if len(line) > LINE_LIMIT:
        return None
    try:
        if line.lstrip().startswith("{"):
            values = json.loads(line)
        else:
            values = {key: json.loads(text) if text.startswith('"') else text for key, text in _PAIR.findall(line)}
        if "workers" in values and isinstance(values["workers"], str):
            values["workers"] = json.loads(values["workers"])
        fields: dict[str, Any] = {key: _TYPES[key](value) for key, value in values.items() if key in _TYPES}
        if any(isinstance(value, int) and abs(value) > NUMBER_LIMIT for value in fields.values()):
            return None
        return Record(**fields)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def read_records(lines: Iterable[str]) -> Iterator[Record]:
    """The records in a stream of lines. Other lines are skipped, and a last line without its line end."""
    for line in lines:
        if line.endswith("\n") and (record := parse(line)):
            yield record


def write_line(line: str, stream: TextIO | None = None) -> None:
    """Write a line to a stream, by default standard output, and flush it.

    If the reader has closed the pipe, as `head` does, this line and all later ones are discarded and training goes on.
    """
    stream = stream or sys.stdout
    with or_discard(stream):
        stream.write(line + "\n")
        stream.flush()


class Reporter:
    """Sends a trainer's records to its supervisor and to an attached journal. Safe to use from several threads.

    The pipe to the supervisor is line-buffered; restarts says how often this worker's trainer was restarted, and spent
    where the worker's time went until now, by time.monotonic().
    """

    def __init__(self, run: str, rank: int, pipe: TextIO, restarts: int, spent: TimeSpent | None = None) -> None:
        self.spent = spent or TimeSpent(time.monotonic())
        self._identity, self._pipe, self._restarts = (run, rank), pipe, restarts
        self._lock = threading.Lock()
        self._phase, self._sent_at = "", 0.0
        self._journal: Callable[[Record], None] | None = None

    def attach(self, journal: Callable[[Record], None]) -> None:
        """Pass every later record to the journal too, but no heartbeats."""
        self._journal = journal

    def __call__(self, phase: str, **fields: Any) -> None:
        """Send a record with the given fields."""
        record = self._send(phase, **fields)
        if self._journal:
            self._journal(record)

    def heartbeat(self, phase: str = "", **fields: Any) -> None:
        """Report progress to the supervisor only, at most once a second unless the phase is a new one.

        Args:
            phase: by default the current one.
            fields: of the record.
        """
        if phase not in {"", self._phase} or time.monotonic() >= self._sent_at + HEARTBEAT_S:
            self._send(phase or self._phase, **fields)

    def start_pulse(self) -> None:
        """Write an empty line every second from now on: the process is not stopped, although its work may hang.

        Call this after the import of TensorFlow, which blocks all other Python threads for seconds.
        """

        def write() -> None:
            while True:
                with self._lock:
                    self._pipe.write("\n")
                time.sleep(HEARTBEAT_S)

        threading.Thread(target=write, name="pulse", daemon=True).start()

    def _send(self, phase: str, **fields: Any) -> Record:
        self._phase, self._sent_at = phase, time.monotonic()
        record = Record(time.time(), *self._identity, phase, restarts=self._restarts, **fields)
        with self._lock:
            self.spent.update(self._sent_at, phase, record.step)
            self._pipe.write(to_json(record) + "\n")
        return record
