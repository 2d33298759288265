"""The messages between a supervisor and rank 0's supervisor, as JSON."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

# ASCII without spaces and control characters, because log lines show it.
Text = Annotated[str, msgspec.Meta(max_length=300, pattern=r"\A[!-~]*\Z")]
Address = Annotated[str, msgspec.Meta(max_length=300, pattern=r"\A([!-~]+:[0-9]{1,5})?\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every supervisor sends to rank 0's once a second.

    settings is the settings hash; model, the SHA-256 of model.py, is part of it too. sender is a random text, the same
    in all requests of a supervisor; number counts them. attempt is a random text, new for each attempt to join.
    round_id is empty while the worker waits for the others; then it names the round in which its trainer was started.
    address is the host:port of its TensorFlow server.
    """

    run: Text
    job_uid: Text
    settings: Text
    model: Text
    workers: Count
    rank: Count
    sender: Text
    number: Count
    attempt: Text
    round_id: Text
    address: Text
    phase: Text
    restarts: Count


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rank 0's reply: the current round, how many workers have joined it and which are missing.

    missing has the lowest missing ranks, at most 20. addresses has the address of every rank, in order, if the round is
    complete and the worker that asked has joined it; otherwise it is empty. The address of a rank that is not in the
    round is empty. outside says that the round is complete without the worker that asked.
    """

    round_id: Text
    joined: Count
    missing: tuple[Count, ...]
    addresses: tuple[Address, ...]
    outside: bool = False


class Refused(Exception):  # noqa: N818 - a reply, not a fault
    """Rank 0 does not accept this worker; one sentence says why."""


Message = TypeVar("Message", bound=msgspec.Struct)


def encode(message: msgspec.Struct) -> bytes:
    """A message as JSON."""
    return msgspec.json.encode(message)


def decode(text: bytes, kind: type[Message]) -> Message:
    """The message that encode() made.

    Raises:
        ValueError: it is not JSON, or a field is missing, unknown, of another type or out of bounds.
    """
    return msgspec.json.decode(text, type=kind)
