"""`python -m benchmarks.launcher`: the launcher's time and memory beside 500 runs and one run of 1,000 workers.

Creates the objects in a new namespace of the cluster that KUBECONFIG names, and deletes it afterwards. With --large, it
uses no cluster, but plays one of 1,000 nodes and 20,000 pods.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine, results
from benchmarks.crowd import Crowd
from benchmarks.figures import Figure
from benchmarks.large_cluster import RUN, LargeCluster
from benchmarks.measure import PROJECT

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

LARGE = "large"
TRAINING = 10  # runs that are training; the others are published
SECONDS, MEGABYTES = 2.0, 150.0
# In the large cluster: for each command, and received while a run is watched.
LARGE_SECONDS, WATCHED_MEGABYTES, WATCHED_S = 3.0, 10.0, 14.0
# A process's peak includes the memory of the parent that forked it, so the parent is a small process.
MEASURED = """
import ctypes, resource, signal, subprocess, sys
def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
code = subprocess.run([sys.executable, "-m", "k8s", *sys.argv[1:]], preexec_fn=end_with_parent).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)
sys.exit(code)
"""


def main() -> int:
    """Create the objects, time the commands, print the table. Exit status 1 if a bar is not met."""
    args = parse()
    names = ("nodes", "pods", "rounds") if args.large else ("runs", "workers", "rounds")
    context = {**machine.context(), "settings": {name: getattr(args, name) for name in names}}
    if args.large:
        figures = list(measure_large(args.nodes, args.pods, args.rounds))
    else:
        figures = list(measure(args.runs, args.workers, args.rounds))
    return results.report(figures, context, args.json, "launcher-")


def parse() -> Namespace:
    """The command line."""
    flags = results.parser("benchmarks.launcher", __doc__, data=False)
    add = flags.add_argument
    add("--runs", type=int, default=500, help="number of runs with two workers (default: 500)")
    add("--workers", type=int, default=1000, help="workers of the large run (default: 1000)")
    add("--large", action="store_true", help="play a large cluster in place of these runs")
    add("--nodes", type=int, default=1000, help="nodes of the large cluster (default: 1000)")
    add("--pods", type=int, default=20_000, help="pods of the large cluster (default: 20000)")
    add("--rounds", type=int, default=5, help="how often to time each command (default: 5)")
    args = results.parse(flags)
    if args.runs <= TRAINING or min(args.rounds, args.nodes, args.pods) < 1:
        flags.error(f"--runs must be above {TRAINING}, and --rounds, --nodes and --pods above 0")
    return args


def measure(runs: int, workers: int, rounds: int) -> Iterator[Figure]:
    """The time and the peak memory of each command, in a namespace with these runs and one run of these workers."""
    commands = {
        "status": ("status",),
        "status NAME": ("status", LARGE),
        "why NAME": ("why", LARGE),
        "logs NAME --rank N --no-follow": ("logs", LARGE, f"--rank={workers - 1}", "--no-follow"),
        "logs NAME --no-follow": ("logs", LARGE, "--no-follow"),
    }
    with Crowd() as crowd:
        began = time.monotonic()
        names = [f"run-{number:03}" for number in range(runs)]
        crowd.runs(names[:TRAINING], 2)
        crowd.runs(names[TRAINING:], 2, published=True)
        crowd.runs([LARGE], workers, events=True)
        print(f"{crowd.requests} requests created the objects in {time.monotonic() - began:.0f} s", flush=True)
        for name, words in commands.items():
            ran = [run_timed([words[0], f"--namespace={crowd.namespace}", *words[1:]]) for _ in range(rounds)]
            yield from figures_of(name, ran, SECONDS)


def measure_large(nodes: int, pods: int, rounds: int) -> Iterator[Figure]:
    """The time and the peak memory of each command in a large cluster, and what a run that is watched costs."""
    commands = {
        "submit": ("submit", "--name=other"),
        "preflight": ("preflight", "--name=other"),
        "status": ("status",),
        "status NAME": ("status", RUN),
        "why NAME": ("why", RUN),
    }
    with tempfile.TemporaryDirectory() as folder, LargeCluster(nodes, pods, Path(folder)) as cluster:
        flag = f"--kubeconfig={cluster.kubeconfig}"
        for name, words in commands.items():
            ran = [run_timed([words[0], flag, *words[1:]]) for _ in range(rounds)]
            yield from figures_of(name, ran, LARGE_SECONDS)
        received = [watched(cluster, flag) for _ in range(rounds)]
        yield Figure(f"status NAME --watch, received in {WATCHED_S:.0f} s", "MB", received, WATCHED_MEGABYTES)


def watched(cluster: LargeCluster, flag: str) -> float:
    """How many MB the API server sends while a run is watched."""
    before = cluster.sent
    command = [sys.executable, "-m", "k8s", "status", flag, RUN, "--watch"]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd=PROJECT, capture_output=True, check=True, timeout=WATCHED_S)
    return (cluster.sent - before) / 1e6


def figures_of(name: str, ran: Sequence[tuple[float, float, float]], seconds: float) -> Iterator[Figure]:
    """The figures of a command's rounds. A machine with other work adds to the time, but not to the CPU time."""
    yield Figure(name, "s", [each[0] for each in ran], seconds)
    yield Figure(f"{name}, CPU time", "s", [each[1] for each in ran])
    yield Figure(f"{name}, peak memory", "MB", [each[2] for each in ran], MEGABYTES)


def run_timed(words: Sequence[str]) -> tuple[float, float, float]:
    """The time of a launcher command and its CPU time, in seconds, and its peak memory in MB."""
    began = time.monotonic()
    command = [sys.executable, "-c", MEASURED, *words]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    peak_kib, cpu_s = done.stderr.split()[-2:]
    return seconds, float(cpu_s), int(peak_kib) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
