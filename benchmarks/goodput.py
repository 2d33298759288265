"""Kill a random worker or its trainer once a minute; compare the steps that count with those of an undisturbed run.

A step that is repeated after a kill counts once. The undisturbed rate is the mean of two rates of the same run: just
before the kills and just after them.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks import machine, results
from benchmarks.figures import Figure
from benchmarks.recovery import KILLS, recovered, steps_within, team_of

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from job.telemetry import Record
    from tests.faults.team import Team

WORKERS = 2
MINUTE_S = 60.0
BAR = 97.0  # per cent


def main() -> int:
    """Measure, print the table, write the JSON. Exit status 1 if the bar is not met."""
    args = parse()
    settings = {"minutes": args.minutes, "seconds": args.seconds, "seed": args.seed}
    context = {**machine.context(), "settings": settings}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, team_of(args.data, Path(folder), WORKERS) as team:
        team.start()
        figures = measure(team, args.minutes, args.seconds, args.seed)
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


def measure(team: Team, minutes: int, seconds: float, seed: int) -> list[Figure]:
    """The goodput of a team that has been started, the undisturbed rates, and the time that each kill cost."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    team[0].wait_for_phase("training")
    rates = [rate(steps_within(team, seconds))]
    first = steps_within(team, 0)[0]
    stopped_s: list[float] = []
    for minute in range(minutes):
        time.sleep(max(0.0, first.time + MINUTE_S * (minute + 0.5) - time.time()))
        kind = rng.choice(list(KILLS))
        rank, whole = KILLS[kind]
        stopped_s.append(recovered(team, rank, whole=whole))
        print(f"kill {minute + 1} of {minutes}: {kind}, next step after {stopped_s[-1]:.2f} s", flush=True)
    disturbed = [first, steps_within(team, first.time + MINUTE_S * minutes - time.time())[-1]]
    rates.append(rate(steps_within(team, seconds)))
    return [
        Figure("steps a second without kills, before and after", "", rates),
        Figure("from a kill to a step beyond the last checkpoint", "s", stopped_s),
        Figure("goodput with one kill a minute", "%", [100 * rate(disturbed) / mean(rates)], BAR, at_least=True),
    ]


def rate(records: Sequence[Record]) -> float:
    """Steps a second between the first and the last of these records."""
    first, last = records[0], records[-1]
    return ((last.step or 0) - (first.step or 0)) / (last.time - first.time)


if __name__ == "__main__":
    sys.exit(main())
