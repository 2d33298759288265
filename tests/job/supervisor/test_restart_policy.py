"""How often, and after what delays, something is started again."""

from __future__ import annotations

from job.supervisor.restart_policy import BACKOFF_S, JITTER, MAX_PEER_RESTARTS, MAX_RESTARTS, RestartPolicy


def delays(policy: RestartPolicy) -> list[float]:
    """The seconds before each restart until the limit is reached."""
    return list(iter(policy.next_delay, None))


def test_three_restarts_in_a_row_the_first_at_once() -> None:
    """Each later one after a longer delay, which differs from one worker to the next."""
    first, *others = delays(RestartPolicy())
    assert first == 0
    assert len(others) == MAX_RESTARTS - 1 == len(BACKOFF_S) - 1
    for seconds, nominal in zip(others, BACKOFF_S[1:], strict=True):
        assert nominal * (1 - JITTER) <= seconds <= nominal * (1 + JITTER)
    assert len({delays(RestartPolicy())[-1] for _ in range(10)}) > 1


def test_only_a_step_beyond_all_before_is_progress() -> None:
    """It sets the count in a row to 0, and leaves the total."""
    policy = RestartPolicy()
    policy.record_step(5)
    assert len(delays(policy)) == MAX_RESTARTS
    policy.record_step(5)
    assert delays(policy) == []
    policy.record_step(6)
    assert len(delays(policy)) == MAX_RESTARTS
    assert policy.total == 2 * MAX_RESTARTS


def test_exits_that_followed_a_peers_have_a_count_of_their_own() -> None:
    """A new step sets it to 0 as well. It outlasts a peer that each of its four pods starts four times."""
    policy = RestartPolicy()
    for step in (1, 2):
        policy.record_step(step)
        allowed = [policy.allow_peer_restart() for _ in range(MAX_PEER_RESTARTS)]
        assert allowed == [*[True] * (MAX_PEER_RESTARTS - 1), False]
    assert MAX_PEER_RESTARTS > (1 + MAX_RESTARTS) * (1 + 3)
    assert policy.total == policy.in_a_row == 0
