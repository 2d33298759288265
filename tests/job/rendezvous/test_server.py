"""How the supervisors meet: who is counted in, who is sent away, and what an asker makes of any answer."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import pytest

from job.rendezvous.client import is_name
from job.rendezvous.server import FRESH_S, HELD, NAMED, Answer, Gathering, Refused, Request, ask, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HASH = "5e77" * 16


def waiting(rank: int, attempt: str = "a", workers: int = 3) -> Request:
    """The request of a worker that waits."""
    return Request("r", "u", HASH, workers, rank, attempt, "", f"10.0.0.{rank}:2222", "waiting", 0)


def running(rank: int, gathering: str, attempt: str = "a") -> Request:
    """The request of a worker whose trainer was started in a gathering."""
    return dataclasses.replace(waiting(rank, attempt), gathering=gathering, phase="training")


class Clock:
    """Monotonic seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        """The seconds."""
        return self.now


def opened(workers: int = 3) -> tuple[Gathering, Clock]:
    """A gathering in which nobody is yet, and its clock."""
    clock = Clock()
    return Gathering("r", "u", HASH, workers, clock), clock


def complete(gathering: Gathering, attempt: str = "a") -> str:
    """Have the three workers come; returns the gathering's id."""
    answers = [gathering.join(waiting(rank, attempt)) for rank in range(3)]
    assert answers[-1].addresses
    return answers[-1].gathering


def test_workers_are_counted_until_all_are_there() -> None:
    """In any order; who is missing is named, and nobody gets an address before all have come."""
    gathering, _ = opened()
    first, second, third = (gathering.join(waiting(rank)) for rank in (2, 0, 1))
    assert first == Answer(first.gathering, 1, (0, 1), ())
    assert second == Answer(first.gathering, 2, (1,), ())
    assert third == Answer(first.gathering, 3, (), ("10.0.0.0:2222", "10.0.0.1:2222", "10.0.0.2:2222"))
    assert len(first.gathering) >= 32  # nobody guesses it


def test_a_lost_answer_is_asked_for_again() -> None:
    """The same attempt changes nothing, before all have come and after; one worker alone is complete at once."""
    gathering, _ = opened()
    assert gathering.join(waiting(1)) == gathering.join(waiting(1))
    complete(gathering)
    answer = gathering.join(waiting(1))
    assert answer.addresses
    assert gathering.join(waiting(1)) == answer
    alone = opened(1)[0].join(waiting(0, workers=1))
    assert (alone.joined, alone.missing, alone.addresses) == (1, (), ("10.0.0.0:2222",))


def test_another_attempt_takes_its_ranks_place() -> None:
    """In a gathering that is not complete: the worker was replaced, and its new address counts."""
    gathering, _ = opened()
    before = gathering.join(waiting(1, "old"))
    after = gathering.join(dataclasses.replace(waiting(1, "new"), address="[fd00::1]:7"))
    assert after == before
    gathering.join(waiting(0))
    assert gathering.join(waiting(2)).addresses == ("10.0.0.0:2222", "[fd00::1]:7", "10.0.0.2:2222")
    late = gathering.join(waiting(1, "new"))
    assert late.gathering == before.gathering


def test_a_new_attempt_opens_a_new_gathering() -> None:
    """Once all had come; those whose trainers run hear its id, get no address, and are in it when they come again."""
    gathering, _ = opened()
    first = complete(gathering)
    assert gathering.join(running(0, first)) == Answer(first, 3, (), ())
    new = gathering.join(waiting(1, "b"))
    assert new == Answer(new.gathering, 1, (0, 2), ())
    assert new.gathering != first
    assert gathering.join(running(0, first)) == new  # never counted in while its trainer runs
    assert gathering.join(running(2, first)) == new
    gathering.join(waiting(0, "b"))
    assert gathering.join(waiting(2, "b")).addresses
    assert gathering.join(waiting(1, "b")).gathering == new.gathering


def test_who_missed_the_answer_joins_the_next_gathering() -> None:
    """A worker that never heard that the first was complete comes with the same attempt, and is one of the second."""
    gathering, _ = opened()
    complete(gathering)
    new = gathering.join(waiting(1, "b")).gathering
    assert gathering.join(waiting(2, "a")) == Answer(new, 2, (0,), ())


def test_a_silent_worker_is_missing() -> None:
    """Until it is heard again, so that no trainer waits for one that died while it waited."""
    gathering, clock = opened()
    first = gathering.join(waiting(0)).gathering
    clock.now = FRESH_S
    assert gathering.join(waiting(1)).joined == 2
    clock.now += 0.1
    assert gathering.join(waiting(2)) == Answer(first, 2, (0,), ())
    assert gathering.join(waiting(0)).addresses
    clock.now += 2 * FRESH_S  # then nothing changes, however long they train
    assert gathering.join(running(2, first)) == Answer(first, 3, (), ())


