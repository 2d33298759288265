"""Where everything is on the output volume.

    runs/<run>/lock           held by the process that trains the run
    runs/<run>/config.json    the manifest: settings, their hash, JOB_UID, start, versions, fingerprints; written once
    runs/<run>/events.jsonl   one telemetry record a line; tensorboard/ beside it has the same figures
    runs/<run>/logs/          the log of each worker; see log_file.py
    runs/<run>/checkpoints/   see checkpoint.py
    runs/<run>/verdict.json   what promotion decided; written once, before `latest` moves
    runs/<run>/promoted       an empty file: `latest` was moved to this run and must not return to it by itself
    models/<run>/             appears whole and never changes; model.py in it is the source of the trained model
    latest -> models/<run>    the only symbolic link in the folder; moved only by promotion
    serving/<n>/              the promoted models for TensorFlow Serving, the newest three; see serving.py
    .pruned/                  what prune.py is deleting

Lines are appended to events.jsonl and the logs. Each other file is written to a temporary sibling, flushed to the disk
and renamed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from job.errors import Exit, JobError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOCK = "lock"  # in runs/<run>/, and in .pruned/
LOGS = "logs"  # in runs/<run>/
PRUNED = ".pruned"
PROMOTION_LOCK = ".promotion-lock"
CHECKSUMS = "SHA256SUMS"
MODEL_SOURCE = "model.py"  # in models/<run>/


def unfinished_models(root: Path, run: str) -> list[Path]:
    """The models that processes of a run were about to publish when they were killed."""
    return sorted((root / "models").glob(f".{run}.*"))


def unfinished_probes(root: Path, run: str) -> list[Path]:
    """The folders in which processes of a run were trying the volume when they were killed."""
    return sorted(root.glob(f".probe.{run}.*"))


def unfinished_link(root: Path, run: str) -> Path:
    """The link that becomes `latest` by a rename; it stays only if a promotion of the run was killed."""
    return root / f".latest.{run}"


def serving_folder(root: Path) -> Path:
    """The folder of the versions that TensorFlow Serving loads."""
    return root / "serving"


def unfinished_versions(root: Path) -> list[Path]:
    """The versions that promotions were about to add or to delete when they were killed."""
    return sorted(path for path in serving_folder(root).glob(".*") if path.name[1:].isdecimal())


def refuse_symlinks(root: Path, run: str) -> None:
    """Refuse symbolic links where a run writes: they could lead out of the output folder.

    unfinished_link() is not checked: it is only ever removed or renamed.

    Raises:
        JobError: 73.
    """
    folder = root / "runs" / run
    fixed = [root / "runs", root / "models", serving_folder(root), root / PROMOTION_LOCK, folder, root / "models" / run]
    refuse_links((*fixed, *unfinished_models(root, run), *unfinished_versions(root), *_all_below(folder)))


def refuse_links(paths: Iterable[Path]) -> None:
    """Refuse paths that are symbolic links.

    Raises:
        JobError: 73.
    """
    for path in paths:
        if path.is_symlink():
            message = f"{path} is a symbolic link, and the job does not write through links"
            raise JobError(Exit.OUTPUT, "output-link", message, "remove it")


def _all_below(folder: Path) -> Iterator[Path]:
    return (Path(parent, name) for parent, folders, files in os.walk(folder) for name in (*folders, *files))
