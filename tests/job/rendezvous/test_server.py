"""Which workers belong to a round, and when a new one starts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from job.rendezvous import server
from job.rendezvous.messages import Refused, Reply, Request
from job.rendezvous.server import FRESH_S, MAX_NAMED, Rendezvous

HASH, MODEL = "5e77" * 16, "30de1" * 12 + "30de"


def waiting(rank: int, attempt: str = "a", workers: int = 3) -> Request:
    """The request of a worker that waits."""
    return Request(
        "r", "u", HASH, MODEL, workers, rank, "s", 1, attempt, "", f"10.0.{rank >> 8}.{rank & 255}:2222", "waiting", 0
    )


def running(rank: int, round_id: str, attempt: str = "a") -> Request:
    """The request of a worker whose trainer was started in a round."""
    return msgspec.structs.replace(waiting(rank, attempt), round_id=round_id, phase="training")


class Clock:
    """Monotonic seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        """The seconds."""
        return self.now


def opened(workers: int = 3) -> tuple[Rendezvous, Clock]:
    """A rendezvous that no worker has joined, and its clock."""
    clock = Clock()
    return Rendezvous("r", "u", HASH, MODEL, workers, clock), clock


def complete(rendezvous: Rendezvous, attempt: str = "a") -> str:
    """Let the three workers join; returns the id of the round."""
    answers = [rendezvous.join(waiting(rank, attempt)) for rank in range(3)]
    assert answers[-1].addresses
    return answers[-1].round_id


def test_workers_are_counted_until_all_have_joined() -> None:
    """In any order. The missing ranks are named, and no worker gets an address before the round is complete."""
    rendezvous, _ = opened()
    first, second, third = (rendezvous.join(waiting(rank)) for rank in (2, 0, 1))
    assert first == Reply(first.round_id, 1, (0, 1), ())
    assert second == Reply(first.round_id, 2, (1,), ())
    assert third == Reply(first.round_id, 3, (), ("10.0.0.0:2222", "10.0.0.1:2222", "10.0.0.2:2222"))
    assert len(first.round_id) >= 32  # cannot be guessed


def test_a_worker_may_ask_again_for_a_lost_reply() -> None:
    """The same attempt changes nothing, neither before the round is complete nor after; one worker is a whole round."""
    rendezvous, _ = opened()
    assert rendezvous.join(waiting(1)) == rendezvous.join(waiting(1))
    complete(rendezvous)
    reply = rendezvous.join(waiting(1))
    assert reply.addresses
    assert rendezvous.join(waiting(1)) == reply
    alone = opened(1)[0].join(waiting(0, workers=1))
    assert (alone.joined, alone.missing, alone.addresses) == (1, (), ("10.0.0.0:2222",))


def test_another_attempt_takes_the_place_of_its_rank() -> None:
    """If the round is not complete: the worker was replaced, and its new address counts."""
    rendezvous, _ = opened()
    before = rendezvous.join(waiting(1, "old"))
    after = rendezvous.join(msgspec.structs.replace(waiting(1, "new"), address="[fd00::1]:7"))
    assert after == before
    rendezvous.join(waiting(0))
    assert rendezvous.join(waiting(2)).addresses == ("10.0.0.0:2222", "[fd00::1]:7", "10.0.0.2:2222")
    late = rendezvous.join(waiting(1, "new"))
    assert late.round_id == before.round_id


def test_a_new_attempt_opens_a_new_round() -> None:
    """Workers whose trainers run see its id, get no address, and belong to it once they join again."""
    rendezvous, _ = opened()
    first = complete(rendezvous)
    assert rendezvous.join(running(0, first)) == Reply(first, 3, (), ())
    new = rendezvous.join(waiting(1, "b"))
    assert new == Reply(new.round_id, 1, (0, 2), ())
    assert new.round_id != first
    assert rendezvous.join(running(0, first)) == new  # not counted while its trainer runs
    assert rendezvous.join(running(2, first)) == new
    rendezvous.join(waiting(0, "b"))
    assert rendezvous.join(waiting(2, "b")).addresses
    assert rendezvous.join(waiting(1, "b")).round_id == new.round_id


