"""How often, and after what pauses, something is started again."""

from __future__ import annotations

from job.supervisor.restart_policy import BACKOFF_S, FOLLOWED_IN_A_ROW, IN_A_ROW, JITTER, Restarts


def pauses(restarts: Restarts) -> list[float]:
    """The seconds before each restart until there are no more."""
    found = []
    while (seconds := restarts.again()) is not None:
        found.append(seconds)
    return found


def test_three_restarts_in_a_row_the_first_at_once() -> None:
    """Each later one after a longer pause, which differs from one worker to the next."""
    found = pauses(Restarts())
    assert len(found) == IN_A_ROW == len(BACKOFF_S)
    assert found[0] == 0
    for seconds, nominal in zip(found[1:], BACKOFF_S[1:], strict=True):
        assert nominal * (1 - JITTER) <= seconds <= nominal * (1 + JITTER)
    assert len({pauses(Restarts())[-1] for _ in range(10)}) > 1


def test_only_a_step_beyond_all_before_is_progress() -> None:
    """It sets the count of those in a row to 0, and leaves the total."""
    restarts = Restarts()
    restarts.reached(5)
    assert len(pauses(restarts)) == IN_A_ROW
    restarts.reached(5)
    assert pauses(restarts) == []
    restarts.reached(6)
    assert len(pauses(restarts)) == IN_A_ROW
    assert restarts.total == 2 * IN_A_ROW


def test_ends_that_only_followed_have_a_count_of_their_own() -> None:
    """A new step sets it to 0 too; it lasts longer than a peer that each of its four pods starts four times."""
    restarts = Restarts()
    for step in (1, 2):
        restarts.reached(step)
        assert [restarts.follow() for _ in range(FOLLOWED_IN_A_ROW)] == [*[True] * (FOLLOWED_IN_A_ROW - 1), False]
    assert FOLLOWED_IN_A_ROW > (1 + IN_A_ROW) * (1 + 3)
    assert restarts.total == restarts.in_a_row == 0
