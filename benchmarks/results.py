"""Flags that several benchmarks share, and how they show and keep their results."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import as_json, table
from benchmarks.measure import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.figures import Figure


def parser(prog: str, description: str | None, *, data: bool = True) -> argparse.ArgumentParser:
    """A parser with --json, and --data if the benchmark needs a dataset."""
    flags = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    if data:
        help_ = "folder of prepared datasets (default: data)"
        flags.add_argument("--data", type=Path, default=Path("data"), help=help_)
    flags.add_argument("--json", type=Path, metavar="PATH", help="file for the results (default: in output/benchmarks)")
    return flags


def parse(flags: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line. --data, if there is one, becomes an absolute path; exits with 2 if MNIST is not in it.

    From then on, SIGTERM raises SystemExit, so that the benchmark removes its folders, networks and namespaces.
    """
    args = flags.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if "data" in args:
        args.data = args.data.resolve()
        if not (args.data / "mnist" / "decoded").is_dir():
            flags.error(f"no MNIST in {args.data}: run `python -m job data --data {args.data}`")
    return args


def report(figures: Sequence[Figure], context: Mapping[str, Any], path: Path | None, prefix: str) -> int:
    """Print a table of figures, and keep them; returns the exit status, which is 1 if a bar is not met.

    Args:
        figures: all of them.
        context: the time, the machine and the settings.
        path: as in keep().
        prefix: as in keep().
    """
    print(table(figures))
    print(f"\n{keep({**context, 'figures': as_json(figures)}, path, prefix)}")
    return int(any(each.met is False for each in figures))


def keep(document: Mapping[str, Any], path: Path | None, prefix: str = "") -> str:
    """Write results as JSON; returns a line with the path.

    Args:
        document: the results, with the time, the machine and the settings.
        path: the file; None for a file in output/benchmarks that is named after the time.
        prefix: of the name of that file.
    """
    name = f"{prefix}{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path = path or PROJECT / "output" / "benchmarks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return f"written: {path}"
