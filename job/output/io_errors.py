"""What the file system refuses, and what is wrong with a file -> the JobError that a user meets."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Errors of a network file system that may pass. All others last until somebody fixes their cause.
TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


@contextlib.contextmanager
def output_errors(root: Path, action: str = "written") -> Iterator[None]:
    """Turn an OSError from an output folder into a JobError.

    Args:
        root: the output folder.
        action: `written` or `read`, as the message says it.

    Raises:
        JobError: 75 if the error may pass, else 73.
    """
    try:
        yield
    except OSError as error:
        where, what = error.filename or root, error.strerror or str(error)
        if error.errno in TRANSIENT:
            raise JobError(
                Exit.TRY_AGAIN,
                "output-io",
                f"the output folder failed at {where}: {what}",
                "start the run again" if action == "written" else "try again",
            ) from error
        raise JobError(
            Exit.OUTPUT,
            "output-not-writable",
            f"the output folder cannot be {action} at {where}: {what}",
            "free space, or use a writable folder: --output" if action == "written" else "check its permissions",
        ) from error


@contextlib.contextmanager
def content_errors(path: Path) -> Iterator[None]:
    """Turn wrong content of a file that this run wrote into a JobError: 73, naming the file."""
    try:
        yield
    except (ValueError, TypeError) as error:
        message = f"{path} is damaged: {error}"
        raise JobError(
            Exit.OUTPUT, "output-damaged", message, "restore it from a backup, or use another --name"
        ) from error
