"""What rank 0 writes while it trains: events.jsonl and TensorBoard's scalars."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from job import telemetry

if TYPE_CHECKING:
    from pathlib import Path

    from job.telemetry import Record

TAGS = ("loss", "accuracy", "examples_per_s")


class Journal:
    """Appends each record of a run to its folder.

    TensorBoard's file is written record by record (TFRecords of Event messages) and not by tf.summary, whose scalar
    needs TensorBoard installed, and whose writing took 0.2 ms of the training at each record.

    Args:
        folder: runs/<run>, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self._events = (folder / "events.jsonl").open("a", encoding="utf-8")
        if self._events.tell():
            self._events.write("\n")  # after a last line that may be torn; readers skip an empty one
        (folder / "tensorboard").mkdir(exist_ok=True)
        now = time.time()
        path = folder / "tensorboard" / f"events.out.tfevents.{now:.0f}.{socket.gethostname()}"
        self._scalars = tf.io.TFRecordWriter(str(path))
        self._scalars.write(tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())

    def write(self, record: Record) -> None:
        """Append a record; its figures become scalars by step."""
        self._events.write(telemetry.to_json(record) + "\n")
        self._events.flush()
        value = tf.compat.v1.Summary.Value
        figures = [value(tag=tag, simple_value=figure) for tag in TAGS if (figure := getattr(record, tag)) is not None]
        if figures and record.step is not None:
            summary = tf.compat.v1.Summary(value=figures)
            event = tf.compat.v1.Event(wall_time=record.time, step=record.step, summary=summary)
            try:
                self._scalars.write(event.SerializeToString())
                self._scalars.flush()
            except tf.errors.OpError as error:
                number = errno.ENOSPC if isinstance(error, tf.errors.ResourceExhaustedError) else errno.EIO
                raise OSError(number, os.strerror(number), error.message) from error

    def close(self) -> None:
        """Close both."""
        self._events.close()
        self._scalars.close()


def moments(folder: Path, step: int) -> list[dict[str, Any]]:
    """What a run's journal tells of its training up to a step, as Course.moments; a later record of a step wins.

    Args:
        folder: runs/<run>.
        step: the last that counts.
    """
    try:
        with (folder / "events.jsonl").open(encoding="utf-8", errors="replace") as events:
            found = {r.step: r for r in telemetry.read(events) if r.phase == "training" and r.loss is not None}
    except FileNotFoundError:
        return []
    return [
        {"epoch": r.epoch, "step": r.step, "loss": r.loss, "accuracy": r.accuracy}
        for r in sorted(found.values(), key=lambda r: r.step or 0)
        if r.step and r.step <= step
    ]
