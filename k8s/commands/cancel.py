"""cancel: stop a run (its checkpoint is kept), or delete a schedule (its runs stay)."""

from __future__ import annotations

import functools

from k8s.commands import lifecycle
from k8s.commands.lifecycle import OUTPUTS, add_flags

__all__ = ["EXAMPLES", "OUTPUTS", "add_flags", "run"]

EXAMPLES = ("mnist-job cancel digits", "mnist-job cancel nightly -n research")

run = functools.partial(lifecycle.run, "cancel")
