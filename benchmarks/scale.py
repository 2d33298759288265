"""Measure how a step and the rendezvous depend on the number of workers, and predict a step of 1,000 workers.

Workers on one machine share its cores, so the time of their steps says little about many machines. There are four
measurements: the same run with 1, 2, 4 and 8 workers; steps on networks of several delays and bandwidths, whose
differences do not depend on the cores (Linux, root); the ways to sum vectors, side by side on such networks; and 1,000
simulated supervisors that join a real one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks import joining, machine, results, sums
from benchmarks.alphabeta import Costs, Fit, Sample, doubling_s, fit
from benchmarks.network import Network
from benchmarks.recovery import ENDLESS, steps_within, team_of
from benchmarks.tables import markdown
from job.training.collectives import doubling_messages

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence


COUNTS = (1, 2, 4, 8)
VECTOR = 7853  # float32: the parameters, the loss and the workers' news
SUMMED_BY = (2, 4, 8, 16)  # workers
SUM_DELAYS_S = (0.0, 0.001, 0.003)
# The time of recursive doubling as a part of the gather's, by number of workers, with a delay of 1 ms.
SUM_BARS = {8: 0.55, 16: 0.4}
TOLERANCE = 1e-4  # of a parameter; the largest ones are about 1
# One-way delay in seconds, bytes a second. The first and the last one neither delay nor limit.
NETWORKS = ((0.0, 1e12), (0.001, 1e12), (0.003, 1e12), (0.0, 12.5e6), (0.0, 1e12))
SETTLE_S = 0.5
LOG_EVERY = 10  # steps; the median over such parts is not affected by other work on the machine
LAN_DELAYS_S, LAN_BYTES_PER_S = (50e-6, 100e-6), 1.25e9
PREDICTED = (2, 8, 64, 1000)
STEP_BARS_S: dict[tuple[float, float], float] = {(64, 50e-6): 5e-3, (1000, 50e-6): 9e-3}  # by workers and one-way delay


@dataclass(frozen=True)
class Whole:
    """An epoch on this machine, in seconds and microseconds.

    difference is the largest difference of a parameter from the run of one worker.
    """

    workers: int
    joined_s: float
    first_step_s: float
    us_per_step: float
    difference: float


def main() -> int:
    """Measure everything, print the tables, write the JSON. Exit status 1 if a bar is not met."""
    args = parse()
    data, document = args.data, machine.context()
    wholes = list(whole_runs(data, args.counts))
    print(wholes_table(wholes), flush=True)
    document["whole"] = [asdict(each) for each in wholes]
    if os.geteuid() == 0 and max(args.counts) > 1:
        samples, traffic = on_networks(data, [count for count in args.counts if count > 1], args.seconds)
        fits = [fit([one for one in samples if one.workers == count]) for count in sorted({s.workers for s in samples})]
        costs = costs_of(wholes, fits)
        print(fits_table(fits, traffic), predictions_table(costs), sep="\n", flush=True)
        document |= {"samples": [asdict(one) for one in samples], "traffic": traffic}
        document |= {"fits": [asdict(one) for one in fits], "costs": asdict(costs), "predicted": predicted(costs)}
        summed = [one for count in args.summed_by for one in sums.measure(count, VECTOR, SUM_DELAYS_S)]
        document["sums"] = [asdict(one) for one in summed]
        print(sums_table(summed), flush=True)
        met = all(ratio <= SUM_BARS[workers] for workers, ratio in ratios(summed).items() if workers in SUM_BARS)
        met &= all(one["step_s"] <= STEP_BARS_S.get((one["workers"], one["delay_s"]), inf) for one in predicted(costs))
    else:
        met = True
        print("without other networks, which need root and more than one worker")
    crowds = [joining.join(data, workers) for workers in args.supervisors]
    print(crowds_table(crowds))
    document["joining"] = [asdict(each) for each in crowds]
    print(f"\n{results.keep(document, args.json, 'scale-')}")
    same = all(each.difference <= TOLERANCE for each in wholes)
    return int(not same or not met or any(each.failures or each.peak_mb > joining.MOST_MB for each in crowds))


def parse() -> Namespace:
    """The command line."""
    flags = results.parser("benchmarks.scale", __doc__)
    add = flags.add_argument
    add("--counts", type=int, nargs="+", default=COUNTS, help="numbers of workers, 1 first (default: 1 2 4 8)")
    add("--summed-by", type=int, nargs="*", default=SUMMED_BY, help="workers that sum vectors (default: 2 4 8 16)")
    add("--supervisors", type=int, nargs="+", default=(100, 1000), help="how many join (default: 100 1000)")
    add("--seconds", type=float, default=4.0, help="of training on each network (default: 4)")
    args = results.parse(flags)
    if args.counts[0] != 1 or min(args.counts) < 1:
        flags.error("--counts must start with 1, because the other runs are compared with one worker's parameters")
    return args


# The same run with more and more workers


def whole_runs(data: Path, counts: Sequence[int]) -> Iterator[Whole]:
    """Train one epoch with each number of workers."""
    first: dict[str, Any] = {}
    for count in counts:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            team_of(data, Path(folder), count, "--epochs=1") as team,
        ):
            start = time.time()
            team.start()
            if any(team.exit_codes()):
                raise RuntimeError(f"{count} workers failed: {[w.errors[-5:] for w in team.workers.values()]}")
            parameters = load_file(newest(team.checkpoints))
            report = json.loads((team.model / "report.json").read_bytes())
            records = team[0].records
        first = first or parameters
        yield Whole(
            workers=count,
            joined_s=next(one.time for one in records if one.phase == "joining") - start if count > 1 else 0.0,
            first_step_s=next(one.time for one in records if one.phase == "training") - start,
            us_per_step=report["timing"]["us_per_step"],
            difference=max(float(np.abs(parameters[name] - first[name]).max()) for name in first),
        )


def newest(folder: Path) -> Path:
    """The newest checkpoint."""
    return max(folder.glob("*.safetensors"), key=lambda path: int(path.stem))


# Steps on other networks


def on_networks(data: Path, counts: Sequence[int], seconds: float) -> tuple[list[Sample], dict[int, dict[str, float]]]:
    """Time steps of each number of workers on each network, and count what one worker sends in a step."""
    samples: list[Sample] = []
    traffic: dict[int, dict[str, float]] = {}
    for count in counts:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            Network(count) as network,
            team_of(data, Path(folder), count, ENDLESS) as team,
        ):
            team.arguments.append(f"--log-every={LOG_EVERY}")
            team.peers = [[f"{network.address(rank)}:{port}" for port in (2222, 9100)] for rank in range(count)]
            for rank in range(count):
                team.wrapper = network.wrapper(rank)
                team.start(rank)
            team[0].wait_for_phase("training")
            for delay_s, bytes_per_s in NETWORKS:
                network.shape(delay_s, bytes_per_s)
                time.sleep(SETTLE_S)
                before = network.sent(0)
                steps = steps_within(team[0], seconds)
                parts = [(now.time - then.time) / LOG_EVERY for then, now in pairwise(steps)]
                packets, octets = (now - then for now, then in zip(network.sent(0), before, strict=True))
                count_made = (steps[-1].step or 0) - (steps[0].step or 0)
                step_s = median(parts)
                samples.append(Sample(count, delay_s, bytes_per_s, step_s))
                traffic[count] = {"packets": packets / count_made, "bytes": octets / count_made}
                print(f"{count} workers, {delay_s * 1e3:g} ms, {bytes_per_s:g} B/s: {step_s * 1e3:.2f} ms", flush=True)
    return samples, traffic


# Predictions for more workers


def costs_of(wholes: Sequence[Whole], fits: Sequence[Fit]) -> Costs:
    """The parts of a step. Two workers, with a core each, give the cost of the software."""
    alone, two = (next(each for each in wholes if each.workers == count) for count in (1, 2))
    compute_s = alone.us_per_step / 1e6
    rows = np.ones((64, VECTOR), np.float32)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        rows.sum(axis=0)
        times.append(time.perf_counter() - start)
    return Costs(
        compute_s=compute_s,
        hop_s=two.us_per_step / 1e6 - compute_s,
        trips=median(each.trips / doubling_messages(each.workers) for each in fits),
        vector_bytes=4.0 * VECTOR,
        sum_s=median(times) / len(rows),
    )


def predicted(costs: Costs) -> list[dict[str, float]]:
    """Seconds of a step on separate machines, by workers and delay."""
    return [
        {
            "workers": workers,
            "delay_s": delay_s,
            "step_s": costs.compute_s + doubling_s(costs, workers, delay_s, LAN_BYTES_PER_S),
            "sync_every_100_s": costs.compute_s + doubling_s(costs, workers, delay_s, LAN_BYTES_PER_S) / 100,
        }
        for workers in PREDICTED
        for delay_s in LAN_DELAYS_S
    ]


# Tables, in Markdown


def wholes_table(wholes: Sequence[Whole]) -> str:
    """The same run with different numbers of workers."""
    rows = [
        [
            f"{each.workers}",
            f"{each.joined_s:.1f} s",
            f"{each.first_step_s:.1f} s",
            f"{each.us_per_step / 1e3:.2f} ms",
            f"{each.difference:.1e}",
        ]
        for each in wholes
    ]
    return markdown(["workers", "all joined", "first step", "a step", "largest difference of a parameter"], rows)


def fits_table(fits: Sequence[Fit], traffic: dict[int, dict[str, float]]) -> str:
    """What a step waits for, and what a worker sends in it, by number of workers."""
    rows = [
        [
            f"{each.workers}",
            f"{each.own_s * 1e3:.2f} ms",
            f"{each.trips:.1f}",
            f"{each.sent_bytes / 1e3:.0f} kB",
            f"{traffic[each.workers]['packets']:.0f}",
            f"{traffic[each.workers]['bytes'] / 1e3:.0f} kB",
        ]
        for each in fits
    ]
    headings = ["workers", "without delay", "delays in a row", "bytes in a row", "packets sent", "bytes sent"]
    return markdown(headings, rows)


def predictions_table(costs: Costs) -> str:
    """The predictions for separate machines."""
    rows = [
        [f"{one['workers']:,}", f"{one['delay_s'] * 1e6:.0f} µs"]
        + [f"{one[name] * 1e3:,.2f} ms" for name in ("step_s", "sync_every_100_s")]
        for one in predicted(costs)
    ]
    return markdown(["workers", "delay", "a step", "--sync-every 100"], rows)


def ratios(summed: Sequence[sums.Sum]) -> dict[int, float]:
    """The time of recursive doubling as a part of the gather's, by number of workers, with a delay of 1 ms."""
    seconds = {(one.workers, one.way): one.seconds for one in summed if one.delay_s == 0.001}
    return {
        workers: seconds[workers, "doubling"] / seconds[workers, "gather"] for workers, way in seconds if way == "ring"
    }