def test_a_worker_that_missed_the_reply_joins_the_next_round() -> None:
    """It does not know that the first round was complete, and asks with the same attempt."""
    rendezvous, _ = opened()
    complete(rendezvous)
    new = rendezvous.join(waiting(1, "b")).round_id
    assert rendezvous.join(waiting(2, "a")) == Reply(new, 2, (0,), ())


def test_a_request_that_comes_late_is_ignored() -> None:
    """The worker has sent newer requests since, and its trainer may already run in the previous round."""
    rendezvous, _ = opened()
    late = msgspec.structs.replace(waiting(2), number=0)
    first = complete(rendezvous)
    new = rendezvous.join(waiting(1, "b"))
    assert rendezvous.join(late) == new  # worker 2 is missing
    rendezvous.join(waiting(0, "b"))
    assert rendezvous.join(msgspec.structs.replace(running(2, first), number=2)) == Reply(new.round_id, 2, (2,), ())
    assert rendezvous.join(waiting(2, "a")) == Reply(new.round_id, 2, (2,), ())
    assert rendezvous.latest_requests()[2].round_id == first
    again = msgspec.structs.replace(waiting(2, "b"), number=3)
    assert rendezvous.join(again).addresses
    assert rendezvous.join(late) == Reply(new.round_id, 3, (), ())  # nor does it open another round
    replaced = msgspec.structs.replace(waiting(2, "c"), sender="another", number=0)
    assert rendezvous.join(replaced).round_id != new.round_id  # a new supervisor counts from the start


def test_a_silent_worker_is_missing() -> None:
    """Until it asks again, so that no trainer waits for a worker that died while it waited."""
    rendezvous, clock = opened()
    first = rendezvous.join(waiting(0)).round_id
    clock.now = FRESH_S
    assert rendezvous.join(waiting(1)).joined == 2
    clock.now += 0.1
    assert rendezvous.join(waiting(2)) == Reply(first, 2, (0,), ())
    assert rendezvous.join(waiting(0)).addresses
    clock.now += 2 * FRESH_S  # a complete round does not change, however long they train
    assert rendezvous.join(running(2, first)) == Reply(first, 3, (), ())


def test_the_latest_request_of_each_rank_is_kept() -> None:
    """Whether it waits or trains, for FRESH_S."""
    rendezvous, clock = opened()
    first = complete(rendezvous)
    clock.now = FRESH_S - 1
    rendezvous.join(running(1, first))
    rendezvous.join(running(1, "an older one"))
    assert rendezvous.latest_requests() == {0: waiting(0), 1: running(1, "an older one"), 2: waiting(2)}
    clock.now = FRESH_S + 1
    assert rendezvous.latest_requests() == {1: running(1, "an older one")}


def test_a_rank_0_that_was_replaced_opens_a_new_round() -> None:
    """It remembers nothing. The workers that train see another id, and all join again."""
    first = complete(opened()[0])
    again, _ = opened()
    reply = again.join(running(1, first))
    assert reply.round_id != first
    assert reply == Reply(reply.round_id, 0, (0, 1, 2), ())
    assert complete(again, "b") == reply.round_id


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("run", "s", "worker 0 has the run 'r', but this worker has 's'"),
        ("job_uid", "v", "worker 0 has the JOB_UID 'u', but this worker has 'v'"),
        ("workers", 4, "worker 0 has the WORKERS 3, but this worker has 4"),
        (
            "model",
            "0" * 64,
            (
                "worker 0 has another model: model.py has SHA-256 30de130de130 there and 000000000000 here; "
                "give all workers the same model.py or image"
            ),
        ),
        (
            "settings",
            "0" * 64,
            (
                "worker 0 has other settings: the flags or the dataset differ "
                "(hash 5e775e775e77 there, 000000000000 here)"
            ),
        ),
        ("rank", 3, "a worker's rank must be from 0 to 2, not 3"),
        ("address", "10.0.0.1", "a worker's address must be host:port, not '10.0.0.1'"),
        ("address", "h:0", "a worker's address must be host:port, not 'h:0'"),
        ("address", ":1", "a worker's address must be host:port, not ':1'"),
    ],
)
def test_a_worker_of_another_run_is_refused(field: str, value: Any, sentence: str) -> None:
    """Whether it waits or trains. The reason names what differs and both values, and nothing of it is kept."""
    rendezvous, _ = opened()
    for request in (waiting(1), running(1, "g")):
        with pytest.raises(Refused) as refused:
            rendezvous.join(msgspec.structs.replace(request, **{field: value}))
        assert str(refused.value) == sentence
    assert rendezvous.latest_requests() == {}
    assert rendezvous.join(waiting(0)).joined == 1


