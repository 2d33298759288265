"""What rank 0 writes while it trains: events.jsonl and TensorBoard's scalars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from job import telemetry

if TYPE_CHECKING:
    from pathlib import Path

    from job.telemetry import Record

# The plugin's own name: so written, TensorBoard shows scalars and need not be installed here.
SCALARS = tf.compat.v1.SummaryMetadata(plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"))
TAGS = ("loss", "accuracy", "examples_per_s")


class Journal:
    """Appends each record of a run to its folder.

    Args:
        folder: runs/<run>, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self._events = (folder / "events.jsonl").open("a", encoding="utf-8")
        self._scalars = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def write(self, record: Record) -> None:
        """Append a record; its figures become scalars by step."""
        self._events.write(telemetry.to_json(record) + "\n")
        self._events.flush()
        with self._scalars.as_default():
            for tag in TAGS:
                value = getattr(record, tag)
                if value is not None and record.step is not None:
                    tf.summary.write(tag, tf.constant(value, tf.float32), step=record.step, metadata=SCALARS)

    def close(self) -> None:
        """Flush and close both."""
        self._events.close()
        self._scalars.close()
