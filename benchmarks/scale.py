"""`python -m benchmarks.scale`: what a step and joining cost as the workers become more, and what that says of 1,000.

Workers of one machine share its cores, so their steps alone say little of many machines. Three measurements say more:
the same run with 1, 2, 4 and 8 workers; steps on networks of several delays and bandwidths, whose differences no core
has a part in (Linux, root); and a thousand simulated supervisors that join a real one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks import joining, machine, results
from benchmarks.alphabeta import Costs, Fit, Sample, all_reduce_s, fit, gather_s
from benchmarks.network import Network
from benchmarks.recovery import ENDLESS, team_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from job.telemetry import Record
    from tests.faults.team import Team

COUNTS = (1, 2, 4, 8)
VECTOR = 7852  # float32: the parameters, the loss and the flag
TOLERANCE = 1e-4  # in a parameter, of which the largest are about 1
# One-way delay in seconds, bytes a second; the first is the network as it is.
NETWORKS = ((0.0, 1e12), (0.001, 1e12), (0.003, 1e12), (0.0, 12.5e6), (0.0, 1e12))
SETTLE_S = 0.5
LOG_EVERY = 10  # steps: medians of so many tell little of what else the machine does
LAN_DELAYS_S, LAN_BYTES_PER_S = (50e-6, 100e-6), 1.25e9
PREDICTED = (2, 8, 64, 1000)


@dataclass(frozen=True)
class Whole:
    """A whole epoch of so many workers on this machine, in seconds and microseconds.

    difference is the largest of any parameter from one worker's.
    """

    workers: int
    joined_s: float
    first_step_s: float
    us_per_step: float
    difference: float


def main() -> int:
    """Measure everything, print the tables, write the JSON. Exit status 1 when a bar is not met."""
    args = parse()
    document: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine.describe(None),
    }
    data = args.data.resolve()
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
    else:
        print("no steps on other networks: that needs root, and more than one worker")
    crowds = [joining.join(data, workers) for workers in args.supervisors]
    print(crowds_table(crowds))
    document["joining"] = [asdict(each) for each in crowds]
    print(f"\n{results.keep(document, args.json, 'scale-')}")
    same = all(each.difference <= TOLERANCE for each in wholes)
    return int(not same or any(each.failures or each.peak_mb > joining.MOST_MB for each in crowds))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("data"), help="folder of prepared datasets (default: data)")
    add("--counts", type=int, nargs="+", default=COUNTS, help="numbers of workers, 1 first (default: 1 2 4 8)")
    add("--supervisors", type=int, nargs="+", default=(100, 1000), help="that join (default: 100 1000)")
    add("--seconds", type=float, default=4.0, help="of steps on each network (default: 4)")
    add("--json", type=Path, metavar="PATH", help="where the results go (default: output/benchmarks)")
    args = parser.parse_args()
    if args.counts[0] != 1 or min(args.counts) < 1:
        parser.error("--counts must begin with 1, by whose parameters the others are judged")
    if not (args.data / "mnist").is_dir():
        parser.error(f"no MNIST in {args.data}: run `python -m job data --data {args.data}`")
    return args


# The same run with more and more workers


def whole_runs(data: Path, counts: Sequence[int]) -> Iterator[Whole]:
    """An epoch with each number of workers."""
    first: dict[str, Any] = {}
    for count in counts:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            team_of(data, Path(folder), count, "--epochs=1") as team,
        ):
            began = time.time()
            team.start()
            if any(team.codes()):
                raise RuntimeError(f"{count} workers failed: {[w.errors[-5:] for w in team.workers.values()]}")
            parameters = load_file(newest(team.checkpoints))
            report = json.loads((team.model / "report.json").read_bytes())
            records = team[0].records
        first = first or parameters
        yield Whole(
            workers=count,
            joined_s=next(one.time for one in records if one.phase == "joining") - began if count > 1 else 0.0,
            first_step_s=next(one.time for one in records if one.phase == "training") - began,
            us_per_step=report["timing"]["us_per_step"],
            difference=max(float(np.abs(parameters[name] - first[name]).max()) for name in first),
        )


def newest(folder: Path) -> Path:
    """The newest checkpoint."""
    return max(folder.glob("*.safetensors"), key=lambda path: int(path.stem))


# Steps on other networks


def on_networks(data: Path, counts: Sequence[int], seconds: float) -> tuple[list[Sample], dict[int, dict[str, float]]]:
    """Steps of each number of workers on each network, and what one worker sends in a step."""
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
            team[0].until_phase("training")
            for delay_s, bytes_per_s in NETWORKS:
                network.be(delay_s, bytes_per_s)
                time.sleep(SETTLE_S)
                before = network.sent(0)
                steps = steps_within(team, seconds)
                parts = [(now.time - then.time) / LOG_EVERY for then, now in pairwise(steps)]
                packets, octets = (now - then for now, then in zip(network.sent(0), before, strict=True))
                made = (steps[-1].step or 0) - (steps[0].step or 0)
                step_s = median(parts)
                samples.append(Sample(count, delay_s, bytes_per_s, step_s))
                traffic[count] = {"packets": packets / made, "bytes": octets / made}
                print(f"{count} workers, {delay_s * 1e3:g} ms, {bytes_per_s:g} B/s: {step_s * 1e3:.2f} ms", flush=True)
    return samples, traffic


def steps_within(team: Team, seconds: float) -> list[Record]:
    """Rank 0's records of the training for so long, the first and last of which begin and end the time."""
    place = len(team[0].records)
    place = team[0].until_phase("training", place)
    first = team[0].records[place - 1]
    team[0].until(lambda record: record.phase == "training" and record.time >= first.time + seconds, place)
    return [record for record in team[0].records[place - 1 :] if record.phase == "training"]


