"""`python -m benchmarks`: time this job and what a user would pick instead, interleaved, in several rounds."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks import bars, machine, results, tables
from benchmarks.cases import Case, Settings, cases
from benchmarks.measure import FailedError, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.rivals.common import Result


def main() -> int:
    """Time everything, print the tables, write the JSON. Exit status 1 when a program failed."""
    args = parse()
    console = Console(width=None if sys.stdout.isatty() else 160)
    torch = machine.find_torch(args.torch_python)
    if torch is None:
        console.print(
            "PyTorch is left out: it is not installed here, and no --torch-python names an interpreter that has it"
        )
    tf_keras = machine.installed("tf-keras") is not None
    if not tf_keras:
        console.print("tf_keras is left out: it is not installed here")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = Settings(
            data=args.data.resolve(),
            on_disk=without_decoded(args.data.resolve(), Path(folder)),
            epochs=3 if args.quick else args.epochs,
            learning_rate=args.learning_rate,
            cores=machine.cores(),
            torch_python=torch[0] if torch else None,
            tf_keras=tf_keras,
        )
        around = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine.describe(torch[1] if torch else None),
            "settings": {"epochs": settings.epochs, "learning_rate": settings.learning_rate, "schedule": "constant"},
        }
        samples, failures = rounds(cases(settings), 1 if args.quick else args.rounds, console)
    standings = bars.standings(samples)
    console.print(tables.programs_table(samples))
    console.print(tables.bars_table(standings))
    console.print(results.keep(tables.document(samples, failures, standings, around), args.json))
    return 1 if failures else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared datasets (default: data)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each program is run (default: 3)")
    parser.add_argument("--epochs", type=int, default=10, help="of every program, the first its warm-up (default: 10)")
    parser.add_argument("--learning-rate", type=float, default=0.5, help="constant, of every program (default: 0.5)")
    parser.add_argument("--quick", action="store_true", help="one round of three epochs")
    parser.add_argument("--torch-python", metavar="PATH", help="an interpreter with PyTorch (default: this one)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the results go (default: output/benchmarks)")
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error(f"--epochs must be at least 2, for the first is the warm-up, not {args.epochs}")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {args.rounds}")
    if not (args.data / "mnist" / "decoded").is_dir():
        parser.error(f"no MNIST in {args.data}: run `python -m job data --data {args.data}`")
    return args


def without_decoded(data: Path, folder: Path) -> Path:
    """A data folder with links to the same dataset but for its decoded rows, so that its rows are read from disk."""
    place = folder / "mnist"
    place.mkdir(parents=True)
    for entry in (data / "mnist").iterdir():
        if entry.name != "decoded":
            (place / entry.name).symlink_to(entry)
    return folder


def rounds(chosen: Sequence[Case], count: int, console: Console) -> tuple[dict[Case, list[Result]], dict[Case, str]]:
    """Run every case once a round, each round from another place on: nothing is always first, or after the same."""
    samples: dict[Case, list[Result]] = {case: [] for case in chosen}
    failures: dict[Case, str] = {}
    for number in range(count):
        first = number * len(chosen) // count
        for case in [*chosen[first:], *chosen[:first]]:
            title = f"round {number + 1} of {count}: {case.name}, {case.processes} x {case.threads} threads"
            try:
                result = measure(case)
            except FailedError as error:
                failures[case] = str(error)
                console.print(f"{title}: {error}", highlight=False)
            else:
                samples[case].append(result)
                said = f"{result.us_per_step:,.1f} us a step, {result.whole_s:.1f} s, load {os.getloadavg()[0]:.1f}"
                console.print(f"{title}: {said}", highlight=False)
    return samples, failures


if __name__ == "__main__":
    sys.exit(main())
