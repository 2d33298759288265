"""How many CPUs a worker may use, which ones, and how often the kernel killed a process for lack of memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from job.system import cgroup

if TYPE_CHECKING:
    from pathlib import Path

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
V2 = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 1\n"


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
        ({"own": "0::/a/b\n", "a/b/cpu.max": "300000 100000\n", "a/cpu.max": "max 100000\n"}, 3),
        ({"own": "0::/a/b\n", "a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        ({"own": "0::/a\n", "cpu.max": "200000 100000\n"}, 2),  # a container sees its own group as the root
        (
            {
                "own": "3:cpu,cpuacct:/a\n",
                "cpu/a/cpu.cfs_quota_us": "300000\n",
                "cpu/a/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ({}, 8),
    ],
)
def test_limit_is_the_smaller_of_quota_and_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    """With cgroups of both versions, nested, without a quota, unreadable and absent, on eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup.cpu_limit(tmp_path, tmp_path / "own") == expected


def test_only_a_large_step_has_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small step has one thread; a large one has all CPUs."""
    monkeypatch.setattr(cgroup, "cpu_limit", lambda: 6)
    assert [cgroup.step_threads(part) for part in (1, cgroup.WORTH_SHARING - 1, cgroup.WORTH_SHARING)] == [1, 1, 6]


def test_local_workers_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker has CPUs of its own. If there are fewer CPUs than workers, some have the same one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1, 5})
    assert cgroup.cpu_shares(1) == [[1, 3, 5]]
    assert cgroup.cpu_shares(2) == [[1], [3]]
    assert cgroup.cpu_shares(4) == [[1], [3], [5], [1]]


@pytest.mark.parametrize(
    ("own", "file", "content", "kills"),
    [
        ("9:memory:/a/b\n1:cpu:/\n", "memory/a/b/memory.oom_control", V1, 3),
        ("9:memory:/a/b\n", "memory/memory.oom_control", V1, 3),  # a container sees its own group as the root
        ("9:cpu,memory:/\n", "memory/memory.oom_control", V1, 3),
        ("0::/a\n", "a/memory.events", V2, 2),
        ("0::/\n", "memory.events", V2, 2),
        ("0::/\n", "elsewhere", V2, 0),
        ("0::/\n", "memory.events", "nonsense", 0),
    ],
)
def test_the_count_of_kills(own: str, file: str, content: str, kills: int, tmp_path: Path) -> None:
    """In version 1 and version 2 of cgroups, wherever the group is mounted; 0 if there is no count."""
    (tmp_path / "own").write_text(own)
    path = tmp_path / "cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert cgroup.oom_kills(tmp_path / "cgroup", tmp_path / "own") == kills


def test_a_system_without_cgroups(tmp_path: Path) -> None:
    """Reports no kills."""
    assert cgroup.oom_kills(tmp_path, tmp_path / "none") == 0
