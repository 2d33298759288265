"""What this process may use: CPUs, by the container's limit and not the node's cores; and when its memory ran out."""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from pathlib import Path, PurePath

WORTH_SHARING = 500  # examples of a step
CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def step_threads(part: int) -> int:
    """The number of threads for a step of so many examples on this worker.

    Splitting a small product costs more than it saves: on two CPUs a step of 100 images took 110 us with two threads
    and 65 us with one, and a step of 1,000 images 570 us and 720 us.
    """
    return cpu_limit() if part >= WORTH_SHARING else 1


def cpu_limit(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """The number of CPUs, at least 1: the affinity or the smallest quota, whichever is smaller, rounded up.

    The quotas are those of this process's cgroup and of the groups around it.

    Args:
        cgroups: where the cgroup file systems are mounted.
        own: the file that names this process's groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = filter(None, map(_quota, _groups("cpu", cgroups, own)))
    return max(1, math.ceil(min([allowed, *quotas])))


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
        own: the file that names this process's groups.
    """
    for group in _groups("memory", cgroups, own, around=False):
        for name in ("memory.oom_control", "memory.events"):  # of version 1 and 2
            with suppress(OSError):
                if match := re.search(r"^oom_kill (\d+)$", (group / name).read_text(encoding="utf-8"), re.MULTILINE):
                    return int(match[1])
    return 0


def _groups(controller: str, cgroups: Path, own: Path, *, around: bool = True) -> list[Path]:
    """The folders of this process's cgroup and, if wanted, of the groups around it, the innermost first; then the root.

    In a container, the group itself is usually mounted as the root, whatever its path is.
    """
    groups = []
    with suppress(OSError):
        groups = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    version_1 = [PurePath(path.lstrip("/")) for _, names, path in groups if controller in names.split(",")]
    version_2 = [PurePath(path.lstrip("/")) for _, names, path in groups if not names]
    places = [(cgroups / controller, path) for path in version_1] + [(cgroups, path) for path in version_2]
    folders = [place / each for place, path in places for each in (path, *path.parents)[: None if around else 1]]
    return list(dict.fromkeys([*folders, cgroups / controller, cgroups]))


def _quota(group: Path) -> float | None:
    """The number of CPUs that a cgroup of version 2 or 1 grants; None if it has no limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # `max` means no limit, and other systems have no cgroups
        return None
