"""A thread that writes checkpoints, so that training does not wait for the disk."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from job.output.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from job.output.checkpoint import Checkpoint


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, so that training waits for none. Used by one thread.

    The thread is there from the beginning: who starts one waits until it runs, which took 1 to 4 ms where it began to
    write at once.

    Attributes:
        written: the step of the newest that is on the disk; None where none is.
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
        """Have a checkpoint written, in the place of one that still waits; its arrays must not be changed any more.

        Raises:
            OSError: an earlier one could not be written, and no more will be.
        """
        with self._changed:
            self._check()
            self._waiting, self._idle = checkpoint, False
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until all are written.

        Raises:
            OSError: one could not be written.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._idle)
            self._check()

    def _check(self) -> None:
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
                except Exception as error:  # noqa: BLE001 - whatever it is, the training's thread is to meet it
                    self._failure = error
            with self._changed:
                self._idle = self._waiting is None or self._failure is not None
                self._changed.notify_all()
