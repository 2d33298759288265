"""Checkpoints: one file each, <folder>/<step>.safetensors, written atomically; the newest three are kept.

The metadata of a file holds step, workers, sizes, threads, seconds, settings, their hash, the sums since the last
record, and a SHA-256 over all that and the tensors.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from job.errors import Exit, JobError
from job.must_match import check_match, settings_hash
from job.system.files import make_folder, sweep, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

KEEP = 3
NAME = re.compile(r"[0-9]+\.safetensors")


@dataclass
class SinceRecord:
    """Sums over the steps since the last progress record.

    loss, in nats, covers all complete blocks of steps, and block_loss, a float32, the steps of an incomplete block;
    examples is the number of examples in all of these steps; seconds is the time of training.
    """

    loss: float = 0.0
    block_loss: float = 0.0
    examples: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after a step.

    step is the number of steps made, workers the number of workers that made them, threads the number of CPU threads of
    rank 0's steps (None in a checkpoint of an earlier version); settings are those of must_match.settings_to_match();
    seconds is the time of training so far; params are the model's parameters. A checkpoint of an earlier version has no
    sums since the last record. sizes holds (step, workers) for each change of the number of workers, from step 0
    on: from that step on, so many workers trained. It is empty in a checkpoint of an earlier version.
    """

    step: int
    workers: int
    threads: int | None
    settings: dict[str, Any]
    seconds: float
    params: dict[str, NDArray[np.float32]]
    since_record: SinceRecord = field(default_factory=SinceRecord)
    sizes: tuple[tuple[int, int], ...] = ()

    def resumed_by(self, workers: int, threads: int) -> Checkpoint:
        """The same state, from which so many workers with so many threads continue."""
        sizes = tuple(size for size in self.sizes or ((0, self.workers),) if size[0] < self.step)
        if not sizes or sizes[-1][1] != workers:
            sizes += ((self.step, workers),)
        return replace(self, workers=workers, threads=threads, sizes=sizes)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, and remove unfinished files and all but the newest KEEP checkpoints.

    Raises:
        OSError: from the file system; no part of the checkpoint is left.
    """
    make_folder(folder)
    sweep(folder)
    write(folder / f"{checkpoint.step}.safetensors", _to_bytes(checkpoint))
    # Checkpoints of later steps are damaged, else training would have resumed from them: they are removed first.
    oldest_first = sorted(_files(folder), key=lambda path: (_step(path) <= checkpoint.step, _step(path)))
    for path in oldest_first[:-KEEP]:
        path.unlink()


def restore_newest(folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]) -> Checkpoint | None:
    """Read the newest checkpoint that is not damaged; None if there are no checkpoints.

    Args:
        folder: may be absent.
        settings: those of must_match.settings_to_match(), which the checkpoint must have.
        warn: called with a sentence for each damaged checkpoint that is skipped.

    Raises:
        JobError: 78 if all are damaged, or the newest that is not has other settings or another model.
        OSError: from the file system; a file that cannot be read may be intact.
    """
    files = sorted(_files(folder), key=_step, reverse=True)
    for path in files:
        content = path.read_bytes()
        try:
            checkpoint = _from_bytes(content, _step(path))
        except ValueError as error:
            warn(f"the checkpoint {path} is damaged and is skipped: {error}")
            continue
        check_match(f"the checkpoint {path}", checkpoint.settings, settings)
        return checkpoint
    if files:
        count = "the only checkpoint" if len(files) == 1 else f"each of the {len(files)} checkpoints"
        raise JobError(
            Exit.SETTINGS,
            "checkpoints-damaged",
            f"{count} in {folder} is damaged",
            "restore an intact checkpoint, or use another --name to start from the beginning",
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
        "sizes": json.dumps(checkpoint.sizes),
        "threads": str(checkpoint.threads),
        "seconds": repr(float(checkpoint.seconds)),
        "settings": json.dumps(checkpoint.settings, sort_keys=True),
        "settings_hash": settings_hash(checkpoint.settings),
        "since_record": json.dumps(asdict(checkpoint.since_record)),
    }
    params = {name: np.asarray(array, order="C") for name, array in checkpoint.params.items()}
    return safetensors.save(params, metadata | {"sha256": _sha256(metadata, params)})


def _from_bytes(content: bytes, step: int) -> Checkpoint:
    """The inverse of _to_bytes() for the checkpoint of a step; ValueError if it is damaged."""
    try:
        params = safetensors.load(content)
        # The header follows its length. The library reads metadata only from a memory-mapped file, and a read error
        # there ends the process.
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        expected = metadata.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if expected != _sha256(metadata, params):
        raise ValueError("its SHA-256 does not match its content")
    if int(metadata["step"]) != step:
        raise ValueError(f"it belongs to step {metadata['step']}")
    return Checkpoint(
        step,
        int(metadata["workers"]),
        int(metadata["threads"]) if "threads" in metadata else None,
        json.loads(metadata["settings"]),
        float(metadata["seconds"]),
        params,
        SinceRecord(**json.loads(metadata.get("since_record", "{}"))),
        tuple((step, workers) for step, workers in json.loads(metadata.get("sizes", "[]"))),
    )


def _sha256(metadata: Mapping[str, str], params: Mapping[str, NDArray[np.float32]]) -> str:
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(params.items()):
        sha.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


class CheckpointWriter:
    """Writes checkpoints in a thread of its own. Only one thread may use it.

    Its thread is started at once and not with the first checkpoint: starting it then took 1 to 4 ms of the training.

    Args:
        folder: the folder of the checkpoints.
        newest_step: the step of the newest checkpoint there; None without one.

    Attributes:
        written: the step of the newest checkpoint on the disk; None if there is none.
    """

    def __init__(self, folder: Path, newest_step: int | None = None) -> None:
        self.written = newest_step
        self._folder = folder
        self._changed = threading.Condition()
        self._waiting: Checkpoint | None = None
        self._idle = True
        self._failure: Exception | None = None
        threading.Thread(target=self._write, name="checkpoints", daemon=True).start()

    def submit(self, checkpoint: Checkpoint) -> None:
        """Have a checkpoint written. It replaces one that still waits; its arrays must not change from now on.

        Raises:
            OSError: an earlier checkpoint could not be written; no more are written.
        """
        with self._changed:
            self._raise_failure()
            self._waiting, self._idle = checkpoint, False
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until all checkpoints are written.

        Raises:
            OSError: a checkpoint could not be written.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._idle)
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure:
            raise self._failure

    def _write(self) -> None:
        while not self._failure:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                checkpoint, self._waiting = self._waiting, None
            if checkpoint:
                try:
                    save_checkpoint(self._folder, checkpoint)
                    self.written = checkpoint.step
                except Exception as error:  # noqa: BLE001 - any exception is raised again in the training's thread
                    self._failure = error
            with self._changed:
                self._idle = self._waiting is None or self._failure is not None
                self._changed.notify_all()
