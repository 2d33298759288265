"""Processes: children that do not outlive the one that started them, and what the system knows of this one."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

NULL, PIPE = subprocess.DEVNULL, subprocess.PIPE
PARENT = "PARENT_PID"  # the environment variable with the process id of the one that starts another
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_IMPORTED = time.perf_counter()
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def killed_by(code: int) -> str:
    """The name of the signal in an exit code of 128 and its number, as shells write it."""
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


def start(
    command: Sequence[str], env: Mapping[str, str], cpus: Collection[int] = (), **options: Any
) -> subprocess.Popen[str]:
    """Start a process of this project's, which end_with_parent() then binds to this one.

    The kernel counts the thread that starts it as its parent: call this from one that lives as long as the process.

    Args:
        command: the program and its arguments.
        env: its environment.
        cpus: the CPUs that it may use; all of this process's where none are given.
        options: of subprocess.Popen.
    """
    child = subprocess.Popen(
        command,
        env={**env, PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        **options,
    )
    if cpus:
        with suppress(ProcessLookupError):
            os.sched_setaffinity(child.pid, cpus)
    return child


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that start()ed it ends, in whatever way; Linux alone can.

    The child asks for it itself, for between a fork and an exec no Python is safe where there are threads.
    """
    parent = os.environ.pop(PARENT, None)
    if parent and _LIBC:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it has ended already
            os._exit(1)


def reap(keep: int) -> None:
    """Take leave of children that have ended, other than `keep`: orphans, which the system gives to process 1."""
    with suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid == keep:
                return
            os.waitpid(ended.si_pid, 0)