def test_what_was_heard_last() -> None:
    """Of each rank, waiting or not, for as long as it is fresh."""
    gathering, clock = opened()
    first = complete(gathering)
    clock.now = FRESH_S - 1
    gathering.join(running(1, first))
    gathering.join(running(1, "an older one"))
    assert gathering.heard() == {0: waiting(0), 1: running(1, "an older one"), 2: waiting(2)}
    clock.now = FRESH_S + 1
    assert gathering.heard() == {1: running(1, "an older one")}


def test_a_rank_0_that_was_replaced_opens_a_new_gathering() -> None:
    """It has no memory; those who train hear another id, and all meet again."""
    first = complete(opened()[0])
    again, _ = opened()
    answer = again.join(running(1, first))
    assert answer.gathering != first
    assert answer == Answer(answer.gathering, 0, (0, 1, 2), ())
    assert complete(again, "b") == answer.gathering


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("run", "s", "worker 0 there has the run 'r', and this worker has 's'"),
        ("job_uid", "v", "worker 0 there has the JOB_UID 'u', and this worker has 'v'"),
        ("workers", 4, "worker 0 there has the WORKERS 3, and this worker has 4"),
        (
            "settings",
            "0" * 64,
            (
                "worker 0 there has other settings: the flags or the dataset differ "
                "(hash 5e775e775e77 there, 000000000000 here)"
            ),
        ),
        ("rank", 3, "a worker's rank must be from 0 to 2, not 3"),
        ("rank", -1, "a worker's rank must be from 0 to 2, not -1"),
        ("address", "10.0.0.1", "a worker's address must be host:port, not '10.0.0.1'"),
        ("address", "h:0", "a worker's address must be host:port, not 'h:0'"),
        ("address", ":1", "a worker's address must be host:port, not ':1'"),
    ],
)
def test_a_stranger_is_refused(field: str, value: Any, sentence: str) -> None:
    """With what differs and both values, whether it waits or trains; it leaves no trace."""
    gathering, _ = opened()
    for request in (waiting(1), running(1, "g")):
        with pytest.raises(Refused) as refused:
            gathering.join(dataclasses.replace(request, **{field: value}))
        assert str(refused.value) == sentence
    assert gathering.heard() == {}
    assert gathering.join(waiting(0)).joined == 1


def test_all_who_wait_hear_of_the_last_one_at_once() -> None:
    """Their requests are kept until then, far longer here than any test waits."""
    workers = HELD
    gathering = Gathering("r", "u", HASH, workers)
    with ThreadPoolExecutor(workers) as threads:
        futures = [threads.submit(gathering.join, waiting(rank, workers=workers), 600) for rank in range(workers)]
        answers = [future.result(timeout=60) for future in futures]
    assert set(answers) == {answers[0]}
    assert answers[0].addresses == tuple(f"10.0.0.{rank}:2222" for rank in range(workers))


def test_no_more_than_a_hundred_are_kept() -> None:
    """One more is answered at once, and a place is free again once the others are answered."""
    workers = HELD + 2
    gathering = Gathering("r", "u", HASH, workers)
    with ThreadPoolExecutor(HELD) as threads:
        kept = [threads.submit(gathering.join, waiting(rank, workers=workers), 600) for rank in range(HELD)]
        deadline = time.monotonic() + 60
        while gathering._held < HELD and time.monotonic() < deadline:
            time.sleep(0.01)
        assert gathering.join(waiting(HELD, workers=workers), 600).missing == (HELD + 1,)
        assert gathering.join(waiting(HELD + 1, workers=workers), 600).addresses
        assert all(future.result(timeout=60).addresses for future in kept)
    assert gathering._held == 0


def test_a_wait_is_bounded() -> None:
    """Who waits for others that do not come is answered with who is there."""
    gathering = Gathering("r", "u", HASH, 3)
    answer = gathering.join(waiting(1), wait_s=0.05)
    assert answer == Answer(answer.gathering, 1, (0, 2), ())


def test_who_trains_is_never_kept_waiting() -> None:
    """However long it would be kept if it waited."""
    gathering = Gathering("r", "u", HASH, 3)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(gathering.join, running(1, "g"), 600).result(timeout=60).joined == 0


def test_a_thousand_workers() -> None:
    """They meet twice, with all their asking again, in well under a second; the missing are named in part."""
    workers = 1000
    gathering, _ = opened(workers)
    began = time.thread_time()  # not the clock: other processes may run here
    for attempt in "ab":
        for rank in range(workers):
            answer = gathering.join(waiting(rank, attempt, workers))
            assert answer.joined == rank + 1
            assert answer.missing == tuple(range(rank + 1, min(rank + 1 + NAMED, workers)))
        for rank in range(workers):
            assert gathering.join(waiting(rank, attempt, workers)) == answer
            gathering.join(dataclasses.replace(waiting(rank, attempt, workers), gathering=answer.gathering))
    assert len(gathering.heard()) == workers
    assert time.thread_time() - began < 1


