"""Tests of the figures that TensorBoard shows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from job.error_table import errors_from
from job.errors import Exit, JobError
from job.telemetry import Record
from job.training.scalars import Scalars

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Mount


def test_figures_of_records_are_scalars(tmp_path: Path) -> None:
    """TensorBoard reads each figure by step as soon as its record is written, and nothing from other records."""
    scalars = Scalars(tmp_path)
    for record in (
        Record(1.0, "a", 0, "compiling", step=0, steps=20),
        Record(2.0, "a", 0, "training", epoch=1, step=10, steps=20, loss=0.5, examples_per_s=100.0),
        Record(3.0, "a", 0, "training", epoch=2, step=20, steps=20, loss=0.25, accuracy=0.75, examples_per_s=200.0),
        Record(4.0, "a", 0, "published", step=20, steps=20, accuracy=0.875),
    ):
        scalars.write(record)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    by_tag = {tag: [(e.wall_time, e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert by_tag == {
        "loss": [(2.0, 10, 0.5), (3.0, 20, 0.25)],
        "accuracy": [(3.0, 20, 0.75), (4.0, 20, 0.875)],
        "examples_per_s": [(2.0, 10, 100.0), (3.0, 20, 200.0)],
    }


def test_a_full_volume_is_73(volume: Mount) -> None:
    """TensorFlow reports it in the ResourceExhaustedError that it has for memory too."""
    folder = volume("size=64k")
    scalars = Scalars(folder)
    with contextlib.suppress(OSError):
        (folder / "filler").write_bytes(bytes(1 << 17))

    def write() -> None:
        for _ in range(2000):
            scalars.write(Record(1.0, "a", 0, "training", step=1, loss=0.5))

    with pytest.raises(JobError) as caught, errors_from("output", folder):
        write()
    with contextlib.suppress(tf.errors.OpError):
        scalars._file.close()
    assert (caught.value.code, caught.value.reason) == (Exit.OUTPUT, "output-not-writable")
    assert caught.value.message == f"the output folder cannot be written at {folder}: No space left on device"


def test_a_read_only_volume_is_73(volume: Mount) -> None:
    """As soon as the file is opened. TensorFlow reports it in a PermissionDeniedError."""
    folder = volume("size=64k")
    (folder / "tensorboard").mkdir()
    volume("ro,size=64k")
    with pytest.raises(JobError) as caught, errors_from("output", folder):
        Scalars(folder)
    assert (caught.value.code, caught.value.reason) == (Exit.OUTPUT, "output-not-writable")
    assert caught.value.message == f"the output folder cannot be written at {folder}: Read-only file system"
