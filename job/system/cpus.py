"""How many CPUs a worker may use: the container's limit, not the node's cores; and its share among local workers."""

from __future__ import annotations

import math
import os
from pathlib import Path

WORTH_SHARING = 500  # examples of a step
CGROUPS = Path("/sys/fs/cgroup")


def threads(part: int) -> int:
    """The number of threads for a step of so many examples on this worker.

    Splitting a small product costs more than it saves: on two CPUs a step of 100 images took 110 us with two threads
    and 65 us with one, and a step of 1,000 images 570 us and 720 us.
    """
    return limit() if part >= WORTH_SHARING else 1


def limit(cgroups: Path = CGROUPS) -> int:
    """The number of CPUs, at least 1: the affinity or the cgroup's quota, whichever is smaller, rounded up.

    Args:
        cgroups: where the cgroup file systems are mounted. A container sees its own group there.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def shares(count: int) -> list[list[int]]:
    """The CPUs for each of so many processes: messages between processes on CPUs of their own take half the time.

    The lists are empty if the system cannot bind a process to CPUs.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(count)]
    cpus = sorted(os.sched_getaffinity(0))
    each = max(1, len(cpus) // count)
    return [[cpus[(rank * each + i) % len(cpus)] for i in range(each)] for rank in range(count)]


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
