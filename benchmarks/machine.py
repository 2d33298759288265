"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "tf-keras", "numpy")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(torch_version: str | None) -> dict[str, Any]:
    """The processor, its cores, memory in bytes, the system, and the versions of what was timed."""
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
    """The version of a library, None where it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def find_torch(python: str | None) -> tuple[str, str] | None:
    """An interpreter that can import PyTorch and its PyTorch's version; without a path, this interpreter if it can.

    Raises:
        SystemExit: the path that was given cannot.
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
    """The processor's name, with its family and model, for some clouds' names say little."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    name = found.get("model name", platform.machine())
    family, model = found.get("cpu family"), found.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name
