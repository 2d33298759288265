"""The PyTorch loop: a linear layer or a small network, cross-entropy and SGD over tensors in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from benchmarks.rivals import common

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable


def train(args: Namespace, rank: int = 0, ranks: int = 1, wrap: Callable[[nn.Module], nn.Module] = lambda m: m) -> None:
    """Train on this rank's part of every global batch; rank 0 prints the result.

    Args:
        args: the flags of common.arguments().
        rank: this process, from 0.
        ranks: number of processes that train together.
        wrap: is applied to the model.
    """
    torch.set_num_threads(args.threads)
    rows, test = common.load(args.data)
    images, labels = torch.from_numpy(rows.images), torch.from_numpy(rows.labels).long()
    size, count = args.batch_size, len(labels)
    steps, part = count // size, size // ranks
    module = network() if args.cnn else linear()
    model = wrap(module)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate)
    generator = torch.Generator().manual_seed(0)  # the same order on every rank

    def run_epoch() -> None:
        order = torch.randperm(count, generator=generator)
        for start in range(rank * part, steps * size, size):
            batch = order[start : start + part]
            logits = model(images[batch].float().div_(255))
            loss = functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    us_per_step = common.time_epochs(args.epochs, steps, run_epoch)
    if rank == 0:
        with torch.no_grad():
            logits = module(torch.from_numpy(test.images).float().div_(255)).numpy()
        common.finish(us_per_step, size, common.correct(logits, test))


def linear() -> nn.Module:
    """Softmax regression, from zeros."""
    layer = nn.Linear(common.PIXELS, common.CLASSES)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def network() -> nn.Module:
    """The network of examples/keras_cnn."""
    torch.manual_seed(0)  # the same start on every rank
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(800, 64),
        nn.ReLU(),
        nn.Linear(64, common.CLASSES),
    )


if __name__ == "__main__":
    train(common.arguments(__doc__, cnn=0))
