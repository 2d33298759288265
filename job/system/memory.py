"""How often the kernel's out-of-memory killer struck in this process's cgroup."""

from __future__ import annotations

import re
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


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
            if found := re.search(r"^oom_kill (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE):
                return int(found[1])
        except OSError:
            continue
    return 0
