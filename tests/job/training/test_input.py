"""Tests of the input pipeline: the rows that a plan names, from memory and from disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from job.config import Config
from job.dataset.rows import ImagesOnDisk, Rows, load_dataset
from job.errors import Exit, JobError
from job.training import input as inputs
from job.training.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from job.dataset.rows import Images, Indices


class ReadableOnce(ImagesOnDisk):
    """600 black images of 2 x 2 pixels; every reading but the first one fails."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(Path(os.devnull), os.open(os.devnull, os.O_RDONLY), 0, (600, 2, 2))
        self._failure, self._was_read = failure, False

    def __getitem__(self, indices: Indices) -> Images:
        """The images, or the failure."""
        if self._was_read:
            raise self._failure
        self._was_read = True
        return np.zeros((len(indices), 2, 2), np.uint8)


def arrays(stream: inputs.Stream) -> Iterator[list[NDArray[Any]]]:
    """The elements of a stream as arrays of NumPy's."""
    return ([part.numpy() for part in element] for element in stream)


@pytest.mark.parametrize("first_step", [0, 13])
def test_both_sources_stream_the_same_blocks(prepared: Path, first_step: int) -> None:
    """Rows in memory and rows on disk give the same blocks, with the rows of the plan."""
    memory, disk = load_dataset(prepared, "mnist").train, load_dataset(prepared, "mnist", memory_limit=0).train
    assert isinstance(memory.images, np.ndarray)
    assert isinstance(disk.images, ImagesOnDisk)
    plan = Plan(Config(batch_size=64, epochs=2, log_every=4), 600, 784, workers=3, rank=1)
    count = 0
    streams = (arrays(inputs.training_blocks(rows, plan, first_step)) for rows in (memory, disk))
    for one, other, (indices, weights) in zip(*streams, plan.indices(first_step), strict=True):
        for stream in (one, other):
            images, labels = memory.take(indices.reshape(-1))
            shape = (plan.block_steps, plan.local_batch_size)
            assert [array.dtype for array in stream] == [np.uint8, np.int32, np.float32]
            np.testing.assert_array_equal(stream[0], images.reshape(*shape, 28, 28))
            np.testing.assert_array_equal(stream[1], labels.reshape(shape))
            np.testing.assert_array_equal(stream[2], weights)
        count += 1
    assert count == len(list(plan.blocks(first_step)))


@pytest.mark.parametrize(("count", "workers"), [(200, 1), (200, 2), (200, 3), (7, 3), (2, 5), (1, 1), (9, 4)])
def test_evaluation_counts_every_example_once(count: int, workers: int) -> None:
    """The workers' batches have each row once, in order, with its image and label, and at most so many rows."""
    images = np.arange(count * 4, dtype=np.int64).astype(np.uint8).reshape(count, 2, 2)
    rows = Rows(images, np.arange(count, dtype=np.int32)[::-1].copy())
    numbers: list[int] = []
    for rank in range(workers):
        for chosen, pictures, labels in arrays(inputs.evaluation_batches(rows, workers, rank, 6)):
            assert 0 < len(chosen) <= 6
            np.testing.assert_array_equal(pictures, images[chosen])
            np.testing.assert_array_equal(labels, count - 1 - chosen)
            numbers += chosen.tolist()
    assert numbers == list(range(count))


def test_evaluation_from_disk_gives_the_rows_in_memory(prepared: Path) -> None:
    """Both sources give the same test examples."""

    def whole(limit: int) -> list[NDArray[Any]]:
        rows = load_dataset(prepared, "mnist", memory_limit=limit).test
        parts = [batch for rank in range(3) for batch in arrays(inputs.evaluation_batches(rows, 3, rank, 32))]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    for one, other in zip(whole(1 << 30), whole(0), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.EIO, "Input/output error"),
        JobError(Exit.TRY_AGAIN, "dataset-io", "it could not be read"),
        MemoryError("no room"),
        IndexError("a bug"),
    ],
)
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_an_exception_of_the_reader_arrives_as_it_was_raised(kind: str, failure: Exception) -> None:
    """After the elements that could be read; TensorFlow alone would raise an UnknownError with its text."""
    rows = Rows(ReadableOnce(failure), np.zeros(600, np.int32))
    plan = Plan(Config(batch_size=60, epochs=2, log_every=4), 600, 4, workers=1, rank=0)
    stream = inputs.training_blocks(rows, plan) if kind == "training" else inputs.evaluation_batches(rows, 1, 0, 6)
    elements = iter(stream)
    next(elements)
    with pytest.raises(type(failure)) as caught:
        list(elements)
    assert caught.value is failure
