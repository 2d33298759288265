"""Which CPUs processes use: the container's limit, not the node's cores, and each its share of them."""

from __future__ import annotations

import math
import os
from pathlib import Path

WORTH_SHARING = 500
CGROUPS = Path("/sys/fs/cgroup")


def threads(part: int) -> int:
    """The number of threads that a step of so many examples on this worker is worth.

    Sharing a product out costs more than it saves while it is small: on two CPUs a step of 100 images took 110 us with
    two threads and 65 with one, of 1,000 images 570 us and 720.
    """
    return limit() if part >= WORTH_SHARING else 1


def limit(cgroups: Path = CGROUPS) -> int:
    """The number of CPUs, at least 1: the smaller of the affinity and the cgroup's quota, rounded up.

    Args:
        cgroups: where the cgroup file systems are mounted; in a container that is its own group.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def shares(count: int) -> list[list[int]]:
    """The CPUs of each of so many processes: where none uses another's, a message between two takes half the time.

    Empty where the system cannot bind a process to CPUs.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(count)]
    cpus = sorted(os.sched_getaffinity(0))
    each = max(1, len(cpus) // count)
    return [[cpus[(rank * each + i) % len(cpus)] for i in range(each)] for rank in range(count)]


def _quota(cgroups: Path) -> float | None:
    """CPUs that the cgroup's scheduler grants, in version 2 and version 1; None: no limit."""
    try:
        if (cgroups / "cpu.max").exists():
            quota, period = (cgroups / "cpu.max").read_text().split()
        else:
            quota = (cgroups / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroups / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # `max` where there is no limit, and no cgroups at all on other systems
        return None
