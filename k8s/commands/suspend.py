"""suspend: stop a run or a schedule until `resume`; a run's checkpoint is kept."""

from __future__ import annotations

import functools

from k8s.commands import lifecycle
from k8s.commands.lifecycle import OUTPUTS, add_flags

__all__ = ["EXAMPLES", "OUTPUTS", "add_flags", "run"]

EXAMPLES = ("mnist-job suspend digits", "mnist-job suspend nightly -o json")

run = functools.partial(lifecycle.run, "suspend")
