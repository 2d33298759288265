"""Which examples a worker trains on at each step, and which steps form a block. Pure NumPy.

The order of examples depends on seed and epoch only. Global batch k of an epoch is positions kB to (k+1)B of that
order, and rank r takes the r-th part of ceil(B/N) positions, padded with examples of weight 0. Any number of workers
therefore trains on the same global batches, every example counts exactly once an epoch, and all steps have one shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from job.cluster import Cluster
    from job.config import Config
    from job.dataset.rows import Rows

# The input pipeline holds several blocks in memory. 16 MiB are 200 steps of 100 MNIST images; half of it costs 5 us a
# step more.
BLOCK_BYTES = 16 * 2**20

# With fewer examples, a call of the model costs more than its work.
EVALUATION_BATCH = 100


class Block(NamedTuple):
    """Consecutive steps of an epoch that run in one call: steps first to last - 1, counted from 0."""

    epoch: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """The steps of a run, as one worker makes them.

    Attributes:
        config: the run's settings.
        count: examples in the training set.
        row_bytes: bytes of one image.
        workers: number of workers that train, N.
        rank: this worker's place among them, 0 to N - 1, which is its rank if no worker is missing.
    """

    config: Config
    count: int
    row_bytes: int
    workers: int
    rank: int

    @classmethod
    def of(cls, config: Config, cluster: Cluster, rows: Rows) -> Plan:
        """The plan of this worker for a training set."""
        return cls(config, rows.count, math.prod(rows.shape), cluster.size, cluster.place)

    @property
    def batch_size(self) -> int:
        """Examples in a global batch, B."""
        return min(self.config.batch_size, self.count)

    @property
    def local_batch_size(self) -> int:
        """Examples of a step on each worker, including padding: ceil(B/N)."""
        return -(-self.batch_size // self.workers)

    @property
    def evaluation_batch_size(self) -> int:
        """Test examples that a worker classifies in one call, which should take no longer than a step."""
        return max(EVALUATION_BATCH, 3 * self.local_batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, ceil(count/B). The last batch may be smaller."""
        return -(-self.count // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def is_local_sgd(self) -> bool:
        """Whether the workers train alone and average their parameters at the end of each block."""
        return self.workers > 1 and self.config.sync_every > 1

    @property
    def block_stride(self) -> int:
        """A block ends at each multiple of this number of steps of an epoch, or earlier."""
        return self.config.sync_every if self.is_local_sgd else self.config.log_every

    @property
    def block_steps(self) -> int:
        """Steps that a block has room for."""
        steps = min(self.block_stride, self.steps_per_epoch)
        if self.is_local_sgd:
            return steps  # splitting a block would average more often
        room = max(1, BLOCK_BYTES // (self.local_batch_size * self.row_bytes))
        return -(-steps // -(-steps // room))  # as few blocks as possible, all of the same length

    def blocks(self, first_step: int = 0) -> Iterator[Block]:
        """The blocks from a step of the run on, counted from 0."""
        every = 0 if self.is_local_sgd else self.config.checkpoint_every
        epoch, first = divmod(first_step, self.steps_per_epoch)
        while epoch < self.config.epochs:
            # Blocks end at multiples of the stride, and of their length after one, whichever step the run resumes from.
            stride_start = first - first % self.block_stride
            last = first + self.block_steps - (first - stride_start) % self.block_steps
            last = min(last, stride_start + self.block_stride, self.steps_per_epoch)
            if every:
                last = min(last, first + every - (epoch * self.steps_per_epoch + first) % every)
            yield Block(epoch, first, last)
            epoch, first = (epoch, last) if last < self.steps_per_epoch else (epoch + 1, 0)

    def step_after(self, block: Block) -> int:
        """The number of steps of the run that are done after a block."""
        return block.epoch * self.steps_per_epoch + block.last

    def checkpoint_is_due(self, block: Block) -> bool:
        """Whether to save a checkpoint after a block: every `checkpoint_every` steps, 0 for after each epoch.

        The last step always has one, so that a publication that fails is repeated without training.
        """
        every = self.config.checkpoint_every or self.steps_per_epoch
        after = self.step_after(block)
        return after == self.steps or after // every > (after - block.last + block.first) // every

    def record_is_due(self, block: Block) -> bool:
        """Whether to report the training's figures after a block: every `log_every` steps and after each epoch."""
        every = self.config.log_every
        return block.last == self.steps_per_epoch or block.last // every > block.first // every

    def accuracy_is_due(self, block: Block) -> bool:
        """Whether to evaluate the test set after a block; never after the last epoch, which evaluation follows."""
        every, epoch = self.config.evaluate_every, block.epoch + 1
        return block.last == self.steps_per_epoch and every > 0 and epoch % every == 0 and epoch < self.config.epochs

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The order of examples in an epoch, int64 [count]. NumPy promises not to change RandomState's stream."""
        return np.random.RandomState([self.config.seed, epoch]).permutation(self.count)

    def batch_sizes(self, first: int, last: int) -> NDArray[np.float32]:
        """Examples in each global batch of an epoch's steps first to last - 1, without padding: float32."""
        starts = np.arange(first, last) * self.batch_size
        return (np.minimum(starts + self.batch_size, self.count) - starts).astype(np.float32)

    def learning_rates(self, block: Block) -> NDArray[np.float32]:
        """The learning rate of each step that a block has room for: float32 [block_steps].

        `cosine` falls from the learning rate to 0 over the run (Loshchilov and Hutter 2017, without restarts).
        """
        if self.config.schedule == "constant":
            return np.full(self.block_steps, self.config.learning_rate, np.float32)
        first = block.epoch * self.steps_per_epoch + block.first
        done = np.arange(first, first + self.block_steps) / self.steps
        return (self.config.learning_rate * 0.5 * (1 + np.cos(np.pi * done))).astype(np.float32)

    def indices(self, first_step: int = 0) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The rows of each block, int64 [block_steps, local_batch_size], and their weights, float32, 0 for padding."""
        order, order_epoch = np.empty(0, np.int64), -1
        for epoch, first, last in self.blocks(first_step):
            if epoch != order_epoch:
                order, order_epoch = self.order(epoch), epoch
            # Positions in the epoch: [steps, 1] starts of batches plus [local_batch_size] places in a batch.
            starts = np.arange(first, first + self.block_steps)[:, None] * self.batch_size
            places = self.rank * self.local_batch_size + np.arange(self.local_batch_size)
            positions = starts + places
            real = (places < self.batch_size) & (positions < self.count) & (starts < last * self.batch_size)
            yield order[np.where(real, positions, 0)], real.astype(np.float32)
