"""How many CPUs this process may use: the container's limit, not the node's cores."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def limit(cgroups: Path = CGROUPS) -> int:
    """The number of CPUs, at least 1: the smaller of the affinity and the cgroup's quota, rounded up.

    Args:
        cgroups: where the cgroup file systems are mounted; in a container that is its own group.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


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
