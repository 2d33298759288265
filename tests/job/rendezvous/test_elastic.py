"""Rounds of a run that can train without some of its workers."""

from __future__ import annotations

import asyncio
import threading

import msgspec
import pytest

from job.rendezvous import server
from job.rendezvous.messages import Reply, Request
from job.rendezvous.server import ALIVE_S, FIRST_S, FRESH_S, LOSS_S, ON_THE_WAY_S, Rendezvous
from tests.job.rendezvous.test_server import HASH, MODEL, Clock, running, waiting

LEAST, WORKERS = 2, 4


def opened() -> tuple[Rendezvous, Clock]:
    """A rendezvous of four workers, two of which are enough, and its clock."""
    clock = Clock()
    return Rendezvous("r", "u", HASH, MODEL, WORKERS, clock, LEAST), clock


def join(rendezvous: Rendezvous, *ranks: int, attempt: str = "a") -> list[Reply]:
    """The replies to these workers' requests."""
    return [rendezvous.join(asking(rank, attempt)) for rank in ranks]


def asking(rank: int, attempt: str) -> Request:
    """The request of one of these four workers, which waits."""
    return msgspec.structs.replace(waiting(rank, attempt, WORKERS), sender=str(rank))


def keep_asking(rendezvous: Rendezvous, clock: Clock, seconds: float, *ranks: int) -> list[Reply]:
    """The replies to these workers' last requests, which they repeat for so many seconds."""
    until = clock.now + seconds
    while clock.now < until:
        clock.now = min(clock.now + 1, until)
        replies = join(rendezvous, *ranks)
    return replies


def members(reply: Reply) -> list[int]:
    """The ranks that have an address."""
    return [rank for rank, address in enumerate(reply.addresses) if address]


def running_here(rank: int, round_id: str) -> Request:
    """The request of one of these four workers, whose trainer was started in a round."""
    return msgspec.structs.replace(running(rank, round_id), workers=WORKERS, sender=str(rank))


def trained_by_three() -> tuple[Rendezvous, Clock, str]:
    """A rendezvous whose first round is complete without worker 2, its clock, and the id of the round."""
    rendezvous, clock = opened()
    join(rendezvous, 0, 1, 3)
    reply = keep_asking(rendezvous, clock, FIRST_S, 0, 1, 3)[0]
    assert members(reply) == [0, 1, 3]
    return rendezvous, clock, reply.round_id


def test_a_first_round_with_all_workers_does_not_wait() -> None:
    """It is complete when the last one joins."""
    rendezvous, _ = opened()
    assert members(join(rendezvous, 0, 1, 2, 3)[-1]) == [0, 1, 2, 3]


def test_a_first_round_waits_for_the_others_for_a_while() -> None:
    """Counted from when the last worker joined; each member gets all addresses, and an empty one of the missing."""
    rendezvous, clock = opened()
    join(rendezvous, 3, 0)
    assert not keep_asking(rendezvous, clock, FIRST_S - 1, 3, 0)[0].addresses
    join(rendezvous, 1)
    assert not keep_asking(rendezvous, clock, FIRST_S - 1, 0, 1, 3)[0].addresses
    replies = keep_asking(rendezvous, clock, 1, 0, 1, 3)
    assert {reply.addresses for reply in replies[1:]} <= {("10.0.0.0:2222", "10.0.0.1:2222", "", "10.0.0.3:2222")}
    assert join(rendezvous, 0, 1, 3) == [Reply(replies[0].round_id, 3, (2,), replies[-1].addresses)] * 3


def test_a_round_needs_rank_0_and_enough_workers() -> None:
    """However long the others wait."""
    rendezvous, clock = opened()
    assert not keep_asking(rendezvous, clock, 3 * FIRST_S, 1, 2, 3)[-1].addresses
    rendezvous, clock = opened()
    assert not keep_asking(rendezvous, clock, 3 * FIRST_S, 0)[-1].addresses


def test_a_worker_that_falls_silent_does_not_count_for_the_round() -> None:
    """Two have joined, and one of them died."""
    rendezvous, clock = opened()
    join(rendezvous, 0, 1)
    reply = keep_asking(rendezvous, clock, 2 * FIRST_S, 0)[0]
    assert (reply.joined, reply.addresses) == (1, ())


def test_after_a_loss_the_others_go_on() -> None:
    """LOSS_S after the last of them has joined. The lost worker's last request does not keep it in the round."""
    rendezvous, clock = opened()
    first = join(rendezvous, 0, 1, 2, 3)[-1].round_id
    join(rendezvous, 3, 0, 1, attempt="b")
    clock.now += LOSS_S / 2
    assert not join(rendezvous, 0, attempt="b")[0].addresses
    clock.now += LOSS_S / 2
    replies = join(rendezvous, 0, 1, 3, attempt="b")
    assert [members(reply) for reply in replies] == [[0, 1, 3]] * 3
    assert replies[0].round_id != first
    assert rendezvous.members() == 3


