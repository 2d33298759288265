"""Tests of which examples each worker trains on at each step, and where blocks end."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from job.config import Config
from job.training import plan as plans
from job.training.plan import Block, Plan

if TYPE_CHECKING:
    Steps = dict[int, list[int]]

# Examples, global batch, workers.
SPLITS = [
    (12, 4, 1),
    (12, 4, 2),
    (12, 4, 3),  # the last worker has padding only
    (10, 3, 2),  # the workers do not divide the batch, and the last batch is smaller
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


def plan(count: int, batch: int, workers: int = 1, *, rank: int = 0, row_bytes: int = 1, **settings: Any) -> Plan:
    """A plan of two epochs, by default with images of one byte and records far apart."""
    defaults: dict[str, Any] = {"seed": 5, "epochs": 2, "log_every": 100}
    return Plan(Config(batch_size=batch, **defaults | settings), count, row_bytes, workers, rank)


def examples_of(chosen: Plan, first_step: int = 0) -> Steps:
    """The examples that one worker trains on at each step of the run, without padding."""
    steps: Steps = {}
    blocks = zip(chosen.blocks(first_step), chosen.indices(first_step), strict=True)
    for (epoch, first, last), (indices, weights) in blocks:
        assert indices.shape == weights.shape == (chosen.block_steps, chosen.local_batch_size)
        assert indices.dtype == np.int64
        assert weights.dtype == np.float32
        assert set(np.unique(weights)) <= {0, 1}
        assert not weights[last - first :].any()  # the block has room for more steps
        for k in range(first, last):
            step = epoch * chosen.steps_per_epoch + k
            assert step not in steps
            steps[step] = indices[k - first][weights[k - first] == 1].tolist()
    return steps


def together(chosen: Plan, first_step: int = 0) -> Steps:
    """The examples that all workers train on at each step, in the order of ranks."""
    ranks = [examples_of(dataclasses.replace(chosen, rank=rank), first_step) for rank in range(chosen.workers)]
    assert all(steps.keys() == ranks[0].keys() for steps in ranks)
    return {step: [index for steps in ranks for index in steps[step]] for step in ranks[0]}


def batches(count: int, batch: int, epochs: int) -> Steps:
    """The global batches as the docstring of plan.py defines them."""
    orders = [np.random.RandomState([5, epoch]).permutation(count) for epoch in range(epochs)]
    parts = [order[start : start + batch].tolist() for order in orders for start in range(0, count, batch)]
    return dict(enumerate(parts))


@pytest.mark.parametrize(("log_every", "sync_every"), BLOCKS)
@pytest.mark.parametrize(("count", "batch", "workers"), SPLITS)
def test_global_batches_are_the_same_for_every_number_of_workers(
    count: int, batch: int, workers: int, log_every: int, sync_every: int
) -> None:
    """The workers' parts of step k together are global batch k, wherever blocks end."""
    chosen = plan(count, batch, workers, log_every=log_every, sync_every=sync_every)
    assert together(chosen) == batches(count, batch, 2)


@pytest.mark.parametrize(
    ("every", "sync_every", "steps"),
    [
        (0, 1, [8, 16]),
        (3, 1, [3, 6, 9, 12, 15, 16]),
        (8, 1, [8, 16]),
        (7, 5, [8, 16]),  # averages are at 5, 8, 13 and 16
        (100, 1, [16]),
    ],
)
def test_blocks_end_when_a_checkpoint_is_due(every: int, sync_every: int, steps: list[int]) -> None:
    """Every --checkpoint-every steps, by default after each epoch, and after the last, but never between averages."""
    chosen = plan(23, 3, 2, checkpoint_every=every, sync_every=sync_every, log_every=5)
    assert [chosen.step_after(block) for block in chosen.blocks() if chosen.checkpoint_is_due(block)] == steps
    assert together(chosen) == batches(23, 3, 2)


@pytest.mark.parametrize(("count", "batch", "workers"), SPLITS)
def test_every_example_is_trained_on_once_an_epoch(count: int, batch: int, workers: int) -> None:
    """The order changes from epoch to epoch."""
    chosen = plan(count, batch, workers)
    steps = together(chosen)
    half = chosen.steps_per_epoch
    orders = [[index for k in range(half) for index in steps[epoch * half + k]] for epoch in range(2)]
    for order in orders:
        assert sorted(order) == list(range(count))
    assert count < 7 or orders[0] != orders[1]


@pytest.mark.parametrize(("count", "batch", "workers"), SPLITS)
def test_batch_sizes_add_up_to_the_dataset(count: int, batch: int, workers: int) -> None:
    """batch_sizes() counts the examples of all workers at each step."""
    chosen = plan(count, batch, workers)
    expected = [len(indices) for indices in together(chosen).values()]
    np.testing.assert_array_equal(chosen.batch_sizes(0, chosen.steps_per_epoch), expected[: chosen.steps_per_epoch])
    assert sum(expected) == 2 * count


