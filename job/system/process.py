"""Processes: children that do not outlive their parent, and what the system knows about this process."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.error_table import errors_from
from job.errors import JobError
from job.streams import discard

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

NULL, PIPE = subprocess.DEVNULL, subprocess.PIPE
PARENT = "MNIST_JOB_PARENT_PID"  # the environment variable with the process id of the parent that used start()
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h
_IMPORTED = time.perf_counter()
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def exit_code(returncode: int) -> int:
    """A Popen's return code in a shell's notation: 128 plus the number of the signal that killed the process."""
    return returncode if returncode >= 0 else 128 - returncode


def signal_name(code: int) -> str:
    """The name of the signal in an exit code of 128 plus its number."""
    try:
        return signal.Signals(code - 128).name
    except ValueError:  # a real-time signal, or no signal at all
        return f"signal {code - 128}"


def age() -> float:
    """Seconds since this process started, or since this module was imported if the system does not report it."""
    try:
        ticks = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        uptime = Path("/proc/uptime").read_text(encoding="utf-8").split()[0]
    except OSError:
        return time.perf_counter() - _IMPORTED
    return float(uptime) - int(ticks) / os.sysconf("SC_CLK_TCK")


@contextmanager
def standard_output() -> Iterator[None]:
    """Flush standard output at the end of the block.

    Raises:
        JobError: 73 or 75 if standard output cannot be written.
    """
    try:
        with errors_from("standard output", "standard output"):
            yield
            sys.stdout.flush()
    except JobError:
        discard(sys.stdout)
        raise


def peak_rss_mb() -> float:
    """The largest resident set of this process so far, in 10^6 bytes."""
    try:
        # Not getrusage(), which keeps the parent's peak across fork and exec if that was larger.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):  # a system without /proc, or a sandbox that leaves the line out
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def start(
    command: Sequence[str], env: Mapping[str, str], cpus: Collection[int] = (), **options: Any
) -> subprocess.Popen[str]:
    """Start a process that calls end_with_parent().

    The kernel counts the calling thread as the parent, so call this from one that lives as long as this process.

    Args:
        command: the program and its arguments.
        env: its environment.
        cpus: the CPUs that it may use; empty means all of this process's.
        options: more arguments of subprocess.Popen.

    Raises:
        JobError: 75 if the system has no room for another process now.
    """
    # PYTHONINSPECT would make Python lose the exit code.
    environment = {**env, PARENT: str(os.getpid()), "PYTHONINSPECT": ""}
    with errors_from("process", "a process"):
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            **options,
        )
    if cpus:
        with suppress(OSError):  # it has ended already, or a sandbox forbids it: it is only slower without
            os.sched_setaffinity(child.pid, cpus)
    return child


def end_with_parent() -> None:
    """Make the kernel kill this process when the one that start()ed it ends, in whatever way. Linux only.

    The child calls this itself: with threads around, Python code between a fork and an exec is not safe.
    """
    if parent := os.environ.pop(PARENT, None):
        end_with(parent)


def end_with(parent: str) -> None:
    """The same for a process that was forked; its parent's process id is given."""
    if _LIBC:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if str(os.getppid()) != parent:  # it has ended already
            os._exit(1)


def set_name(name: str) -> None:
    """Set the name that `ps -o comm` and `top` show for this process, at most 15 characters. Linux only."""
    if _LIBC:
        _LIBC.prctl(PR_SET_NAME, name.encode())


def reap_orphans(child: int) -> None:
    """Reap processes that have exited and that process 1 inherited, but not the child with this process id.

    Python on macOS has waitid() only from 3.13. A supervisor is not process 1 there, so it inherits none.
    """
    if not hasattr(os, "waitid"):
        return
    with suppress(ChildProcessError):
        while True:
            exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if exited is None or exited.si_pid == child:
                return
            os.waitpid(exited.si_pid, 0)
