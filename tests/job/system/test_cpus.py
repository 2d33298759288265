"""How many CPUs a worker may use, and which ones."""

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
        ({"cpu.max": "150000 100000\n"}, 2),  # one and a half CPUs keep two threads busy
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "1600000 100000\n"}, 8),  # more than the affinity
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "nonsense\n"}, 8),
        ({}, 8),
    ],
)
def test_limit_is_the_smaller_of_quota_and_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    """With cgroups of both versions, without a quota, unreadable and absent, on eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpus.limit(tmp_path) == expected


def test_only_a_large_step_has_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small step has one thread; a large one has all CPUs."""
    monkeypatch.setattr(cpus, "limit", lambda: 6)
    assert [cpus.threads(part) for part in (1, cpus.WORTH_SHARING - 1, cpus.WORTH_SHARING)] == [1, 1, 6]


def test_local_workers_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker has CPUs of its own. If there are fewer CPUs than workers, some have the same one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1, 5})
    assert cpus.shares(1) == [[1, 3, 5]]
    assert cpus.shares(2) == [[1], [3]]
    assert cpus.shares(4) == [[1], [3], [5], [1]]