def sums_table(summed: Sequence[sums.Sum]) -> str:
    """The time of a sum in each way."""
    seconds = {(one.workers, one.delay_s, one.way): one.seconds for one in summed}
    rows = [
        [f"{workers}", f"{delay_s * 1e3:g} ms"]
        + [f"{seconds[workers, delay_s, way] * 1e3:.2f} ms" for way in sums.WAYS]
        + [f"{seconds[workers, delay_s, 'doubling'] / seconds[workers, delay_s, 'gather']:.2f}"]
        for workers, delay_s, way in seconds
        if way == "ring"
    ]
    return markdown(["workers", "delay", "recursive doubling", "gather", "ring", "doubling / gather"], rows)


def crowds_table(crowds: Sequence[joining.Joined]) -> str:
    """The cost of the rendezvous for rank 0's supervisor."""
    rows = [
        [
            f"{each.workers:,}",
            f"{each.all_s:.1f} s",
            f"{each.answer_bytes / 1e3:.1f} kB",
            f"{each.waiting_cpu:.2f}",
            f"{each.training_cpu:.2f}",
            f"{each.slowest_s * 1e3:.0f} ms",
            f"{each.peak_mb:.0f} MB",
            f"{each.failures} of {each.requests:,}",
        ]
        for each in crowds
    ]
    headings = ["supervisors", "all have the reply", "its size", "cores, waiting", "cores, training"]
    return markdown([*headings, "slowest reply", "peak memory", "failed"], rows)


if __name__ == "__main__":
    sys.exit(main())
