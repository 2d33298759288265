"""How often the kernel killed a process of this cgroup for lack of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from job.system.memory import oom_kills

if TYPE_CHECKING:
    from pathlib import Path

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
V2 = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 1\n"


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
    assert oom_kills(tmp_path / "cgroup", tmp_path / "own") == kills


def test_a_system_without_cgroups(tmp_path: Path) -> None:
    """Reports no kills."""
    assert oom_kills(tmp_path, tmp_path / "none") == 0
