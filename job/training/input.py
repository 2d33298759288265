"""The input pipeline: a dataset's rows, streamed by tf.data in the order of a plan."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from job.dataset.rows import ImagesOnDisk
from job.training.internals import shared_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from job.dataset.rows import Images, Indices, Rows
    from job.training.plan import Plan

PREFETCH = 2


def training_blocks(rows: Rows, plan: Plan, first_step: int = 0) -> Stream:
    """This worker's blocks from a step of the run on.

    Returns:
        A stream of (images uint8 [block_steps, local_batch_size, height, width], labels int32 [block_steps,
        local_batch_size], weights float32 [block_steps, local_batch_size]).
    """
    shape = (plan.block_steps, plan.local_batch_size)
    indices = tf.data.Dataset.from_generator(
        lambda: plan.indices(first_step),
        output_signature=(tf.TensorSpec(shape, tf.int64), tf.TensorSpec(shape, tf.float32)),
    )
    return Stream(rows, indices, lambda read, numbers, weights: (*read(numbers), weights))


def evaluation_batches(rows: Rows, workers: int, rank: int, batch_size: int) -> Stream:
    """Batches of this worker's contiguous part of the rows, in order, each row once.

    Returns:
        A stream of (row numbers int64 [n], images uint8 [n, height, width], labels int32 [n]); the last n is smaller.
    """
    part = -(-rows.count // workers)
    first, last = min(rank * part, rows.count), min((rank + 1) * part, rows.count)
    numbers = tf.data.Dataset.range(first, last).batch(batch_size)
    return Stream(rows, numbers, lambda read, numbers: (numbers, *read(numbers)))


class Stream:
    """An iterable of rows, which are read ahead of their use.

    TensorFlow repeats an exception of the reader only as the text of an UnknownError. The stream raises the exception
    itself, so that a failing disk is not taken for a bug.

    Args:
        rows: the dataset's.
        numbers: a dataset whose elements contain row numbers.
        to_rows: makes an element of the stream from an element of `numbers`. Its first argument is a function for
            graphs that maps row numbers of any shape to their images and labels.

    Attributes:
        element_spec: the types and shapes of an element.
    """

    def __init__(self, rows: Rows, numbers: tf.data.Dataset, to_rows: Callable[..., tuple[tf.Tensor, ...]]) -> None:
        self._rows = rows
        self._failure: Exception | None = None  # of the reader
        read_images = self._from_disk if isinstance(rows.images, ImagesOnDisk) else _from_memory(rows.images)
        read_labels = _from_memory(rows.labels)

        def read(numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return read_images(numbers), read_labels(numbers)

        options = tf.data.Options()
        options.autotune.enabled = False  # its threads kept finished processes from exiting for up to 40 s
        # AutoGraph would have nothing to rewrite here, and 0.1 s of each start went into finding that out.
        mapped = numbers.map(tf.autograph.experimental.do_not_convert(lambda *element: to_rows(read, *element)))
        self._dataset = mapped.prefetch(PREFETCH).with_options(options)
        self.element_spec = self._dataset.element_spec

    def __iter__(self) -> Iterator[tuple[tf.Tensor, ...]]:
        try:
            yield from self._dataset
        except tf.errors.OpError as error:
            if self._failure:
                raise self._failure from error
            raise

    def _from_disk(self, numbers: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(numbers, [-1])
        images = tf.numpy_function(self._read_images, [flat], tf.uint8, stateful=False)
        images = tf.reshape(images, tf.concat([tf.shape(numbers), self._rows.shape], axis=0))
        return tf.ensure_shape(images, [*numbers.shape, *self._rows.shape])

    def _read_images(self, indices: Indices) -> Images:
        try:
            return self._rows.images[indices]
        except Exception as error:
            self._failure = error
            raise


def _from_memory(array: NDArray[Any]) -> Callable[[tf.Tensor], tf.Tensor]:
    return partial(tf.gather, shared_tensor(array))
