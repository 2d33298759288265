"""The input pipeline: a dataset's rows, streamed by tf.data in the order of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from job.training.plan import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.dataset.rows import Rows
    from job.training.plan import Plan

PREFETCH = 2


def training_blocks(rows: Rows, plan: Plan, first_step: int = 0) -> tf.data.Dataset:
    """This worker's blocks from a step of the run on.

    Returns:
        A dataset of (images uint8 [block_steps, local_batch_size, height, width], labels int32 [block_steps,
        local_batch_size], weights float32 [block_steps, local_batch_size]).
    """
    shape = (plan.block_steps, plan.local_batch_size)
    indices = tf.data.Dataset.from_generator(
        lambda: plan.indices(first_step),
        output_signature=(tf.TensorSpec(shape, tf.int64), tf.TensorSpec(shape, tf.float32)),
    )
    read = _reader(rows)
    return _stream(indices, lambda numbers, weights: (*read(numbers), weights))


def evaluation_batches(rows: Rows, workers: int, rank: int) -> tf.data.Dataset:
    """This worker's contiguous part of all rows, in order, each row once.

    Returns:
        A dataset of (row numbers int64 [n], images uint8 [n, height, width], labels int32 [n]); the last n is smaller.
    """
    part = -(-rows.count // workers)
    first, last = min(rank * part, rows.count), min((rank + 1) * part, rows.count)
    batch = max(1, BLOCK_BYTES // (rows.shape[0] * rows.shape[1]))
    read = _reader(rows)
    return _stream(tf.data.Dataset.range(first, last).batch(batch), lambda numbers: (numbers, *read(numbers)))


def _reader(rows: Rows) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function in the graph that maps row numbers of any shape to their images and labels."""
    if rows.images is not None:
        images, labels = tf.constant(rows.images), tf.constant(rows.labels, tf.int32)
        return lambda numbers: (tf.gather(images, numbers), tf.gather(labels, numbers))

    def from_disk(numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        flat = tf.reshape(numbers, [-1])
        images, labels = tf.numpy_function(rows.take, [flat], (tf.uint8, tf.int32), stateful=False)
        shape = tf.shape(numbers)
        images = tf.reshape(images, tf.concat([shape, rows.shape], axis=0))
        images.set_shape([*numbers.shape, *rows.shape])
        return images, tf.ensure_shape(tf.reshape(labels, shape), numbers.shape)

    return from_disk


def _stream(numbers: tf.data.Dataset, to_rows: Callable[..., tuple[tf.Tensor, ...]]) -> tf.data.Dataset:
    """The rows with these numbers, read ahead of their use."""
    options = tf.data.Options()
    options.autotune.enabled = False  # its threads kept finished processes from exiting for up to 40 s
    # AutoGraph would have nothing to rewrite here, and 0.1 s of each start went into finding that out.
    rows = numbers.map(tf.autograph.experimental.do_not_convert(to_rows))
    return rows.prefetch(PREFETCH).with_options(options)
