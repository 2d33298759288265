"""What this process may use: CPUs, by the container's limit and not the node's cores; and when its memory ran out."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

WORTH_SHARING = 500  # examples of a step
CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def step_threads(part: int) -> int:
    """The number of threads for a step of so many examples on this worker.

    Splitting a small product costs more than it saves: on two CPUs a step of 100 images took 110 us with two threads
    and 65 us with one, and a step of 1,000 images 570 us and 720 us.
    """
    return cpu_limit() if part >= WORTH_SHARING else 1


def cpu_limit(cgroups: Path = CGROUPS) -> int:
    """The number of CPUs, at least 1: the affinity or the cgroup's quota, whichever is smaller, rounded up.

    Args:
        cgroups: where the cgroup file systems are mounted. A container sees its own group there.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def cpu_shares(count: int) -> list[list[int]]:
    """The CPUs for each of so many processes: messages between processes on CPUs of their own take half the time.

    The lists are empty if the system cannot bind a process to CPUs.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(count)]
    cpus = sorted(os.sched_getaffinity(0))
    each = max(1, len(cpus) // count)
    return [[cpus[(rank * each + i) % len(cpus)] for i in range(each)] for rank in range(count)]


def oom_kills(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """How many processes of this cgroup the kernel has killed for lack of memory; 0 if it does not report it.

    Args:
        cgroups: where the cgroup file systems are mounted.
        own: the file that names this process's groups. In a container the group itself is usually mounted as the root.
    """
    try:
        groups = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return 0
    version_1 = [path for _, names, path in groups if "memory" in names.split(",")]
    version_2 = [path for _, names, path in groups if not names]
    files = [cgroups / "memory" / path.lstrip("/") / "memory.oom_control" for path in [*version_1, ""]]
    files += [cgroups / path.lstrip("/") / "memory.events" for path in [*version_2, ""]]
    for file in files:
        try:
            if match := re.search(r"^oom_kill (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE):
                return int(match[1])
        except OSError:
            continue
    return 0


def _quota(cgroups: Path) -> float | None:
    """The number of CPUs that the cgroup grants, in version 2 or version 1; None if there is no limit."""
    try:
        if (cgroups / "cpu.max").exists():
            quota, period = (cgroups / "cpu.max").read_text().split()
        else:
            quota = (cgroups / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroups / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # `max` means no limit, and other systems have no cgroups
        return None
