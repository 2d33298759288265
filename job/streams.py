"""Standard output and standard error."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO


def prepare_streams() -> None:
    """Let this process write to standard output and standard error.

    If a stream was closed before this process started, its text is discarded. Characters that a stream cannot encode
    are escaped, such as those of file names that are not UTF-8.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for the whole process
        else:
            stream.reconfigure(errors="backslashreplace")


def flush_or_discard(stream: TextIO) -> None:
    """Write what is left to a stream, or discard it if that fails.

    Python would try again to write it when it exits, and change the exit code to 120.
    """
    try:
        stream.flush()
    except OSError:
        discard(stream)


def discard(stream: TextIO) -> None:
    """Discard what was not written to a stream, and all that is written later."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
