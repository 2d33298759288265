"""Checkpoints: one file each, <folder>/<step>.safetensors, whole or not at all, the newest three kept.

Its metadata holds step, workers, seconds, settings and their hash, and a SHA-256 over all that and the tensors.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from job.config import settings_differences, settings_hash
from job.errors import Exit, JobError
from job.system.files import make_folder, sweep, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

KEEP = 3
NAME = re.compile(r"[0-9]+\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A training as it stood after a step.

    step counts the steps made, workers those that made them; settings are config.settings_to_match()'s; seconds is how
    long the training took so far; params are the model's parameters.
    """

    step: int
    workers: int
    settings: dict[str, Any]
    seconds: float
    params: dict[str, NDArray[np.float32]]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, remove what a killed process left of one, and all but the newest KEEP.

    Raises:
        OSError: from the file system; no part of the checkpoint is left.
    """
    make_folder(folder)
    sweep(folder)
    write(folder / f"{checkpoint.step}.safetensors", _to_bytes(checkpoint))
    # Those of later steps are not sound, or training had gone on from them: they go before any older one.
    oldest_first = sorted(_files(folder), key=lambda path: (_step(path) <= checkpoint.step, _step(path)))
    for path in oldest_first[:-KEEP]:
        path.unlink()


def restore_newest(folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is sound; None where there is none at all.

    Args:
        folder: may be absent.
        settings: config.settings_to_match()'s, which it must have.
        warn: is told of each damaged one that is passed over.

    Raises:
        JobError: 78 when none is sound, or the newest that is has other settings.
        OSError: when one cannot be read, which does not mean that it is damaged.
    """
    files = sorted(_files(folder), key=_step, reverse=True)
    for path in files:
        content = path.read_bytes()
        try:
            found = _from_bytes(content, _step(path))
        except ValueError as error:
            warn(f"the checkpoint {path} is damaged, and passed over: {error}")
            continue
        if found.settings != settings:
            raise JobError(
                Exit.SETTINGS,
                "other-settings",
                f"the checkpoint {path} was made with {settings_differences(found.settings, settings)}",
                "give the same flags again, or another --name",
            )
        return found
    if files:
        count = "the only checkpoint" if len(files) == 1 else f"each of the {len(files)} checkpoints"
        raise JobError(
            Exit.SETTINGS,
            "checkpoints-damaged",
            f"{count} in {folder} is damaged",
            "put a sound one there, or use another --name to begin anew",
        )
    return None


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    except FileNotFoundError:
        return []


def _step(path: Path) -> int:
    return int(path.stem)


def _to_bytes(checkpoint: Checkpoint) -> bytes:
    metadata = {
        "step": str(checkpoint.step),
        "workers": str(checkpoint.workers),
        "seconds": repr(float(checkpoint.seconds)),
        "settings": json.dumps(checkpoint.settings, sort_keys=True),
        "settings_hash": settings_hash(checkpoint.settings),
    }
    params = {name: np.asarray(array, order="C") for name, array in checkpoint.params.items()}
    return safetensors.save(params, metadata | {"sha256": _sha256(metadata, params)})


def _from_bytes(content: bytes, step: int) -> Checkpoint:
    """What _to_bytes() made of the checkpoint of a step; ValueError where it is damaged."""
    try:
        params = safetensors.load(content)
        # The header, after its length: the library reads metadata only from a file, through a mapping of it, and a
        # read that fails there ends the process.
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        expected = metadata.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if expected != _sha256(metadata, params):
        raise ValueError("its SHA-256 is not that of its content")
    if int(metadata["step"]) != step:
        raise ValueError(f"it is that of step {metadata['step']}")
    return Checkpoint(
        step, int(metadata["workers"]), json.loads(metadata["settings"]), float(metadata["seconds"]), params
    )


def _sha256(metadata: Mapping[str, str], params: Mapping[str, NDArray[np.float32]]) -> str:
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(params.items()):
        sha.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
