"""Standard output and standard error."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@contextmanager
def or_discard(stream: TextIO) -> Iterator[None]:
    """If the stream cannot be written in the block, discard what was not written, and all that is written later."""
    try:
        yield
    except OSError:
        discard(stream)


def discard(stream: TextIO) -> None:
    """Discard what was not written to a stream, and all that is written later.

    Python would try again to write it when it exits, and change the exit code to 120.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
