"""Runs in an output folder, for the tests of it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from job.config import Config
from job.must_match import settings_hash, settings_to_match
from job.output.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


FINGERPRINT = {"train": {"sha256": "a" * 64}, "test": {"sha256": "b" * 64}}


def manifest(job_uid: str = "local", **changes: Any) -> dict[str, Any]:
    """The content of config.json, as far as the output folder uses it."""
    config = Config(**changes)
    must_match = settings_to_match(config, FINGERPRINT)
    return {
        "job_uid": job_uid,
        "started": "2026-11-01",
        "settings": {"promote": config.promote, "min_accuracy": config.min_accuracy},
        "settings_hash": settings_hash(must_match),
        "must_match": must_match,
    }


def tree(folder: Path) -> dict[str, str | bytes | None]:
    """Everything below a folder: files' content, links' targets, None for folders."""
    entries: dict[str, str | bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        entries[str(path.relative_to(folder))] = content
    return entries


def fill(
    accuracy: float = 0.9, started: int = 1, name: str = "a", min_accuracy: float = 0.0, policy: str = "unless-worse"
) -> Callable[[Path], None]:
    """A function that writes a model: a report, and a file two folders down."""
    report = {
        "run": {"name": name, "started": f"2026-11-{started:02}"},
        "dataset": FINGERPRINT,
        "settings": {"promote": policy, "min_accuracy": min_accuracy},
        "test": {"accuracy": accuracy, "accuracy_interval": [accuracy - 0.01, accuracy + 0.01], "classes": []},
    }

    def write(folder: Path) -> None:
        (folder / "saved_model" / "1").mkdir(parents=True)
        (folder / "saved_model" / "1" / "weights").write_bytes(bytes(range(256)))
        (folder / "report.json").write_text(json.dumps(report))

    return write


def published(
    root: Path, name: str = "a", accuracy: float = 0.9, started: int = 1, policy: str = "unless-worse"
) -> RunFolder:
    """A run that is published and not yet promoted."""
    output = RunFolder(root, name, "local")
    with output.begin(manifest()):
        output.publish(fill(accuracy, started, name, policy=policy))
    return output


def latest(root: Path) -> str | None:
    """The target of `latest`."""
    return os.readlink(root / "latest") if (root / "latest").is_symlink() else None  # noqa: PTH115 - not a Path of it
