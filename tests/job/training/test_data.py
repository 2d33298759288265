"""Tests of which examples each worker takes, and of the stream that brings them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from job.dataset.rows import in_memory, load_dataset
from job.training import data
from job.training.data import Plan

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Steps = dict[int, list[int]]

# Examples, global batch, workers.
SPLITS = [
    (12, 4, 1),
    (12, 4, 2),
    (12, 4, 3),  # 4 in parts of 2: the last worker has nothing but padding
    (10, 3, 2),  # a batch that the workers do not divide, and a smaller last one
    (23, 7, 3),
    (23, 7, 5),
    (10, 3, 5),  # more workers than examples in a batch
    (7, 10, 1),  # a batch larger than the dataset
    (7, 10, 4),
    (1, 1, 4),
    (600, 64, 3),
]
# The first two epochs' orders of ten examples with seed 5.
ORDERS = [[5, 1, 7, 3, 4, 6, 8, 9, 2, 0], [0, 7, 9, 4, 1, 6, 8, 2, 5, 3]]
# log_every, sync_every: what ends a block.
BLOCKS = [(1, 1), (3, 1), (100, 1), (2, 3), (100, 2), (2, 100)]


def plan(count: int, batch: int, workers: int = 1, **changes: Any) -> Plan:
    """A plan of two epochs, of images of one byte where nothing else is asked for."""
    values: dict[str, Any] = {"row_bytes": 1, "rank": 0, "seed": 5, "epochs": 2, "log_every": 100, "sync_every": 1}
    values["checkpoint_every"] = 0
    return Plan(count=count, batch_size=batch, workers=workers, **values | changes)


def taken(chosen: Plan, first_step: int = 0) -> Steps:
    """The examples that one worker trains on at each step of the run, padding left out."""
    steps: Steps = {}
    blocks = zip(chosen.blocks(first_step), chosen.indices(first_step), strict=True)
    for (epoch, first, last), (indices, weights) in blocks:
        assert indices.shape == weights.shape == (chosen.block_steps, chosen.part)
        assert indices.dtype == np.int64
        assert weights.dtype == np.float32
        assert set(np.unique(weights)) <= {0, 1}
        assert not weights[last - first :].any()  # steps that the block only has room for
        for k in range(first, last):
            step = epoch * chosen.steps_per_epoch + k
            assert step not in steps
            steps[step] = indices[k - first][weights[k - first] == 1].tolist()
    return steps


def together(chosen: Plan, first_step: int = 0) -> Steps:
    """The examples that all workers train on at each step, one worker's after the other's."""
    ranks = [taken(dataclasses.replace(chosen, rank=rank), first_step) for rank in range(chosen.workers)]
    assert all(steps.keys() == ranks[0].keys() for steps in ranks)
    return {step: [index for steps in ranks for index in steps[step]] for step in ranks[0]}


def batches(count: int, batch: int, epochs: int) -> Steps:
    """The global batches as the module's first lines define them."""
    orders = [np.random.RandomState([5, epoch]).permutation(count) for epoch in range(epochs)]
    parts = [order[start : start + batch].tolist() for order in orders for start in range(0, count, batch)]
    return dict(enumerate(parts))


@pytest.mark.parametrize(("log_every", "sync_every"), BLOCKS)
@pytest.mark.parametrize(("count", "batch", "workers"), SPLITS)
def test_global_batches_are_the_same_for_every_number_of_workers(
    count: int, batch: int, workers: int, log_every: int, sync_every: int
) -> None:
    """The workers' parts of step k together are global batch k: none lost, none doubled, whatever ends the blocks."""
    chosen = plan(count, batch, workers, log_every=log_every, sync_every=sync_every)
    assert together(chosen) == batches(count, batch, 2)


@pytest.mark.parametrize(
    ("every", "sync_every", "steps"),
    [
        (0, 1, [8, 16]),
        (3, 1, [3, 6, 9, 12, 15]),
        (8, 1, [8, 16]),
        (7, 5, [8, 16]),  # averages are at 5, 8, 13 and 16
        (100, 1, []),
    ],
)
def test_blocks_end_where_a_checkpoint_is_due(every: int, sync_every: int, steps: list[int]) -> None:
    """At each multiple of --checkpoint-every, at each epoch's end without, but never between two averages."""
    chosen = plan(23, 3, 2, checkpoint_every=every, sync_every=sync_every, log_every=5)
    moves = [(epoch * 8 + first, epoch * 8 + last) for epoch, first, last in chosen.blocks()]
    assert [step for before, step in moves if chosen.checkpoint_is_due(before, step)] == steps
    assert together(chosen) == batches(23, 3, 2)


@pytest.mark.parametrize(("count", "batch", "workers"), SPLITS)
def test_every_example_is_trained_on_once_an_epoch(count: int, batch: int, workers: int) -> None:
    """Each epoch's steps hold each example exactly once, in another order than the epoch before."""
    chosen = plan(count, batch, workers)
    steps = together(chosen)
    half = chosen.steps_per_epoch
    orders = [[index for k in range(half) for index in steps[epoch * half + k]] for epoch in range(2)]
    for order in orders:
        assert sorted(order) == list(range(count))
    assert count < 7 or orders[0] != orders[1]


@pytest.mark.parametrize(("count", "batch", "workers"), SPLITS)
def test_true_sizes_of_global_batches_add_up_to_the_dataset(count: int, batch: int, workers: int) -> None:
    """batch_sizes(), the divisors of the sums, are what the workers take together."""
    chosen = plan(count, batch, workers)
    expected = [len(indices) for indices in together(chosen).values()]
    np.testing.assert_array_equal(chosen.batch_sizes(0, chosen.steps_per_epoch), expected[: chosen.steps_per_epoch])
    assert sum(expected) == 2 * count