def test_a_worker_that_comes_later_waits_outside() -> None:
    """It opens no round, however often it is replaced, until it is taken in; then it has joined already."""
    rendezvous, clock, first = trained_by_three()
    for attempt in "bcd":
        [reply] = join(rendezvous, 2, attempt=attempt)
        assert reply == Reply(first, 3, (2,), (), outside=True)
    assert rendezvous.join(running_here(0, first)).round_id == first
    rendezvous.take_in()
    second = rendezvous.join(running_here(0, first))
    assert second == Reply(second.round_id, 1, (0, 1, 3), ())
    assert second.round_id != first
    join(rendezvous, 0, 1, attempt="b")
    assert members(join(rendezvous, 3, attempt="b")[0]) == [0, 1, 2, 3]
    assert clock.now == FIRST_S


def test_a_round_waits_for_members_that_are_on_their_way() -> None:
    """They are alive, and save a checkpoint before they come; a member that falls silent is not waited for."""
    rendezvous, clock, first = trained_by_three()
    join(rendezvous, 2, attempt="b")
    rendezvous.take_in()
    opened_at = clock.now
    join(rendezvous, 0, 1, attempt="b")
    while clock.now < opened_at + ON_THE_WAY_S - 0.5:
        clock.now += 0.5
        rendezvous.join(running_here(3, first))
        assert not join(rendezvous, 0, 1, 2, attempt="b")[0].addresses
    clock.now += 0.5
    assert members(join(rendezvous, 0, attempt="b")[0]) == [0, 1, 2]

    rendezvous, clock, first = trained_by_three()
    rendezvous.join(running_here(3, first))
    join(rendezvous, 0, 1, attempt="b")
    clock.now += ALIVE_S - 0.1
    assert not join(rendezvous, 0, 1, attempt="b")[0].addresses
    clock.now += 0.1
    assert members(join(rendezvous, 0, attempt="b")[0]) == [0, 1]


def test_nobody_is_taken_in_who_does_not_wait() -> None:
    """Without one that waits outside now, no round is opened; nor while one is still open."""
    rendezvous, clock, first = trained_by_three()
    rendezvous.take_in()
    assert rendezvous.join(running_here(0, first)).round_id == first
    join(rendezvous, 2, attempt="b")
    clock.now += ALIVE_S + 0.1
    rendezvous.take_in()
    assert rendezvous.join(running_here(0, first)).round_id == first
    [opening] = join(rendezvous, 0, attempt="b")
    join(rendezvous, 2, attempt="c")
    rendezvous.take_in()
    assert join(rendezvous, 0, attempt="b")[0].round_id == opening.round_id


def test_a_worker_that_waits_is_taken_in_after_a_loss() -> None:
    """The others have to meet again in any case."""
    rendezvous, _, _ = trained_by_three()
    join(rendezvous, 2, attempt="b")
    assert join(rendezvous, 0, attempt="b")[0].joined == 2
    assert join(rendezvous, 3, attempt="b")[0].missing == (1,)


def test_only_members_can_be_silent() -> None:
    """A worker that was lost before the round does not make the watchdog end the trainers."""
    rendezvous, clock = opened()
    join(rendezvous, 2)
    clock.now = 1
    first = join(rendezvous, 0, 1, 3)[0].round_id
    clock.now = 2
    join(rendezvous, 0, 1, 3, attempt="b")
    clock.now = 2 + LOSS_S
    assert members(join(rendezvous, 0, attempt="b")[0]) == [0, 1, 3]
    assert rendezvous.longest_silent() == (1, 2)
    assert rendezvous.latest_requests()[2].round_id != first


def test_a_round_without_members_has_no_silent_one() -> None:
    """Those that were taken in have died since, and the others still train."""
    rendezvous, clock, first = trained_by_three()
    join(rendezvous, 2, attempt="b")
    rendezvous.take_in()
    assert rendezvous.longest_silent() == (2, clock.now)
    clock.now += FRESH_S + 1
    rendezvous.join(running_here(0, first))
    assert rendezvous.longest_silent() == (0, clock.now)


def test_the_first_round_waits_no_longer_than_asked() -> None:
    """The workers give up after --join-timeout."""
    rendezvous, clock = opened()
    rendezvous.limit_s = 5
    join(rendezvous, 0, 1)
    keep_asking(rendezvous, clock, 4, 0, 1)
    assert not join(rendezvous, 3)[0].addresses
    assert members(keep_asking(rendezvous, clock, 1, 0, 1, 3)[0]) == [0, 1, 3]

    rendezvous, clock = opened()
    rendezvous.limit_s = 5
    join(rendezvous, 0)
    assert not keep_asking(rendezvous, clock, 6, 0)[0].addresses
    assert members(join(rendezvous, 1)[0]) == [0, 1]


