"""What several commands tell beside their result."""

from __future__ import annotations

import sys


def note(line: str) -> None:
    """Tell a line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def where_to_look(name: str, namespace: str) -> str:
    """The commands that show a run that was started, as a line."""
    return f"  mnist-job status {name} -n {namespace}    mnist-job logs {name} -n {namespace}"
