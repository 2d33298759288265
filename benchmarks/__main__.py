"""Time this job and its alternatives: each program several times, in turn, with equal settings."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import bars, machine, results, tables
from benchmarks.cases import Case, Settings, cases
from benchmarks.measure import FailedError, measure
from job.dataset.fingerprint import FINGERPRINT, read_fingerprint
from job.dataset.rows import DECODED, MEMORY_LIMIT

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from benchmarks.rivals.common import Result


def main() -> int:
    """Time everything, print the tables, write the JSON. Exit status 1 if a program failed."""
    args = parse()
    torch = machine.find_torch(args.torch_python)
    if torch is None:
        print("without PyTorch: it is not installed here; --torch-python names an interpreter that has it")
    tf_keras = machine.installed("tf-keras") is not None
    if not tf_keras:
        print("without tf_keras: it is not installed here")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = Settings(
            data=args.data,
            on_disk=beyond_memory(args.data, Path(folder)),
            epochs=args.epochs,
            learning_rate=args.learning_rate,
            cores=machine.cores(),
            torch_python=torch[0] if torch else None,
            tf_keras=tf_keras,
        )
        context = {
            **machine.context(torch[1] if torch else None),
            "settings": {"epochs": settings.epochs, "learning_rate": settings.learning_rate, "schedule": "constant"},
        }
        samples, failures = run_rounds(cases(settings), args.rounds)
    comparisons = bars.compare(samples)
    print(tables.programs_table(samples), tables.bars_table(comparisons), "", sep="\n")
    print(results.keep(tables.document(samples, failures, comparisons, context), args.json))
    return 1 if failures else 0


def parse() -> Namespace:
    """The command line."""
    flags = results.parser("benchmarks", __doc__)
    add = flags.add_argument
    add("--rounds", type=int, default=3, help="how often to run each program (default: 3)")
    add("--epochs", type=int, default=10, help="of each program; the first one is its warm-up (default: 10)")
    add("--learning-rate", type=float, default=0.5, help="of each program, constant (default: 0.5)")
    add("--quick", action="store_true", help="one round of three epochs")
    add("--torch-python", metavar="PATH", help="an interpreter with PyTorch (default: this one)")
    args = results.parse(flags)
    if args.quick:
        args.rounds, args.epochs = 1, 3
    if args.epochs < 2:
        flags.error(f"--epochs must be at least 2, because the first one is the warm-up, not {args.epochs}")
    if args.rounds < 1:
        flags.error(f"--rounds must be at least 1, not {args.rounds}")
    return args


def beyond_memory(data: Path, folder: Path) -> Path:
    """A data folder with MNIST, its training rows repeated to 1.1 GB, so that a worker leaves the images on disk."""
    source, place = data / "mnist", folder / "mnist"
    (place / DECODED).mkdir(parents=True)
    for file in (source / DECODED).glob("test-*.npy"):
        (place / DECODED / file.name).symlink_to(file)
    fingerprint = read_fingerprint(data, "mnist")
    train, digest = fingerprint["train"], hashlib.sha256()
    copies = 1 + MEMORY_LIMIT // (source / DECODED / "train-images.npy").stat().st_size
    for name in ("train-images.npy", "train-labels.npy"):
        rows = np.concatenate([np.load(source / DECODED / name)] * copies)
        np.save(place / DECODED / name, rows)
        digest.update(rows.data)
    train |= {"count": train["count"] * copies, "sha256": digest.hexdigest()}
    (place / FINGERPRINT).write_text(json.dumps(fingerprint))
    return folder


def run_rounds(chosen: Sequence[Case], count: int) -> tuple[dict[Case, list[Result]], dict[Case, str]]:
    """Run every case once a round. Each round starts with another case, so that no case is always the first."""
    samples: dict[Case, list[Result]] = {case: [] for case in chosen}
    failures: dict[Case, str] = {}
    for number in range(count):
        first = number * len(chosen) // count
        for case in [*chosen[first:], *chosen[:first]]:
            try:
                result = measure(case)
            except FailedError as error:
                failures[case] = outcome = str(error)
            else:
                samples[case].append(result)
                load = os.getloadavg()[0]
                outcome = f"{result.us_per_step:,.1f} us a step, {result.whole_s:.1f} s, load {load:.1f}"
            shape = f"{case.processes} x {case.threads} threads"
            print(f"round {number + 1} of {count}: {case.name}, {shape}: {outcome}", flush=True)
    return samples, failures


if __name__ == "__main__":
    sys.exit(main())