@pytest.mark.parametrize("checkpoint_every", [0, 3])
@pytest.mark.parametrize("room", [2, 100])
@pytest.mark.parametrize(("log_every", "sync_every"), BLOCKS)
def test_a_run_resumed_at_any_step_makes_the_same_steps(
    log_every: int, sync_every: int, room: int, checkpoint_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From every step on, the remaining steps have the same examples, and blocks end at the same steps."""
    chosen = plan(23, 3, 2, log_every=log_every, sync_every=sync_every, checkpoint_every=checkpoint_every)
    monkeypatch.setattr(plans, "BLOCK_BYTES", room * chosen.local_batch_size)
    whole, ends = together(chosen), [(epoch, last) for epoch, _, last in chosen.blocks()]
    for first_step in range(chosen.steps + 1):
        assert together(chosen, first_step) == {step: whole[step] for step in whole if step >= first_step}
        ends_left = [(epoch, last) for epoch, _, last in chosen.blocks(first_step)]
        assert ends_left == ends[len(ends) - len(ends_left) :]


def test_order_is_frozen() -> None:
    """A different order would make older runs impossible to resume or to reproduce."""
    assert [plan(10, 3).order(epoch).tolist() for epoch in (0, 1)] == ORDERS
    assert plan(10, 3, seed=6).order(0).tolist() != ORDERS[0]


@pytest.mark.parametrize(
    ("workers", "log_every", "sync_every", "ends"),
    [
        (1, 4, 1, [4, 8, 10]),
        (1, 100, 1, [10]),
        (1, 4, 3, [4, 8, 10]),  # a single worker has no peer to average with
        (2, 4, 3, [3, 6, 9, 10]),  # only averages end blocks
        (2, 4, 100, [10]),  # the end of an epoch averages too
    ],
)
def test_blocks_end_at_records_averages_and_epochs(
    workers: int, log_every: int, sync_every: int, ends: list[int]
) -> None:
    """With local SGD, averages end blocks instead of records."""
    chosen = plan(30, 3, workers, log_every=log_every, sync_every=sync_every, epochs=1)
    assert [last for _, _, last in chosen.blocks()] == ends


@pytest.mark.parametrize(
    ("workers", "log_every", "sync_every", "steps"),
    [
        (1, 100, 1, 5),
        (1, 100, 100, 5),  # a single worker has no peer to average with
        (2, 100, 1, 10),
        (1, 4, 1, 4),
        (2, 100, 50, 50),  # an average never splits a block
        (64, 1000, 1, 250),  # the 500 steps of an epoch in equal blocks, with room for 320
    ],
)
def test_blocks_are_bounded_in_memory(
    workers: int, log_every: int, sync_every: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block has room for the steps that fit into BLOCK_BYTES, except with local SGD."""
    monkeypatch.setattr(plans, "BLOCK_BYTES", 5 * 64 * 100 + 99)
    chosen = plan(64 * 500, 64, workers, row_bytes=100, log_every=log_every, sync_every=sync_every)
    assert chosen.block_steps == steps


def test_a_block_has_at_least_one_step() -> None:
    """Even if its images need more than BLOCK_BYTES."""
    assert plan(30, 3, row_bytes=plans.BLOCK_BYTES).block_steps == 1


@pytest.mark.parametrize(("log_every", "ends"), [(4, [4, 8, 10]), (5, [5, 10]), (100, [10])])
def test_records_are_due_every_log_every_steps_and_after_each_epoch(log_every: int, ends: list[int]) -> None:
    """Blocks that memory or averaging makes shorter do not add records."""
    for shorter in ({}, {"sync_every": 3, "workers": 2}, {"row_bytes": plans.BLOCK_BYTES}):
        chosen = plan(30, 3, log_every=log_every, **shorter)
        due = [block for block in chosen.blocks() if chosen.record_is_due(block)]
        assert len(due) == 2 * len(ends)
        assert all(block.first < end <= block.last for block, end in zip(due, 2 * ends, strict=True))
        assert {block.epoch for block in due if block.last == 10} == {0, 1}


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (1, [1, 2, 3]), (2, [2]), (3, [3]), (4, [])])
def test_accuracy_is_due_every_evaluate_every_epochs_except_the_last(every: int, epochs: list[int]) -> None:
    """The last epoch is followed by the run's own evaluation."""
    chosen = plan(30, 3, epochs=4, log_every=4, evaluate_every=every)
    assert [block.epoch + 1 for block in chosen.blocks() if chosen.accuracy_is_due(block)] == epochs


def test_learning_rate_follows_its_schedule() -> None:
    """Constant, or half a cosine from the learning rate at the first step of the run to 0 after its last."""
    cosine = [1 + np.cos(np.pi * step / 8) for step in range(8)]
    for schedule, expected in (("constant", np.full(8, 2.0)), ("cosine", np.array(cosine))):
        chosen = plan(40, 10, schedule=schedule, learning_rate=2.0, log_every=4)
        rates = np.concatenate([chosen.learning_rates(Block(epoch, 0, 4)) for epoch in (0, 1)])
        assert rates.dtype == np.float32
        np.testing.assert_allclose(rates, expected, rtol=1e-6)
