"""Kill a random worker or its trainer once a minute; compare the steps that count with those of an undisturbed run.

It measures the local command with two workers. A step that is repeated after a kill counts once. The undisturbed rate
is the mean of two rates of the same run: just before the kills and just after them.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks import machine, results
from benchmarks.figures import Figure
from benchmarks.recovery import ENDLESS, first_step_beyond_checkpoint, steps_within, wait_for
from tests.job.processes import LocalRun, trainers, wait_until

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from job.telemetry import Record

WORKERS = 2
MINUTE_S = 60.0
BAR = 97.0  # per cent


def main() -> int:
    """Measure, print the table, write the JSON. Exit status 1 if the bar is not met."""
    args = parse()
    settings = {"minutes": args.minutes, "seconds": args.seconds, "seed": args.seed}
    context = {**machine.context(), "settings": settings}
    flags = [f"--workers={WORKERS}", ENDLESS, f"--data={args.data}"]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, LocalRun(*flags, f"--output={folder}") as run:
        figures = measure(run, args.minutes, args.seconds, args.seed)
        run.process.terminate()  # its workers end before it does
        run.exit_code()
    return results.report(figures, context, args.json, "goodput-")


def parse() -> Namespace:
    """The command line."""
    flags = results.parser("benchmarks.goodput", __doc__)
    add = flags.add_argument
    add("--minutes", type=int, default=20, help="number of minutes with one kill each (default: 20)")
    add("--seconds", type=float, default=120, help="seconds without kills, before and after them (default: 120)")
    add("--seed", type=int, default=0, help="seed of the random choice of what to kill (default: 0)")
    add("--quick", action="store_true", help="one minute, and ten seconds before and after it")
    args = results.parse(flags)
    if args.quick:
        args.minutes, args.seconds = 1, 10
    if min(args.minutes, args.seconds) <= 0:
        flags.error("--minutes and --seconds must be above 0")
    return args


def measure(run: LocalRun, minutes: int, seconds: float, seed: int) -> list[Figure]:
    """The goodput of a run that has been started, the undisturbed rates, and the time that each kill cost."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    wait_for(run, "training")
    rates = [rate(steps_within(run, seconds))]
    first = steps_within(run, 0)[0]
    stopped_s: dict[str, list[float]] = {"worker": [], "trainer": []}
    for minute in range(minutes):
        time.sleep(max(0.0, first.time + MINUTE_S * (minute + 0.5) - time.time()))
        kind = rng.choice(list(stopped_s))
        stopped_s[kind].append(recovered(run, kind, rng))
        print(f"kill {minute + 1} of {minutes}: {kind}, next step after {stopped_s[kind][-1]:.2f} s", flush=True)
    disturbed = [first, steps_within(run, first.time + MINUTE_S * minutes - time.time())[-1]]
    rates.append(rate(steps_within(run, seconds)))
    return [
        Figure("steps a second without kills, before and after", "", rates),
        *(
            Figure(f"from the kill of a {kind} to a step beyond the last checkpoint", "s", values)
            for kind, values in stopped_s.items()
            if values
        ),
        Figure("goodput with one kill a minute", "%", [100 * rate(disturbed) / mean(rates)], BAR, at_least=True),
    ]


def recovered(run: LocalRun, kind: str, rng: random.Random) -> float:
    """Kill a random worker or its trainer; returns the seconds to a step beyond the checkpoint."""
    supervisor = rng.choice(run.supervisors())
    victim = supervisor if kind == "worker" else wait_until(lambda: trainers(supervisor), "a trainer")[0]
    place, killed = len(run.records), time.time()
    os.kill(victim, signal.SIGKILL)
    return first_step_beyond_checkpoint(run, place).time - killed


def rate(records: Sequence[Record]) -> float:
    """Steps a second between the first and the last of these records."""
    first, last = records[0], records[-1]
    return ((last.step or 0) - (first.step or 0)) / (last.time - first.time)


if __name__ == "__main__":
    sys.exit(main())
