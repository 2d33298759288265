"""How the supervisors meet before any trainer starts: each asks rank 0 until all are there, and keeps telling it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import threading
import time
from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.cluster import is_address

if TYPE_CHECKING:
    from collections.abc import Callable

FRESH_S = 5.0  # how long a worker that says nothing still counts as there
NAMED = 20  # so many missing ranks are named: all of a thousand would make each of a thousand answers long
HELD = 100  # so many answers are held back at most, for each costs a thread and a connection, which pods may lack
ANSWER_BYTES = 2**20  # what a thousand addresses need, three times
REFUSAL_BYTES = 1000
TEXT = re.compile(r"[!-~]{0,300}")  # ASCII without blanks or control characters, for it may be shown in a log line


@dataclass(frozen=True)
class Request:
    """What a supervisor tells rank 0, once a second.

    settings is the settings hash. attempt is a random text, new for each attempt to join and kept while the trainer
    that it led to lives; gathering is empty while the worker waits, then the id of the gathering in which its trainer
    was started. address is the host:port of its TensorFlow server.
    """

    run: str
    job_uid: str
    settings: str
    workers: int
    rank: int
    attempt: str
    gathering: str
    address: str
    phase: str
    restarts: int

    @classmethod
    def from_json(cls, text: bytes) -> Request:
        """The request that to_json() wrote.

        Raises:
            ValueError: it is not JSON, or has other keys or values than a worker sends.
        """
        values = _json_object(text, cls)
        for field in dataclasses.fields(cls):
            value = values[field.name]
            if not (_is_text(value) if field.type == "str" else _is_number(value)):
                raise ValueError(f"{field.name} has a value that no worker sends")
        return cls(**values)


@dataclass(frozen=True)
class Answer:
    """What rank 0 answers: the id of the present gathering and who is there.

    missing names the ranks that are not, the lowest 20 of them at most. addresses holds every rank's, in order, once
    all have joined, for one of them that waits; else it is empty.
    """

    gathering: str
    joined: int
    missing: tuple[int, ...]
    addresses: tuple[str, ...]

    @classmethod
    def from_json(cls, text: bytes) -> Answer:
        """The answer that to_json() wrote.

        Raises:
            ValueError: it is not JSON, or has other keys or values than rank 0 sends.
        """
        values = _json_object(text, cls)
        missing, addresses = values["missing"], values["addresses"]
        if (
            not (_is_text(values["gathering"]) and _is_number(values["joined"]))
            or not (isinstance(missing, list) and all(map(_is_number, missing)))
            or not (isinstance(addresses, list) and all(_is_text(one) and is_address(one) for one in addresses))
        ):
            raise ValueError("the answer has a value that rank 0 does not send")
        return cls(values["gathering"], values["joined"], tuple(missing), tuple(addresses))


class Refused(Exception):  # noqa: N818 - it is an answer
    """Rank 0 has nothing to do with this worker; one sentence says why."""


class Gathering:
    """Rank 0's view of who has come. A request may come in any thread.

    A gathering is complete when every rank waits and none has been silent for FRESH_S; from then on it does not
    change, and a worker that waits with another attempt opens the next one. Whose trainer runs learns from the new id
    to end it and to come again.

    Args:
        run: the run's name; this and the next three must be every worker's.
        job_uid: its Job's UID.
        settings: the settings hash.
        workers: how many there are.
        clock: monotonic seconds.
    """

    def __init__(
        self, run: str, job_uid: str, settings: str, workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._own = {"run": run, "JOB_UID": job_uid, "WORKERS": workers}
        self._settings, self._workers, self._clock = settings, workers, clock
        self._heard: OrderedDict[int, tuple[float, Request]] = OrderedDict()  # by rank, the longest silent first
        self._changed = threading.Condition()
        self._held = 0
        self._open()

    def join(self, request: Request, wait_s: float = 0) -> Answer:
        """Hear a worker, and count it in if it waits.

        Args:
            request: what it says.
            wait_s: seconds, below FRESH_S, for which one that waits is kept until the gathering is complete, if
                not HELD others are. That another one has come ends no wait: each of N workers would be answered
                N times.

        Raises:
            Refused: it belongs to another run, has other settings, or cannot be one of the workers.
        """
        self._check(request)
        with self._changed:
            self._forget_silent()
            self._heard[request.rank] = self._clock(), request
            self._heard.move_to_end(request.rank)
            if not request.gathering:
                self._register(request)
                self._hold(wait_s)
                self._forget_silent()
            return self._answer(request)

    def heard(self) -> dict[int, Request]:
        """What each rank said last, of those heard in the last FRESH_S."""
        with self._changed:
            since = self._clock() - FRESH_S
            return {rank: request for rank, (when, request) in self._heard.items() if when >= since}

    def longest_silent(self) -> tuple[int, float]:
        """The rank that has said nothing for longest, of those that have come, and when it last did, by the clock."""
        with self._changed:
            rank, (when, _) = next(iter(self._heard.items()))
            return rank, when

    def _check(self, request: Request) -> None:
        theirs = {"run": request.run, "JOB_UID": request.job_uid, "WORKERS": request.workers}
        for what, own in self._own.items():
            if own != theirs[what]:
                raise Refused(f"worker 0 there has the {what} {own!r}, and this worker has {theirs[what]!r}")
        if request.settings != self._settings:
            raise Refused(
                "worker 0 there has other settings: the flags or the dataset differ "
                f"(hash {self._settings[:12]} there, {request.settings[:12]} here)"
            )
        if not 0 <= request.rank < self._workers:
            raise Refused(f"a worker's rank must be from 0 to {self._workers - 1}, not {request.rank}")
        if not is_address(request.address):
            raise Refused(f"a worker's address must be host:port, not {request.address!r}")

    def _open(self) -> None:
        """Begin a new gathering, with nobody in it."""
        self._id = os.urandom(16).hex()
        self._members: dict[int, Request] = {}
        self._absent = list(range(self._workers))  # sorted, so that the lowest are at hand
        self._addresses: tuple[str, ...] = ()  # known when it is complete

    def _register(self, request: Request) -> None:
        rank = request.rank
        if self._addresses:
            if self._members[rank].attempt == request.attempt:
                return
            self._open()
        if rank not in self._members:
            del self._absent[bisect_left(self._absent, rank)]
        self._members[rank] = request
        if not self._absent:
            self._addresses = tuple(self._members[rank].address for rank in range(self._workers))
            self._changed.notify_all()

    def _hold(self, wait_s: float) -> None:
        """Wait until the present gathering is complete or over, where not too many do so already."""
        if self._held == HELD:
            return
        present = self._id
        self._held += 1
        self._changed.wait_for(lambda: self._addresses or self._id != present, wait_s)
        self._held -= 1

    def _forget_silent(self) -> None:
        """Count those out that wait no more; of a complete gathering nobody is forgotten."""
        while self._heard and not self._addresses:
            rank, (when, _) = next(iter(self._heard.items()))
            if self._clock() - when <= FRESH_S:
                break
            del self._heard[rank]
            if rank in self._members:
                del self._members[rank]
                insort(self._absent, rank)

    def _answer(self, request: Request) -> Answer:
        member = self._members.get(request.rank)
        belongs = not request.gathering and member is not None and member.attempt == request.attempt
        addresses = self._addresses if belongs else ()
        return Answer(self._id, len(self._members), tuple(self._absent[:NAMED]), addresses)


def ask(supervisor: str, request: Request, timeout_s: float) -> Answer:
    """Ask rank 0.

    Args:
        supervisor: host:port of rank 0's supervisor.
        request: what to say.
        timeout_s: seconds for the connection, and for the answer; finding the host's address may take longer.

    Raises:
        OSError: nobody answers there, not wholly, or with what rank 0 would not answer.
        Refused: rank 0 there is another run's, or has other settings.
    """
    try:
        return _understood(_exchange(supervisor, to_json(request), timeout_s), request.workers)
    except ValueError as error:  # also what is no host's name
        raise OSError(f"no worker 0 is there: {error}") from None


def _exchange(supervisor: str, body: bytes, timeout_s: float) -> bytes:
    """What a server answers, whole; not by http.client, whose timeout starts again with each byte that drips in."""
    host, _, port = supervisor.rpartition(":")
    head = f"POST /join HTTP/1.0\r\nHost: {supervisor}\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = bytearray()
    with socket.create_connection((host.strip("[]"), int(port)), timeout_s) as connection:
        deadline = time.monotonic() + timeout_s
        connection.sendall(head.encode() + body)
        while chunk := connection.recv(2**16):
            answer += chunk
            if len(answer) > ANSWER_BYTES:
                raise ValueError("its answer does not end")
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError(f"no whole answer within {timeout_s:g} s")
            connection.settimeout(left)
    return bytes(answer)


def _understood(answer: bytes, workers: int) -> Answer:
    """The Answer, or the refusal, in what a server answered."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank and b"HTTP/1.0 ".startswith(head[:9]):
        raise ConnectionError("the answer broke off")
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3}) ", head)
    if status and status[1] == b"409":
        raise Refused(re.sub(r"[^ -~]", "", body[:REFUSAL_BYTES].decode("latin-1")))
    if not status or status[1] != b"200":
        raise ValueError(f"it answers {head[:40].decode('latin-1')!r}")
    found = Answer.from_json(body)
    if len(found.addresses) not in (0, workers):
        raise ValueError(f"it gives {len(found.addresses)} addresses of {workers} workers")
    return found


def to_json(message: Request | Answer) -> bytes:
    """A request or an answer as it goes over the network."""
    return json.dumps(vars(message)).encode()


def _json_object(text: bytes, of: type[Request | Answer]) -> dict[str, Any]:
    """The fields of a dataclass from JSON, their values not checked yet."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    names = [field.name for field in dataclasses.fields(of)]
    if not isinstance(values, dict) or set(values) != set(names):
        raise ValueError(f"it is not an object with the keys {', '.join(names)}")
    return values


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and TEXT.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31  # a boolean is none
