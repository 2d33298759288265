"""How often, and after what pauses, something is started again."""

from __future__ import annotations

from job.supervisor.restart_policy import BACKOFF_S, JITTER, MAX_PEER_RESTARTS, MAX_RESTARTS, RestartPolicy


def pauses(restarts: RestartPolicy) -> list[float]:
    """The seconds before each restart until there are no more."""
    found = []
    while (seconds := restarts.next_delay()) is not None:
        found.append(seconds)
    return found


def test_three_restarts_in_a_row_the_first_at_once() -> None:
    """Each later one after a longer pause, which differs from one worker to the next."""
    found = pauses(RestartPolicy())
    assert len(found) == MAX_RESTARTS == len(BACKOFF_S)
    assert found[0] == 0
    for seconds, nominal in zip(found[1:], BACKOFF_S[1:], strict=True):
        assert nominal * (1 - JITTER) <= seconds <= nominal * (1 + JITTER)
    assert len({pauses(RestartPolicy())[-1] for _ in range(10)}) > 1


def test_only_a_step_beyond_all_before_is_progress() -> None:
    """It sets the count of those in a row to 0, and leaves the total."""
    restarts = RestartPolicy()
    restarts.record_step(5)
    assert len(pauses(restarts)) == MAX_RESTARTS
    restarts.record_step(5)
    assert pauses(restarts) == []
    restarts.record_step(6)
    assert len(pauses(restarts)) == MAX_RESTARTS
    assert restarts.total == 2 * MAX_RESTARTS


def test_ends_that_only_followed_have_a_count_of_their_own() -> None:
    """A new step sets it to 0 too; it lasts longer than a peer that each of its four pods starts four times."""
    restarts = RestartPolicy()
    for step in (1, 2):
        restarts.record_step(step)
        assert [restarts.allow_peer_restart() for _ in range(MAX_PEER_RESTARTS)] == [
            *[True] * (MAX_PEER_RESTARTS - 1),
            False,
        ]
    assert MAX_PEER_RESTARTS > (1 + MAX_RESTARTS) * (1 + 3)
    assert restarts.total == restarts.in_a_row == 0