def test_workers_hear_at_once_that_others_are_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although another thread than the one that answers them takes them in."""
    monkeypatch.setattr(server, "HEARTBEAT_S", 1e6)
    rendezvous = Rendezvous("r", "u", HASH, MODEL, WORKERS, least=LEAST)
    rendezvous.limit_s = 0
    first = join(rendezvous, 0, 1)[-1].round_id
    join(rendezvous, 2)

    async def wait() -> Reply:
        task = asyncio.create_task(rendezvous.join_and_wait(running_here(1, first), 1e6))
        await asyncio.sleep(0)
        threading.Timer(0.1, rendezvous.take_in).start()  # while the loop waits for its next event
        return await task

    assert asyncio.run(wait()).round_id != first


def test_a_reply_is_not_held_back_longer_than_the_round_waits() -> None:
    """Nobody else joins; the reply to the last one completes the round, and the others get theirs with it."""
    rendezvous = Rendezvous("r", "u", HASH, MODEL, WORKERS, least=LEAST)
    for rank in range(WORKERS):
        rendezvous.join(waiting(rank, workers=WORKERS))

    async def meet() -> list[Reply]:
        requests = [waiting(rank, "b", WORKERS) for rank in (1, 0)]
        return await asyncio.gather(*(rendezvous.join_and_wait(request, 1e6) for request in requests))

    replies = asyncio.run(meet())
    assert members(replies[-1]) == [0, 1]


@pytest.mark.parametrize("says", [True, False])
def test_the_others_do_not_wait_for_a_worker_that_has_ended(says: bool) -> None:
    """Its last request says so, or its connection was closed before the reply to that request."""
    rendezvous, clock, first = trained_by_three()
    for rank in (0, 1, 3):
        rendezvous.join(running_here(rank, first))
    if says:
        rendezvous.join(msgspec.structs.replace(running_here(3, first), phase="failed"))
    else:
        rendezvous.hang_up(running_here(3, first))
    join(rendezvous, 0, 1, attempt="b")
    clock.now += LOSS_S
    assert [members(reply) for reply in join(rendezvous, 0, 1, attempt="b")] == [[0, 1]] * 2
    assert rendezvous.longest_silent()[0] == 0


def test_a_worker_that_ends_leaves_the_open_round() -> None:
    """Those that are left are too few, until another joins. Its reply comes at once, and it joins nothing."""
    rendezvous, clock = opened()
    join(rendezvous, 0, 1)
    last = msgspec.structs.replace(asking(1, "a"), phase="failed", number=2)
    reply = asyncio.run(asyncio.wait_for(rendezvous.join_and_wait(last, 1e6), 60))
    assert (reply.joined, reply.missing) == (1, (1, 2, 3))
    assert not keep_asking(rendezvous, clock, 2 * FIRST_S, 0)[0].addresses
    assert members(join(rendezvous, 0, 2)[-1]) == []
    assert members(keep_asking(rendezvous, clock, FIRST_S, 0, 2)[0]) == [0, 2]


def test_a_worker_that_asks_again_has_not_hung_up() -> None:
    """Neither if it gave up a request, nor if that was not its newest one."""
    rendezvous, clock, first = trained_by_three()
    request = running_here(3, first)
    newer = msgspec.structs.replace(request, number=request.number + 1)
    for hung_up, asked in ((request, newer), (request, None)):
        rendezvous.hang_up(hung_up)
        if asked:
            rendezvous.join(asked)
    join(rendezvous, 0, 1, attempt="b")
    clock.now += LOSS_S
    assert not join(rendezvous, 0, 1, attempt="b")[0].addresses
    rendezvous.join(msgspec.structs.replace(asking(3, "b"), number=newer.number + 1))
    clock.now += LOSS_S
    assert members(join(rendezvous, 0, attempt="b")[0]) == [0, 1, 3]


def test_workers_that_wait_hear_when_one_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their reply was to be held back for as long as the lost worker could still come."""
    monkeypatch.setattr(server, "ALIVE_S", 1e6)
    monkeypatch.setattr(server, "ON_THE_WAY_S", 1e6)
    rendezvous = Rendezvous("r", "u", HASH, MODEL, WORKERS, least=LEAST)
    lost = running_here(3, join(rendezvous, 0, 1, 2, 3)[-1].round_id)
    rendezvous.join(lost)
    join(rendezvous, 1, 2, attempt="b")

    async def meet() -> Reply:
        task = asyncio.create_task(rendezvous.join_and_wait(asking(0, "b"), 1e6))
        await asyncio.sleep(0)
        rendezvous.hang_up(lost)
        return await task

    assert members(asyncio.run(meet())) == [0, 1, 2]
