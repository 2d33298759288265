"""What is wrong with a file that a run wrote -> the JobError that a user meets."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
