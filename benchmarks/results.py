"""Where a benchmark's figures are kept."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from benchmarks.measure import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def keep(document: Mapping[str, Any], path: Path | None, prefix: str = "") -> str:
    """Write figures as JSON; returns the line that says where.

    Args:
        document: the figures, and around them when, on what and with what they were measured.
        path: where the user wants them; None: in output/benchmarks, under the time.
        prefix: of the file's name there.
    """
    name = f"{prefix}{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path = path or PROJECT / "output" / "benchmarks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return f"written: {path}"
