"""Workers with which the others cannot train: when they stay outside the round, and when they are taken in again."""

from __future__ import annotations

import msgspec

from job.rendezvous.messages import Reply
from job.rendezvous.newcomers import MAX_RETRY_S, RETRY_S
from job.rendezvous.server import FIRST_S, LOSS_S, ON_THE_WAY_S, Rendezvous
from tests.job.rendezvous.test_elastic import (
    WORKERS,
    asking,
    join,
    keep_asking,
    members,
    running_here,
    trained_by_three,
)
from tests.job.rendezvous.test_server import HASH, MODEL, Clock


def failed_with_2() -> tuple[Rendezvous, Clock]:
    """Workers 0, 1 and 3 have made steps, then none with worker 2, and meet again, as it does too; and the clock."""
    rendezvous, clock, first = trained_by_three()
    rendezvous.note_step(first)
    assert not rendezvous.tries_newcomers(first)
    join(rendezvous, 2)
    rendezvous.take_in()
    second = join(rendezvous, 0, 1, 3, attempt="b")[-1]
    assert members(second) == [0, 1, 2, 3]
    rendezvous.note_step(first)  # of a trainer that has not stopped yet
    assert rendezvous.tries_newcomers(second.round_id)
    [reply] = join(rendezvous, 2, attempt="c")
    assert reply == Reply(reply.round_id, 0, (0, 1, 2, 3), (), outside=True)
    assert rendezvous.tries_newcomers(second.round_id)  # rank 0's trainer may end after the next round is open
    assert not rendezvous.tries_newcomers(first)
    join(rendezvous, 0, 1, 3, attempt="c")
    return rendezvous, clock


def test_a_worker_with_which_the_others_cannot_train_stays_outside() -> None:
    """They go on without it. It is taken in again later, and if that fails too, twice as late."""
    rendezvous, clock = failed_with_2()
    retry_at = clock.now + RETRY_S
    clock.now += LOSS_S
    third = join(rendezvous, 0, attempt="c")[0]
    assert members(third) == [0, 1, 3]
    rendezvous.note_step(third.round_id)
    clock.now = retry_at - 1
    assert join(rendezvous, 2, attempt="d")[0].outside
    rendezvous.take_in()
    assert join(rendezvous, 0, attempt="c") == [third]
    clock.now = retry_at
    rendezvous.take_in()
    assert members(join(rendezvous, 0, 1, 3, attempt="d")[-1]) == [0, 1, 2, 3]
    join(rendezvous, 0, 1, 3, attempt="e")
    clock.now += LOSS_S
    fourth = join(rendezvous, 0, attempt="e")[0]
    assert members(fourth) == [0, 1, 3]
    for seconds, taken in ((2 * RETRY_S - LOSS_S - 1, False), (1, True)):
        clock.now += seconds
        join(rendezvous, 2, attempt="e")
        rendezvous.take_in()
        assert (join(rendezvous, 0, attempt="e")[0].round_id != fourth.round_id) == taken


def test_a_worker_that_stays_outside_comes_in_if_it_is_needed() -> None:
    """The others wait for those that are on their way first."""
    rendezvous = Rendezvous("r", "u", HASH, MODEL, WORKERS, clock := Clock(), least=3)
    join(rendezvous, 0, 1, 3)
    first = keep_asking(rendezvous, clock, FIRST_S, 0, 1, 3)[0].round_id
    rendezvous.note_step(first)
    join(rendezvous, 2)
    rendezvous.take_in()
    join(rendezvous, 0, 1, 3, attempt="b")
    join(rendezvous, 0, 1, 2, attempt="c")  # worker 3 is lost
    for _ in range(round(ON_THE_WAY_S)):
        assert join(rendezvous, 2, attempt="c")[0].outside
        clock.now += 1
        join(rendezvous, 0, 1, attempt="c")
    join(rendezvous, 2, attempt="c")
    clock.now += LOSS_S
    assert members(join(rendezvous, 0, attempt="c")[0]) == [0, 1, 2]


def test_a_worker_stays_outside_however_late_enough_others_come() -> None:
    """Rank 0 is alive, but takes long to stop its trainer."""
    rendezvous, clock, first = trained_by_three()
    rendezvous.note_step(first)
    join(rendezvous, 2)
    rendezvous.take_in()
    second = join(rendezvous, 0, 1, 3, attempt="b")[-1].round_id
    for _ in range(round(2 * ON_THE_WAY_S)):
        join(rendezvous, 1, 3, attempt="c")
        rendezvous.join(running_here(0, second))
        assert join(rendezvous, 2, attempt="c")[0].outside
        clock.now += 1
    join(rendezvous, 0, 1, 3, attempt="c")
    clock.now += LOSS_S
    assert members(join(rendezvous, 0, attempt="c")[0]) == [0, 1, 3]


def test_a_worker_is_taken_in_again_at_intervals_that_do_not_grow_forever() -> None:
    """However often the others could not train with it."""
    rendezvous, clock = failed_with_2()
    clock.now += LOSS_S
    join(rendezvous, 0, 1, 3, attempt="c")
    for attempt in range(10):
        clock.now += MAX_RETRY_S
        join(rendezvous, 2, attempt="d")
        rendezvous.take_in()
        assert members(join(rendezvous, 0, 1, 3, attempt=f"with {attempt}")[-1]) == [0, 1, 2, 3]
        join(rendezvous, 0, 1, 3, attempt="c")
        clock.now += LOSS_S
        assert members(join(rendezvous, 0, attempt="c")[0]) == [0, 1, 3]


def test_without_others_that_suffice_no_worker_stays_outside() -> None:
    """A round that needs all workers waits for each of them."""
    rendezvous = Rendezvous("r", "u", HASH, MODEL, WORKERS, Clock())
    first = join(rendezvous, 0, 1, 2, 3)[-1].round_id
    rendezvous.note_step(first)
    replaced = msgspec.structs.replace(asking(2, "b"), sender="another")
    rendezvous.join(replaced)
    second = join(rendezvous, 0, 1, 3, attempt="b")[-1]
    assert members(second) == [0, 1, 2, 3]
    assert not rendezvous.tries_newcomers(second.round_id)
    join(rendezvous, 0, 1, 3, attempt="c")
    assert members(rendezvous.join(replaced)) == [0, 1, 2, 3]
