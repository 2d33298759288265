"""Time a sum of all workers' vectors on networks of several delays: in the job's two ways, and by gathering them.

The ways take turns in one run. Each worker runs in a network namespace of its own (Linux, root).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import PROJECT
from benchmarks.network import Network
from job.system import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

WAYS = ("doubling", "gather", "ring")
ROUNDS = 5  # of each way, of which the first is not counted
ROUND_S = 0.5  # about


@dataclass(frozen=True)
class Sum:
    """The time of a sum, in seconds: the median of the rounds."""

    workers: int
    delay_s: float
    way: str
    seconds: float


def measure(workers: int, size: int, delays_s: Sequence[float]) -> Iterator[Sum]:
    """Sum vectors of `size` float32 numbers in each way, on networks with these one-way delays in seconds."""
    with Network(workers) as network:
        hosts = [f"{network.address(rank)}:2222" for rank in range(workers)]
        processes = []
        try:
            for rank in range(workers):
                words = [*network.wrapper(rank), sys.executable, "-m", "benchmarks.sums", str(rank), str(size), *hosts]
                pipe, none = subprocess.PIPE, subprocess.DEVNULL
                environment = {**os.environ, process.PARENT: str(os.getpid())}
                processes.append(
                    subprocess.Popen(
                        words, stdin=pipe, stdout=pipe, stderr=none, text=True, cwd=PROJECT, env=environment
                    )
                )
            for delay_s in delays_s:
                network.shape(delay_s)
                seconds = round_of(processes, delay_s)
                for way in WAYS:
                    yield Sum(workers, delay_s, way, median(seconds[way]))
        finally:
            for each in processes:
                each.kill()
                each.communicate()


def round_of(processes: Sequence[subprocess.Popen[str]], delay_s: float) -> dict[str, list[float]]:
    """Let all workers measure on the network as it is; returns rank 0's times of each way."""
    for each in processes:
        if each.stdin:
            each.stdin.write(f"{delay_s}\n")
            each.stdin.flush()
    answers = [each.stdout.readline() for each in processes if each.stdout]
    if not all(answers):
        raise RuntimeError(f"{answers.count('')} of {len(answers)} workers ended")
    seconds: dict[str, list[float]] = json.loads(answers[0])
    return seconds


def worker(rank: int, size: int, hosts: Sequence[str]) -> None:
    """One worker: for each line on standard input, time the sums and print the times as a line of JSON."""
    import tensorflow as tf  # noqa: PLC0415 - the parent does not need it

    from job.cluster import Cluster  # noqa: PLC0415
    from job.training import collectives, strategy  # noqa: PLC0415

    workers = len(hosts)
    connected = strategy.join(Cluster("sums", "0", rank, tuple(hosts), tuple(hosts)), "cpu", 1, 600)

    def gather(vector: tf.Tensor) -> tf.Tensor:
        numbers = {"group_size": workers, "group_key": 1 << 30, "instance_key": 1 << 30, "ordering_token": []}
        return tf.reduce_sum(tf.raw_ops.CollectiveGatherV2(input=vector[None], **numbers), axis=0)

    ways: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
        "doubling": lambda vector: collectives.recursive_doubling(vector, rank, workers),
        "gather": gather,
        "ring": collectives.all_reduce,
    }

    def loop(way: Callable[[tf.Tensor], tf.Tensor]) -> Any:
        @tf.function(autograph=False)
        def sums(count: tf.Tensor) -> tf.Tensor:
            # Zeros stay zeros however often they are summed.
            start = (0, tf.zeros([size]))
            return tf.while_loop(
                lambda k, _: k < count,
                lambda k, vector: (k + 1, connected.run(way, args=(vector,))),
                start,
                parallel_iterations=2,  # as in a step
            )

        return sums

    loops = {name: loop(way) for name, way in ways.items()}
    for line in sys.stdin:
        delay_s = float(line)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        # All workers make as many sums: enough for the slowest way with this many messages.
        count = max(3, int(ROUND_S / (2 * workers * (delay_s + 0.0005))))
        for turn in range(ROUNDS):
            for name, sums in loops.items():
                start = time.perf_counter()
                sums(tf.constant(count))
                if turn:
                    seconds[name].append((time.perf_counter() - start) / count)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    process.end_with_parent()
    worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