@pytest.mark.parametrize(("log_every", "sync_every"), BLOCKS)
def test_run_taken_up_in_mid_epoch_goes_on_as_it_would_have(log_every: int, sync_every: int) -> None:
    """From every step on, the steps that are left take the same examples and blocks end at the same steps."""
    chosen = plan(23, 3, 2, log_every=log_every, sync_every=sync_every)
    whole, ends = together(chosen), [(epoch, last) for epoch, _, last in chosen.blocks()]
    for first_step in range(chosen.steps + 1):
        assert together(chosen, first_step) == {step: whole[step] for step in whole if step >= first_step}
        left = [(epoch, last) for epoch, _, last in chosen.blocks(first_step)]
        assert left == ends[len(ends) - len(left) :]


def test_order_is_frozen() -> None:
    """The order of an epoch, written down: another one would break resuming and reproducing older runs."""
    assert [plan(10, 3).order(epoch).tolist() for epoch in (0, 1)] == ORDERS
    assert plan(10, 3, seed=6).order(0).tolist() != ORDERS[0]


@pytest.mark.parametrize(
    ("workers", "log_every", "sync_every", "ends"),
    [
        (1, 4, 1, [4, 8, 10]),
        (1, 100, 1, [10]),
        (1, 4, 3, [4, 8, 10]),  # one worker has nobody to average with
        (2, 4, 3, [3, 6, 9, 10]),  # averaging is where records are written at the earliest
        (2, 4, 100, [10]),  # workers are averaged at an epoch's end
    ],
)
def test_blocks_end_where_something_is_to_be_done(
    workers: int, log_every: int, sync_every: int, ends: list[int]
) -> None:
    """At records, at averaging steps where there are any, and at an epoch's end."""
    chosen = plan(30, 3, workers, log_every=log_every, sync_every=sync_every, epochs=1)
    assert [last for _, _, last in chosen.blocks()] == ends


@pytest.mark.parametrize(
    ("workers", "log_every", "sync_every", "steps"),
    [
        (1, 100, 1, 5),
        (1, 100, 100, 5),  # one worker has nobody to average with
        (2, 100, 1, 10),
        (1, 4, 1, 4),
        (2, 100, 50, 50),  # what averaging asks for is not split
        (64, 1000, 1, 250),  # an epoch's 500 in equal blocks, though there is room for 320
    ],
)
def test_blocks_are_bounded_in_memory(
    workers: int, log_every: int, sync_every: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block has room for as many steps as fit, unless averaging asks for more."""
    monkeypatch.setattr(data, "BLOCK_BYTES", 5 * 64 * 100 + 99)
    chosen = plan(64 * 500, 64, workers, row_bytes=100, log_every=log_every, sync_every=sync_every)
    assert chosen.block_steps == steps


def test_image_larger_than_a_block_is_still_a_step() -> None:
    """A block has at least one step, however large that is."""
    assert plan(30, 3, row_bytes=data.BLOCK_BYTES).block_steps == 1


@pytest.mark.parametrize("first_step", [0, 13])
def test_both_sources_stream_the_same_blocks(prepared: Path, first_step: int) -> None:
    """Rows in memory and rows on disk give the same blocks, and they are the rows that the plan names."""
    memory, disk = load_dataset(prepared, "mnist").train, load_dataset(prepared, "mnist", memory_limit=0).train
    assert memory.images is not None
    assert disk.images is None
    chosen = plan(600, 64, 3, rank=1, row_bytes=784, log_every=4)
    seen = 0
    streams = (data.training_blocks(rows, chosen, first_step).as_numpy_iterator() for rows in (memory, disk))
    for one, other, (indices, weights) in zip(*streams, chosen.indices(first_step), strict=True):
        for found in (one, other):
            images, labels = memory.take(indices.reshape(-1))
            shape = (chosen.block_steps, chosen.part)
            assert [array.dtype for array in found] == [np.uint8, np.int32, np.float32]
            np.testing.assert_array_equal(found[0], images.reshape(*shape, 28, 28))
            np.testing.assert_array_equal(found[1], labels.reshape(shape))
            np.testing.assert_array_equal(found[2], weights)
        seen += 1
    assert seen == len(list(chosen.blocks(first_step)))


@pytest.mark.parametrize(("count", "workers"), [(200, 1), (200, 2), (200, 3), (7, 3), (2, 5), (1, 1), (9, 4)])
def test_evaluation_counts_every_example_once(count: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers' batches hold each row once, in order, with its own image and label, and are bounded in size."""
    monkeypatch.setattr(data, "BLOCK_BYTES", 6 * 4)  # six images of four bytes
    images = np.arange(count * 4, dtype=np.int64).astype(np.uint8).reshape(count, 2, 2)
    rows = in_memory(images, np.arange(count, dtype=np.int32)[::-1].copy())
    numbers: list[int] = []
    for rank in range(workers):
        for chosen, pictures, labels in data.evaluation_batches(rows, workers, rank).as_numpy_iterator():
            assert 0 < len(chosen) <= 6
            np.testing.assert_array_equal(pictures, images[chosen])
            np.testing.assert_array_equal(labels, count - 1 - chosen)
            numbers += chosen.tolist()
    assert numbers == list(range(count))


def test_evaluation_from_disk_gives_the_rows_in_memory(prepared: Path) -> None:
    """Both sources give the same test examples."""

    def whole(limit: int) -> list[NDArray[Any]]:
        rows = load_dataset(prepared, "mnist", memory_limit=limit).test
        parts = [batch for rank in range(3) for batch in data.evaluation_batches(rows, 3, rank).as_numpy_iterator()]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    for one, other in zip(whole(1 << 30), whole(0), strict=True):
        np.testing.assert_array_equal(one, other)
