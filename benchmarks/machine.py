"""The machine and the software of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "tf-keras", "numpy")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def context(torch_version: str | None = None) -> dict[str, Any]:
    """The time, and describe(), for the file of results."""
    return {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": describe(torch_version)}


def describe(torch_version: str | None) -> dict[str, Any]:
    """The processor, its cores, memory in bytes, the operating system, and versions of libraries."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "load_at_start": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            **{library: version for library in LIBRARIES if (version := installed(library))},
            **({"torch": torch_version} if torch_version else {}),
        },
    }


def installed(library: str) -> str | None:
    """The version of a library, None if it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def find_torch(python: str | None) -> tuple[str, str] | None:
    """An interpreter that can import PyTorch, and PyTorch's version; None if this interpreter cannot.

    Args:
        python: the interpreter; None for this one.

    Raises:
        SystemExit: if the given interpreter cannot import it.
    """
    program = python or sys.executable
    try:
        ran = subprocess.run(
            [program, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        sys.exit(f"--torch-python {program}: {error.strerror}")
    if ran.returncode == 0:
        return program, ran.stdout.strip()
    if python:
        sys.exit(f"--torch-python {program} cannot import torch")
    return None


def _cpu() -> str:
    """The processor's name, family and model; in some clouds the name says little."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    name = fields.get("model name", platform.machine())
    family, model = fields.get("cpu family"), fields.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name
