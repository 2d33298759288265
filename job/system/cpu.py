"""Whether this CPU can run TensorFlow, whose published packages need the instructions called AVX."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from job.errors import Exit, JobError
from job.system import process

CPUINFO = Path("/proc/cpuinfo")
UNKNOWN = "unknown model"


def unfit(number: int) -> JobError | None:
    """Why TensorFlow cannot run here, if this signal ended a process that was about to use it; None if it can.

    A missing instruction ends a process with SIGILL. TensorFlow looks for AVX itself too, and then ends with SIGABRT.
    """
    name, lacks_avx = _describe_cpu()
    if number != signal.SIGILL and not (lacks_avx and number in {signal.SIGABRT, signal.SIGSEGV}):
        return None
    without = ", without AVX" if lacks_avx else ""
    ended = process.signal_name(128 + number)
    message = f"TensorFlow cannot run on this CPU ({name}{without}): {ended} ended its process"
    hint = "use another machine, or a node with another CPU (--node-selector), or a build of TensorFlow for this CPU"
    return JobError(Exit.BUG, "cpu-unfit", message, hint)


def _describe_cpu() -> tuple[str, bool]:
    """The CPU's name, and whether it is one of x86 without AVX, as far as the system says it."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return UNKNOWN, False
    values = {key: value.strip() for key, value in re.findall(r"^([\w ]+?)\s*:(.*)$", text, re.MULTILINE)}
    flags = values.get("flags", "").split()
    return values.get("model name") or UNKNOWN, bool(flags) and "avx" not in flags
