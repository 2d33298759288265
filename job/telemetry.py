"""The one progress record of a worker: a JSON line in the pipe and in events.jsonl, logfmt on standard output."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIPE = "TELEMETRY_FD"  # the environment variable with the number of the trainer's pipe to its supervisor
RESTARTS = "RESTARTS"  # and the one that says how often the trainer was started again

_PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S*)')
_BARE = re.compile(r'[^\s"=\\]+')


@dataclass(frozen=True)
class Record:
    """One moment of one worker. None: not known in this phase, and not written.

    time is seconds since 1970 (UTC), loss the mean cross-entropy in nats over the examples since the last
    record, accuracy the share of test examples classified rightly, examples_per_s the rate over all workers.
    checkpoint is the step of the newest checkpoint on the volume; restarts counts this worker's trainers that ended
    and were started again. joined says how many workers have come while others are waited for. Rank 0's workers holds,
    by rank, {phase, restarts} of those that are in another phase than most or were started again.
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
        """The fields that are known, in order."""
        return {k: v for k, v in vars(self).items() if v is not None}


_TYPES = {
    name: next(t for t in (dict, float, int, str) if t.__name__ in str(hint))
    for name, hint in get_type_hints(Record).items()
}


def to_json(record: Record) -> str:
    """One line of JSON, without its line end."""
    return json.dumps(record.values())


def to_logfmt(record: Record) -> str:
    """One line of logfmt, without its line end; a value with a space, a quote or a line end is a JSON string."""
    return " ".join(f"{key}={word(value)}" for key, value in record.values().items())


def word(value: Any) -> str:
    """A value as logfmt has it."""
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3f}".rstrip("0").rstrip(".")
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def parse(line: str) -> Record | None:
    """The record of one line, JSON or logfmt; None for a line that holds none, as a torn one does."""
    try:
        if line.lstrip().startswith("{"):
            found = json.loads(line)
        else:
            found = {key: json.loads(word) if word.startswith('"') else word for key, word in _PAIR.findall(line)}
        if "workers" in found and isinstance(found["workers"], str):
            found["workers"] = json.loads(found["workers"])
        fields: dict[str, Any] = {key: _TYPES[key](value) for key, value in found.items() if key in _TYPES}
        return Record(**fields)
    except (ValueError, TypeError, OverflowError):
        return None


def read(lines: Iterable[str]) -> Iterator[Record]:
    """The records of a stream, whatever else stands in it; a last line without its end is torn, and skipped."""
    for line in lines:
        if line.endswith("\n") and (record := parse(line)):
            yield record


def say(line: str, stream: TextIO | None = None) -> None:
    """Write a line at once, on standard output where no stream is given.

    Training goes on when nobody reads any more, as after `| head`: this line and the later ones then go nowhere.
    """
    stream = stream or sys.stdout
    try:
        stream.write(line + "\n")
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
