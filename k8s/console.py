"""What is told beside a command's result."""

from __future__ import annotations

import sys


def note(line: str) -> None:
    """Tell a line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)
