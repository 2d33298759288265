"""`python -m benchmarks.launcher`: the launcher's time and memory beside 500 runs and one run of 1,000 workers.

Creates the objects in a new namespace of the cluster that KUBECONFIG names, and deletes it afterwards.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine, results
from benchmarks.crowd import Crowd
from benchmarks.figures import Figure, as_json, table
from benchmarks.measure import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGE = "large"
TRAINING = 10  # runs that are training; the others are published
SECONDS, MEGABYTES = 2.0, 150.0
# A process's peak includes the memory of the parent that forked it, so the parent is a small process.
MEASURED = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "k8s", *sys.argv[1:]]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def main() -> int:
    """Create the objects, time the commands, print the table. Exit status 1 if a bar is not met."""
    arguments = parse_arguments()
    around = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine.describe(None),
        "settings": {"runs": arguments.runs, "workers": arguments.workers, "rounds": arguments.rounds},
    }
    with Crowd() as crowd:
        began = time.monotonic()
        names = [f"run-{number:03}" for number in range(arguments.runs)]
        crowd.runs(names[:TRAINING], 2)
        crowd.runs(names[TRAINING:], 2, published=True)
        crowd.runs([LARGE], arguments.workers, events=True)
        print(f"{crowd.requests} requests created the objects in {time.monotonic() - began:.0f} s", flush=True)
        figures = list(measure(crowd.namespace, arguments.workers, arguments.rounds))
    print(table(figures))
    print(f"\n{results.keep({**around, 'figures': as_json(figures)}, arguments.json, 'launcher-')}")
    return int(any(each.met is False for each in figures))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launcher", description=__doc__)
    parser.add_argument("--runs", type=int, default=500, help="number of runs with two workers (default: 500)")
    parser.add_argument("--workers", type=int, default=1000, help="workers of the large run (default: 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="how often to time each command (default: 5)")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="file for the results (default: a new one in output/benchmarks)"
    )
    arguments = parser.parse_args()
    if arguments.runs <= TRAINING or arguments.rounds < 1:
        parser.error(f"--runs must be above {TRAINING} and --rounds above 0")
    return arguments


def measure(namespace: str, workers: int, rounds: int) -> Iterator[Figure]:
    """The time and the peak memory of each command."""
    commands = {
        "status": ("status",),
        "status NAME": ("status", LARGE),
        "why NAME": ("why", LARGE),
        "logs NAME --rank N --no-follow": ("logs", LARGE, f"--rank={workers - 1}", "--no-follow"),
        "logs NAME --no-follow": ("logs", LARGE, "--no-follow"),
    }
    for name, words in commands.items():
        ran = [run_timed([words[0], f"--namespace={namespace}", *words[1:]]) for _ in range(rounds)]
        yield Figure(name, "s", [seconds for seconds, _ in ran], SECONDS)
        yield Figure(f"{name}, peak memory", "MB", [megabytes for _, megabytes in ran], MEGABYTES)


def run_timed(words: Sequence[str]) -> tuple[float, float]:
    """The time of a launcher command in seconds, and its peak memory in MB."""
    began = time.monotonic()
    command = [sys.executable, "-c", MEASURED, *words]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    return seconds, int(done.stderr.splitlines()[-1]) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
