"""TensorBoard's view of a run: loss, accuracy and speed by step."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import tensorflow as tf

from job.training.internals import event_messages

if TYPE_CHECKING:
    from pathlib import Path

    from job.telemetry import Record

Event, Summary = event_messages()
TAGS = ("loss", "accuracy", "examples_per_s")


class Scalars:
    """Appends the figures of each record to an event file of TensorBoard's, as TFRecords of Event messages.

    tf.summary is not used: its scalar() requires TensorBoard, and writing took 0.2 ms of each record.

    Args:
        folder: runs/<run>, which exists; the file is made in its `tensorboard`.

    Raises:
        tf.errors.OpError: also from write(), if the file system refuses it; error_table.py finds out why.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "tensorboard").mkdir(exist_ok=True)
        now = time.time()
        path = folder / "tensorboard" / f"events.out.tfevents.{now:.0f}.{socket.gethostname()}"
        self._file = tf.io.TFRecordWriter(str(path))
        self._file.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())

    def write(self, record: Record) -> None:
        """Append the figures of a record, if it has any."""
        value = Summary.Value
        figures = [value(tag=tag, simple_value=figure) for tag in TAGS if (figure := getattr(record, tag)) is not None]
        if not figures or record.step is None:
            return
        summary = Summary(value=figures)
        event = Event(wall_time=record.time, step=record.step, summary=summary)
        self._file.write(event.SerializeToString())
        self._file.flush()
