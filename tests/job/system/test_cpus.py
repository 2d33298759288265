"""Tests of which CPUs a worker takes itself to have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from job.system import cpus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),  # a CPU and a half keep two threads busy
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "1600000 100000\n"}, 8),  # more than the affinity has
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "nonsense\n"}, 8),
        ({}, 8),
    ],
)
def test_limit_is_the_smaller_of_quota_and_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    """Cgroups of both versions, without a quota, unreadable and absent, on eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpus.limit(tmp_path) == expected


def test_threads_share_only_what_is_worth_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small step is one thread's; a large one takes all CPUs."""
    monkeypatch.setattr(cpus, "limit", lambda: 6)
    assert [cpus.threads(part) for part in (1, cpus.WORTH_SHARING - 1, cpus.WORTH_SHARING)] == [1, 1, 6]


def test_the_workers_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has as many of its own as there are, and they take turns where there are fewer than workers."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1, 5})
    assert cpus.shares(1) == [[1, 3, 5]]
    assert cpus.shares(2) == [[1], [3]]
    assert cpus.shares(4) == [[1], [3], [5], [1]]
