"""Time local runs from the start of the command to the first step and to the end, and measure their memory."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine, results
from benchmarks.figures import Figure
from benchmarks.measure import PROJECT
from benchmarks.recovery import ENDLESS, EPOCH
from tests.job import processes
from tests.job.processes import RunningCommand

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping, Sequence

COUNTS = (1, 2, 4, 8)
STEP, MEMORY, WHOLE = "first step", "memory", "whole command"
UNITS = {STEP: "s", MEMORY: "MB", WHOLE: "s"}
# By what is measured and the number of workers. The ratios are those to the code before.
BARS = {(STEP, 2): 3.5, (STEP, 4): 4.5, (STEP, 8): 7.0, (WHOLE, 2): 5.5, (MEMORY, 4): 2000.0}
RATIO_BARS = {(MEMORY, 1): 1.1}
NOW, BEFORE = "now", "before"


def main() -> int:
    """Measure everything, print the table, write the JSON. Exit status 1 if a bar is not met."""
    args = parse()
    context = {**machine.context(), "settings": {"rounds": args.rounds, "counts": args.counts}}
    code = {NOW: PROJECT, **({BEFORE: args.before.resolve()} if args.before else {})}
    measured: dict[str, list[dict[tuple[str, int], float]]] = {version: [] for version in code}
    for number in range(args.rounds):
        for version in list(code)[:: -1 if number % 2 else 1]:
            measured[version].append(measure(args.data, args.counts, code[version]))
            values = ", ".join(f"{name_of(key)} {value:.1f}" for key, value in measured[version][-1].items())
            print(f"round {number + 1} of {args.rounds}, {version}: {values}", flush=True)
    figures = list(figures_of(measured))
    return results.report(figures, context, args.json, "start-")


def parse() -> Namespace:
    """The command line."""
    flags = results.parser("benchmarks.start", __doc__)
    add = flags.add_argument
    add("--rounds", type=int, default=3, help="how often to measure each value (default: 3)")
    add("--counts", type=int, nargs="+", default=COUNTS, help="numbers of workers (default: 1 2 4 8)")
    add("--before", type=Path, metavar="FOLDER", help="another checkout to measure, alternating with this one")
    add("--quick", action="store_true", help="one round of one and two workers")
    args = results.parse(flags)
    if args.quick:
        args.rounds, args.counts = 1, (1, 2)
    if min(args.rounds, *args.counts) < 1:
        flags.error("--rounds and --counts must be above 0")
    if args.before and not (args.before / "job").is_dir():
        flags.error(f"no package job in {args.before}")
    return args


def measure(data: Path, counts: Sequence[int], code: Path) -> dict[tuple[str, int], float]:
    """One round: for each number of workers, and for the whole command with two.

    Args:
        data: the data folder.
        counts: numbers of workers.
        code: the checkout whose code runs.
    """
    variables = {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}  # not the current folder's code
    values: dict[tuple[str, int], float] = {}
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="bench-") as output:
            command = processes.command(f"--data={data}", f"--output={output}", f"--workers={count}", ENDLESS)
            start = time.time()
            with RunningCommand(command, processes.environment(variables)) as run:
                place = run.wait_for_record(lambda record: record.rank == 0 and record.phase == "training")
                values[STEP, count] = run.records[place - 1].time - start
                run.wait_for_record(lambda record: record.rank == 0 and (record.step or 0) > EPOCH)
                below = [pid for pid, _ in processes.descendants(run.process.pid)]
                values[MEMORY, count] = sum(map(pss_mb, [run.process.pid, *below]))
    with tempfile.TemporaryDirectory(prefix="bench-") as output:
        ended = processes.run(f"--data={data}", f"--output={output}", "--workers=2", env=variables)
        if ended.code:
            raise RuntimeError(f"it failed: {ended.stderr[-500:]}")
        values[WHOLE, 2] = ended.seconds
    return values


def pss_mb(pid: int) -> float:
    """The memory of a process in 10^6 bytes, where a page that n processes share counts 1/n."""
    with suppress(OSError):  # it has ended
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        if found := re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE):
            return int(found[1]) * 1024 / 1e6
    return 0.0


def figures_of(measured: Mapping[str, Sequence[Mapping[tuple[str, int], float]]]) -> Iterator[Figure]:
    """The figures of all rounds by version, and the ratios of the code now to the code before, round by round."""
    for key in measured[NOW][0]:
        values = {version: [each[key] for each in rounds] for version, rounds in measured.items()}
        yield Figure(name_of(key), UNITS[key[0]], values[NOW], BARS.get(key))
        if BEFORE in values:
            yield Figure(f"{name_of(key)}, before", UNITS[key[0]], values[BEFORE])
            ratios = [now / before for now, before in zip(values[NOW], values[BEFORE], strict=True)]
            yield Figure(f"{name_of(key)}, ratio", "", ratios, RATIO_BARS.get(key))


def name_of(key: tuple[str, int]) -> str:
    """The name of a figure."""
    what, count = key
    return f"{count} worker{'s' * (count > 1)}, {what}"


if __name__ == "__main__":
    sys.exit(main())
