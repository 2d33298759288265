"""resume: continue a suspended run from its checkpoint, or a suspended schedule."""

from __future__ import annotations

import functools

from k8s.commands import lifecycle
from k8s.commands.lifecycle import OUTPUTS, add_flags

__all__ = ["EXAMPLES", "OUTPUTS", "add_flags", "run"]

EXAMPLES = ("mnist-job resume digits", "mnist-job resume nightly -n research")

run = functools.partial(lifecycle.run, "resume")
