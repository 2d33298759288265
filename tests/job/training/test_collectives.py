"""Tests of what the workers do together, as far as one worker shows it; whole runs show the rest."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf

from job.training import collectives
from job.training.collectives import Collectives


@pytest.fixture
def alone() -> Collectives:
    """The collectives of a single worker."""
    return Collectives(tf.distribute.get_strategy())


def test_sum_of_one_worker_is_its_own_array(alone: Collectives) -> None:
    """The array keeps its shape and its bits."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(alone.sum(array), array, strict=True)


@pytest.mark.parametrize("vote", [False, True])
def test_a_vote_of_one_worker_decides(alone: Collectives, vote: bool) -> None:
    """A single yes is enough, and no vote is a yes without one."""
    assert alone.any(vote) is vote


@pytest.mark.parametrize("lost", [False, True])
def test_rank_0_leaves_although_a_peer_is_lost(alone: Collectives, monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    """After an error at once, and after ANNOUNCE_S if a peer never answers: while the barrier still waits."""
    monkeypatch.setattr(collectives, "ANNOUNCE_S", 0.2)
    release, passed = threading.Event(), list[bool]()

    def barrier() -> None:
        if lost:
            raise tf.errors.UnavailableError(None, None, "a peer left")
        passed.append(release.wait(60))

    monkeypatch.setattr(alone, "_barrier", barrier)
    try:
        alone.announce_published()
        assert passed == []
    finally:
        release.set()
