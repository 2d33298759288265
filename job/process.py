"""Starts the child processes of a worker, so that none outlives the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

NULL, PIPE = subprocess.DEVNULL, subprocess.PIPE
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


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
