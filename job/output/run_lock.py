"""The lock of a run: one process at a time trains it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from job.cluster import LOCAL_UID
from job.errors import Exit, JobError
from job.output.layout import LOCK
from job.system.files import LOCK_IS_HELD, make_folder, open_to_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A Job waits this long for its run's lock: a network file system frees the lock of a node that died only after a while.
JOB_WAIT_S = 60.0
# Without a Job. `prune` holds the lock for a moment to learn whether the run is being trained.
LOCAL_WAIT_S = 1.0
POLL_S = 0.2


@contextlib.contextmanager
def run_lock(folder: Path, job_uid: str) -> Iterator[None]:
    """Hold the lock of a run; its folder is made if it does not exist.

    Args:
        folder: runs/<run>.
        job_uid: the Job that trains the run; LOCAL_UID waits less.

    Raises:
        JobError: another process holds the lock: 64 without a Job, else 75.
        OSError: from the file system.
    """
    lock = _acquire(folder, job_uid)
    try:
        yield
    finally:
        os.close(lock)


def _acquire(folder: Path, job_uid: str) -> int:
    """Lock the file that is in the folder now, not one that `prune` has renamed away in the meantime."""
    path = folder / LOCK
    while True:
        make_folder(folder)
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as on_failure:
            lock = open_to_lock(path)
            on_failure.callback(os.close, lock)
            _wait_for(lock, folder.name, job_uid)
            if os.path.samestat(os.fstat(lock), path.lstat()):
                on_failure.pop_all()
                return lock


def _wait_for(lock: int, run: str, job_uid: str) -> None:
    deadline = time.monotonic() + (LOCAL_WAIT_S if job_uid == LOCAL_UID else JOB_WAIT_S)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except LOCK_IS_HELD:
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
        else:
            return
    message = f"run {run!r} is being trained by another process"
    if job_uid == LOCAL_UID:
        raise JobError(Exit.USAGE, "run-in-use", message, "use another --name")
    message = f"{message}, which has held its lock for {JOB_WAIT_S:g} s"
    raise JobError(Exit.TRY_AGAIN, "run-in-use", message, "start the run again")
