"""Processes: children that do not outlive the one that started them, and what the system knows of this one."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

NULL, PIPE = subprocess.DEVNULL, subprocess.PIPE
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_IMPORTED = time.perf_counter()
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def killed_by(code: int) -> str:
    """The name of the signal in an exit code of 128 and its number."""
    try:
        return signal.Signals(code - 128).name
    except ValueError:  # a real-time signal, or no signal at all
        return f"signal {code - 128}"


def age() -> float:
    """Seconds since this process started; since this module was imported, where the system does not tell."""
    try:
        ticks = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        uptime = Path("/proc/uptime").read_text(encoding="utf-8").split()[0]
    except OSError:
        return time.perf_counter() - _IMPORTED
    return float(uptime) - int(ticks) / os.sysconf("SC_CLK_TCK")


def peak_rss_mb() -> float:
    """The largest resident set of this process so far, in 10^6 bytes."""
    try:
        # Not getrusage: across a fork and an exec that keeps the parent's, where it was larger.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def start(command: Sequence[str], *, cpus: Collection[int] = (), **options: Any) -> subprocess.Popen[str]:
    """Start a process that the kernel kills when this one ends, in whatever way; Linux alone can.

    Args:
        command: the program and its arguments.
        cpus: the CPUs that it may use; all of this process's where none are given.
        options: of subprocess.Popen.
    """
    parent = os.getpid()

    def prepare() -> None:
        if _LIBC:
            _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it ended before
                os._exit(1)
            if cpus:
                os.sched_setaffinity(0, cpus)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        preexec_fn=prepare,  # noqa: PLW1509 - the callers have no other thread yet
        **options,
    )