# What that says of more


def costs_of(wholes: Sequence[Whole], fits: Sequence[Fit]) -> Costs:
    """What a step is made of: the software's part by two workers, for each of whom there is a core."""
    alone, two = (next(each for each in wholes if each.workers == count) for count in (1, 2))
    compute_s = alone.us_per_step / 1e6
    rows = np.ones((64, VECTOR), np.float32)
    times = []
    for _ in range(50):
        began = time.perf_counter()
        rows.sum(axis=0)
        times.append(time.perf_counter() - began)
    return Costs(
        compute_s=compute_s,
        hop_s=two.us_per_step / 1e6 - compute_s,
        trips=median(each.trips / (each.workers - 1) for each in fits),
        vector_bytes=4.0 * VECTOR,
        sum_s=median(times) / len(rows),
    )


def predicted(costs: Costs) -> list[dict[str, float]]:
    """A step's seconds on machines of their own, by workers and delay, as it is gathered and by an all-reduce."""
    return [
        {
            "workers": workers,
            "delay_s": delay_s,
            "gather_s": costs.compute_s + gather_s(costs, workers, delay_s, LAN_BYTES_PER_S),
            "all_reduce_s": costs.compute_s + all_reduce_s(costs, workers, delay_s, LAN_BYTES_PER_S),
            "sync_every_100_s": costs.compute_s + gather_s(costs, workers, delay_s, LAN_BYTES_PER_S) / 100,
        }
        for workers in PREDICTED
        for delay_s in LAN_DELAYS_S
    ]


# Tables, in Markdown


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under headings."""
    lines = [headings, ["---:"] * len(headings), *rows]
    return "\n".join(["", *(f"| {' | '.join(line)} |" for line in lines)])


def wholes_table(wholes: Sequence[Whole]) -> str:
    """The same run with more workers."""
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
    return table(["workers", "all joined", "first step", "a step", "largest difference of a parameter"], rows)


def fits_table(fits: Sequence[Fit], traffic: dict[int, dict[str, float]]) -> str:
    """What a step waits for on each number of workers, and what a worker sends in it."""
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
    return table(headings, rows)


def predictions_table(costs: Costs) -> str:
    """What the model says of machines of their own."""
    rows = [
        [f"{one['workers']:,}", f"{one['delay_s'] * 1e6:.0f} µs"]
        + [f"{one[name] * 1e3:,.2f} ms" for name in ("gather_s", "all_reduce_s", "sync_every_100_s")]
        for one in predicted(costs)
    ]
    return table(["workers", "delay", "a step, gathered", "by the ring's all-reduce", "--sync-every 100"], rows)


def crowds_table(crowds: Sequence[joining.Joined]) -> str:
    """What joining costs rank 0's supervisor."""
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
    headings = ["supervisors", "all have the answer", "its size", "cores, waiting", "cores, training"]
    return table([*headings, "slowest answer", "peak memory", "failed"], rows)


if __name__ == "__main__":
    sys.exit(main())