def test_rank_0_knows_why_it_refused_a_worker_that_is_missing() -> None:
    """The reason is kept until that worker joins. A stranger with the rank of a joined worker does not count."""
    rendezvous, _ = opened()
    other = msgspec.structs.replace(waiting(2), model="0" * 64)
    with pytest.raises(Refused):
        rendezvous.join(other)
    assert rendezvous.refusal() == (
        "worker 2 has another model: model.py has SHA-256 000000000000 there and 30de130de130 here; "
        "give all workers the same model.py or image"
    )
    rendezvous.join(waiting(2))
    assert not rendezvous.refusal()
    with pytest.raises(Refused):
        rendezvous.join(other)
    assert not rendezvous.refusal()


def test_all_waiting_workers_get_their_replies_when_the_last_one_joins() -> None:
    """Although each might wait far longer."""
    workers = 100
    rendezvous = Rendezvous("r", "u", HASH, MODEL, workers)

    async def meet() -> list[Reply]:
        requests = [waiting(rank, workers=workers) for rank in range(workers)]
        tasks = [asyncio.create_task(rendezvous.join_and_wait(request, 4)) for request in requests[:-1]]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        return [await rendezvous.join_and_wait(requests[-1], 4), *await asyncio.gather(*tasks)]

    replies = asyncio.run(meet())
    assert set(replies) == {replies[0]}
    assert replies[0].addresses == tuple(f"10.0.{rank >> 8}.{rank & 255}:2222" for rank in range(workers))


def test_a_worker_whose_trainer_runs_hears_at_once_that_another_round_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 holds its reply back until another round is open."""
    monkeypatch.setattr(server, "HEARTBEAT_S", 1e6)
    rendezvous, _ = opened()
    request = running(2, complete(rendezvous))

    async def lose() -> Reply:
        task = asyncio.create_task(rendezvous.join_and_wait(request, 1e6))
        await asyncio.sleep(0)
        assert not task.done()
        opening = rendezvous.join(waiting(1, "b"))
        assert await task == opening
        return await rendezvous.join_and_wait(request, 1e6)

    assert asyncio.run(lose()).round_id != request.round_id


def test_a_wait_without_news_is_bounded() -> None:
    """A worker whose round is over is answered at once, and one whose trainer runs after HEARTBEAT_S at most."""
    rendezvous, _ = opened()
    request = running(1, complete(rendezvous))
    assert asyncio.run(rendezvous.join_and_wait(request, 1e6)).round_id == request.round_id
    rendezvous = Rendezvous("r", "u", HASH, MODEL, 3)
    assert asyncio.run(rendezvous.join_and_wait(running(1, "g"), 1e6)).joined == 0
    reply = asyncio.run(rendezvous.join_and_wait(waiting(1), 0.05))
    assert reply == Reply(reply.round_id, 1, (0, 2), ())


def test_a_thousand_workers() -> None:
    """They complete two rounds, with repeated requests, in well under a second; only some missing ranks are named."""
    workers = 1000
    rendezvous, _ = opened(workers)
    began = time.thread_time()  # not the clock: other processes may run here
    for attempt in "ab":
        for rank in range(workers):
            reply = rendezvous.join(waiting(rank, attempt, workers))
            assert reply.joined == rank + 1
            assert reply.missing == tuple(range(rank + 1, min(rank + 1 + MAX_NAMED, workers)))
        for rank in range(workers):
            assert rendezvous.join(waiting(rank, attempt, workers)) == reply
            rendezvous.join(msgspec.structs.replace(waiting(rank, attempt, workers), round_id=reply.round_id))
    assert len(rendezvous.latest_requests()) == workers
    assert time.thread_time() - began < 1
