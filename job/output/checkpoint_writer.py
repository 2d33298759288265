"""A thread that writes checkpoints, so that training does not wait for the disk."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from job.output.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from job.output.checkpoint import Checkpoint


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
