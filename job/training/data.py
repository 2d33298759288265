"""A dataset on disk, streamed by tf.data as blocks of this worker's part of each global batch.

The order is a function of (seed, epoch) alone: global batch k of an epoch is positions kB to (k+1)B of it, and
rank r takes the r-th part of ceil(B/N) positions, padded to that size with weight 0. So the same flags are the same
training for any number of workers, no example is lost or doubled, and every step has one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from job.dataset.rows import Rows

# Held several times over (prefetch); 200 steps of 100 MNIST images. Half of it costs 5 us a step more.
BLOCK_BYTES = 16 * 2**20
PREFETCH = 2


@dataclass(frozen=True)
class Plan:
    """Which examples this worker takes at each step of a run.

    Args:
        count: examples in the training set.
        row_bytes: bytes of one image.
        batch_size: examples in a global batch, B.
        workers: number of workers, N.
        rank: this worker, 0 to N - 1.
        seed: of the order of examples.
        epochs: passes over the training set.
        log_every: steps between progress records; a block ends there at the latest.
        checkpoint_every: steps of the run between checkpoints, for which a block ends too; 0: the end of each epoch.
        sync_every: above 1, blocks end there alone and at an epoch's end, for that is where workers are averaged.
    """

    count: int
    row_bytes: int
    batch_size: int
    workers: int
    rank: int
    seed: int
    epochs: int
    log_every: int
    checkpoint_every: int
    sync_every: int

    @property
    def part(self) -> int:
        """Examples of a step on each worker, padding included: ceil(B/N)."""
        return -(-self.batch_size // self.workers)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, the last one's batch perhaps smaller: ceil(count/B)."""
        return -(-self.count // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    @property
    def stride(self) -> int:
        """A block ends at each multiple of so many steps of an epoch, at the latest."""
        return self.sync_every if self.averages else self.log_every

    @property
    def averages(self) -> bool:
        """Whether the workers train on their own between averages, which a block must then not split."""
        return self.workers > 1 and self.sync_every > 1

    @property
    def block_steps(self) -> int:
        """Steps that a block has room for."""
        steps = min(self.stride, self.steps_per_epoch)
        if self.averages:
            return steps
        room = max(1, BLOCK_BYTES // (self.part * self.row_bytes))
        return -(-steps // -(-steps // room))  # as few blocks as there is room for, all of one length

    def checkpoint_is_due(self, before: int, step: int) -> bool:
        """Whether a checkpoint belongs at the end of a block that led from one step of the run to another."""
        every = self.checkpoint_every or self.steps_per_epoch
        return step // every > before // every

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The order of examples in an epoch, int64 [count]; RandomState's stream is frozen (NumPy's NEP 19)."""
        return np.random.RandomState([self.seed, epoch]).permutation(self.count)

    def batch_sizes(self, first: int, last: int) -> NDArray[np.float32]:
        """The true number of examples in each global batch of the epoch's steps first to last - 1."""
        starts = np.arange(first, last) * self.batch_size
        return (np.minimum(starts + self.batch_size, self.count) - starts).astype(np.float32)

    def blocks(self, first_step: int = 0) -> Iterator[tuple[int, int, int]]:
        """(epoch, first, last) of each block from a step of the run on: steps first to last - 1 of that epoch."""
        epoch, first = divmod(first_step, self.steps_per_epoch)
        while epoch < self.epochs:
            # Blocks end at multiples of the stride whatever step the run began at.
            last = min(first + self.block_steps, (first // self.stride + 1) * self.stride, self.steps_per_epoch)
            if self.checkpoint_every and not self.averages:
                made = epoch * self.steps_per_epoch + first
                last = min(last, first + self.checkpoint_every - made % self.checkpoint_every)
            yield epoch, first, last
            epoch, first = (epoch, last) if last < self.steps_per_epoch else (epoch + 1, 0)

    def indices(self, first_step: int = 0) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """For each block the rows to take, int64 [block_steps, part], and their weights, float32, 0 for padding."""
        order, ordered = np.empty(0, np.int64), -1
        for epoch, first, last in self.blocks(first_step):
            if epoch != ordered:
                order, ordered = self.order(epoch), epoch
            # Positions in the epoch: [steps, 1] batch starts and [part] places in the batch of this worker.
            starts = np.arange(first, first + self.block_steps)[:, None] * self.batch_size
            places = self.rank * self.part + np.arange(self.part)
            positions = starts + places
            taken = (places < self.batch_size) & (positions < self.count) & (starts < last * self.batch_size)
            yield order[np.where(taken, positions, 0)], taken.astype(np.float32)


def training_blocks(rows: Rows, plan: Plan, first_step: int = 0) -> tf.data.Dataset:
    """This worker's blocks from a step of the run on.

    Returns:
        A dataset of (images uint8 [block_steps, part, height, width], labels int32 [block_steps, part],
        weights float32 [block_steps, part]).
    """
    shape = (plan.block_steps, plan.part)
    indices = tf.data.Dataset.from_generator(
        lambda: plan.indices(first_step),
        output_signature=(tf.TensorSpec(shape, tf.int64), tf.TensorSpec(shape, tf.float32)),
    )
    take = _taker(rows)
    return _streamed(indices, lambda chosen, weights: (*take(chosen), weights))


def evaluation_batches(rows: Rows, workers: int, rank: int) -> tf.data.Dataset:
    """This worker's contiguous part of all rows, in order, each once.

    Returns:
        A dataset of (row numbers int64 [n], images uint8 [n, height, width], labels int32 [n]); n differs in the last.
    """
    part = -(-rows.count // workers)
    first, last = min(rank * part, rows.count), min((rank + 1) * part, rows.count)
    batch = max(1, BLOCK_BYTES // (rows.shape[0] * rows.shape[1]))
    take = _taker(rows)
    chosen = tf.data.Dataset.range(first, last).batch(batch)
    return _streamed(chosen, lambda numbers: (numbers, *take(numbers)))


def _taker(rows: Rows) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function in the graph from row numbers of any shape to their images and labels."""
    if rows.images is not None:
        images, labels = tf.constant(rows.images), tf.constant(rows.labels, tf.int32)
        return lambda chosen: (tf.gather(images, chosen), tf.gather(labels, chosen))

    def from_disk(chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        flat = tf.reshape(chosen, [-1])
        images, labels = tf.numpy_function(rows.take, [flat], (tf.uint8, tf.int32), stateful=False)
        shape = tf.shape(chosen)
        images = tf.reshape(images, tf.concat([shape, rows.shape], axis=0))
        images.set_shape([*chosen.shape, *rows.shape])
        return images, tf.ensure_shape(tf.reshape(labels, shape), chosen.shape)

    return from_disk


def _streamed(chosen: tf.data.Dataset, to_rows: Callable[..., tuple[tf.Tensor, ...]]) -> tf.data.Dataset:
    """Rows for what was chosen, made ahead of their use."""
    options = tf.data.Options()
    options.autotune.enabled = False  # its threads kept finished processes from exiting for up to 40 s
    # AutoGraph has nothing to rewrite here, and would take 0.1 s of each start to find that out.
    rows = chosen.map(tf.autograph.experimental.do_not_convert(to_rows))
    return rows.prefetch(PREFETCH).with_options(options)
