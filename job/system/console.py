"""Where tables are printed."""

from __future__ import annotations

import sys

from rich.console import Console

UNLIMITED = 100_000  # columns


def table_console() -> Console:
    """A console for standard output. Lines wrap only on a terminal, because programs need whole lines."""
    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else UNLIMITED)