def test_a_request_goes_over_the_network_as_it_is() -> None:
    """All fields, and no others."""
    request = running(2, "g")
    assert Request.from_json(to_json(request)) == request
    for answer in (Answer("g", 3, (), ("a:1", "[::1]:2")), Answer("g", 0, (0, 1), ())):
        assert Answer.from_json(to_json(answer)) == answer


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\x00\xfe",
        b"null",
        b"[]",
        b"{}",
        b"[" * 4000,
        to_json(waiting(1))[:-1],
        to_json(waiting(1))[:-1] + b', "more": 1}',
        b'{"run": "r"}',
    ],
)
def test_what_is_no_request_is_an_error(text: bytes) -> None:
    """JSON of another form, or none."""
    for kind in (Request, Answer):
        with pytest.raises(ValueError, match="it is not"):
            kind.from_json(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *zip(("run", "attempt", "address", "phase"), (1, None, ["a"], {}), strict=True),
        *(("phase", text) for text in ("two words", "line\n", "\x1b[2J", "é", "\ud800", "x" * 301)),
        *chain.from_iterable(
            zip(("rank", "workers", "restarts"), repeat(n)) for n in (-1, 2**31, 1.0, True, "1", None)
        ),
    ],
)
def test_a_value_that_no_worker_sends_is_an_error(field: str, value: Any) -> None:
    """Of another type, out of any bounds, or such that a log line could not hold it."""
    with pytest.raises(ValueError, match=f"^{field} has a value that no worker sends$"):
        Request.from_json(json.dumps({**vars(waiting(1)), field: value}).encode())


@contextmanager
def server(chunks: Iterable[bytes]) -> Iterator[str]:
    """The address of one that reads a little, writes these chunks, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(2**16)
                    for chunk in chunks:
                        connection.sendall(chunk)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        thread.join()


OK = b"HTTP/1.0 200 OK\r\n\r\n"
COMPLETE = to_json(Answer("g", 3, (), ("a:1", "b:2", "c:3")))


def test_an_answer_in_any_number_of_pieces() -> None:
    """Is put together."""
    with server(bytes([byte]) for byte in OK + COMPLETE) as address:
        assert ask(address, waiting(1), 60) == Answer("g", 3, (), ("a:1", "b:2", "c:3"))


def test_a_refusal_is_raised_with_its_sentence() -> None:
    """In one line of printable text, whatever came."""
    answer = b"HTTP/1.0 409 Conflict\r\nX: y\r\n\r\nanother\x1b[2J run\r\n"
    with server([answer]) as address, pytest.raises(Refused) as refused:
        ask(address, waiting(1), 60)
    assert str(refused.value) == "another[2J run"


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [OK[:12]],
        [OK],
        [OK + COMPLETE[:-1]],
        [b"HTTP/1.0 404 Not Found\r\n\r\n" + COMPLETE],
        [b"HTTP/1.0 500 Oh\r\n\r\n"],
        [b"SSH-2.0-OpenSSH_9.9\r\n"],
        [b"\x00\xff\r\n\r\n"],
        [OK + b"<html>"],
        [OK + b"{}"],
        [OK + to_json(Answer("g", 3, (), ("a:1",)))],  # one address of three
        [OK + json.dumps({**vars(Answer("g", 1, (), ())), "missing": [0.5]}).encode()],
        [OK + json.dumps({**vars(Answer("g", 1, (), ())), "addresses": ["a:1", "b", "c:3"]}).encode()],
        [OK + json.dumps({**vars(Answer("g g", 1, (), ()))}).encode()],
        repeat(b"x" * 2**16),
    ],
    ids=range(15),
)
def test_nonsense_is_an_os_error(chunks: Iterable[bytes]) -> None:
    """An answer that breaks off, is another server's, or does not end."""
    with server(chunks) as address, pytest.raises(OSError, match=r"no worker 0 is there|broke off|reset"):
        ask(address, waiting(1), 60)


def test_an_answer_that_drips_is_not_waited_for() -> None:
    """The time is for the whole of it, and not for each byte."""
    stop = threading.Event()

    def drip() -> Iterator[bytes]:
        while not stop.wait(0.02):
            yield b"x"

    with server(drip()) as address:
        with pytest.raises(TimeoutError):
            ask(address, waiting(1), 0.3)
        stop.set()


def test_nobody_there_is_an_os_error() -> None:
    """A port at which nobody listens, one at which nobody answers, and what is no host's name."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(TimeoutError):
            ask(f"127.0.0.1:{port}", waiting(1), 0.1)
    with pytest.raises(ConnectionRefusedError):
        ask(f"127.0.0.1:{port}", waiting(1), 60)
    with pytest.raises(OSError, match="no worker 0 is there"):
        ask(f"{'x' * 64}..y:{port}", waiting(1), 60)


@pytest.mark.parametrize(
    ("host", "named"),
    [("run-0.mnist-job", True), ("localhost", False), ("127.0.0.1", False), ("10.0.0.7", False), ("[fd00::1]", False)],
)
def test_what_dns_has_to_find(host: str, named: bool) -> None:
    """A name is left time to become known before it is asked for; an address, or this machine, is not."""
    assert is_name(host) is named
