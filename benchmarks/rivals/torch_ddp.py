"""PyTorch DistributedDataParallel over gloo: the PyTorch loop in two processes on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from benchmarks.rivals import common, torch_loop

if TYPE_CHECKING:
    from argparse import Namespace

RANKS = 2


def worker(rank: int, args: Namespace, meeting: str) -> None:
    """Run one rank. The ranks find each other through the file `meeting`."""
    common.pin(rank, RANKS)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    torch_loop.train(args, rank, RANKS, DistributedDataParallel)
    distributed.destroy_process_group()


def main() -> None:
    """Train; rank 0 prints the result."""
    args = common.arguments(__doc__, cnn=0)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(worker, args=(args, str(Path(folder) / "meeting")), nprocs=RANKS)


if __name__ == "__main__":
    main()
