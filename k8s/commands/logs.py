"""logs: print the log of every rank, live until the run has ended; from the volume where pods are gone."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from job.config import parse_duration, usage_error
from k8s.api.errors import failed
from k8s.commands import flags
from k8s.state.find import NoRunError, job_of
from k8s.state.names import run_name
from k8s.state.run import Run, is_settled
from k8s.view.loglines import read_stored
from k8s.view.output import note, printable, use_colour
from k8s.view.run_logs import RunLogs, clock_time, log_files, merged
from k8s.volume.run_files import copy_logs
from k8s.volume.start import open_volume, volume_of_deleted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster
    from k8s.view.loglines import Line

EXAMPLES = ("mnist-job logs digits", "mnist-job logs digits --rank 1 --tail 20 --no-follow")
COLOURS = ("36", "33", "32", "35", "34", "31")
AT_A_TIME = 50  # ranks: each takes a thread, and a connection through the API server to a node


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `logs`."""
    add = parser.add_argument
    flags.add_name(parser, "the run")
    add("--rank", type=int, action="append", default=[], metavar="N", help="print only this rank; repeatable")
    add("--since", metavar="TIME", help="print only lines from this time on, such as 90s, 10m or 1h")
    add("--tail", type=int, metavar="N", help="begin with the last N lines of each pod")
    add("--grep", metavar="REGEX", help="print only lines that match")
    add("--no-follow", action="store_true", help="print the existing lines, and exit")
    flags.add_volume(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Print the logs of a run; returns the exit status."""
    try:
        pattern = re.compile(arguments.grep or "")
    except (re.error, OverflowError, RecursionError) as error:
        raise usage_error(f"--grep must be a regular expression, not {arguments.grep!r}: {error}") from None
    if arguments.tail is not None and arguments.tail < 1:
        raise usage_error(f"--tail must be at least 1, not {arguments.tail}")
    since = time.monotonic() - parse_duration("--since", arguments.since) if arguments.since else None
    cluster = connect()
    try:
        job = job_of(cluster, arguments.name)
    except NoRunError as absent:
        return show_deleted(cluster, arguments, since, pattern, absent)
    workers = Run(job).workers
    ranks = selected(arguments, workers)
    printer = LinePrinter(workers, pattern, as_json=arguments.output == "json")

    def stored(ranks: set[int], folder: Path) -> None:
        with open_volume(cluster, arguments, arguments.name) as pod:
            copy_logs(pod, run_name(job), ranks, folder)

    logs = RunLogs(cluster, job, ranks, since, arguments.tail, printer.print, stored)
    logs.show_past()
    if not arguments.no_follow and not is_settled(job):
        logs.follow()
    return 0


def show_deleted(
    cluster: Cluster,
    arguments: argparse.Namespace,
    since: float | None,
    pattern: re.Pattern[str],
    absent: NoRunError,
) -> int:
    """Print the logs of a run whose Job was deleted, from the volume; returns the exit status.

    Raises:
        LauncherError: `absent`, if the volume has none; 1, they cannot be written here.
    """
    with ExitStack() as stack:
        with volume_of_deleted(cluster, arguments, absent) as (pod, paths):
            workers = 1 + max((int(number) for number in re.findall(r"rank-(\d+)\.log", "\n".join(paths))), default=0)
            ranks = selected(arguments, workers)
            try:
                folder = Path(stack.enter_context(TemporaryDirectory()))
                copy_logs(pod, arguments.name, ranks, folder)
            except OSError as error:
                raise failed(
                    f"the logs cannot be copied to this machine: {error}", "make room, or set TMPDIR"
                ) from None
        printer = LinePrinter(workers, pattern, as_json=arguments.output == "json")
        begin = clock_time(cluster, since)
        logs = [read_stored(path, rank, (), begin, arguments.tail) for rank, path in log_files(folder)]
        for line in merged(logs):
            printer.print(line)
    note(f"the Job of {arguments.name} was deleted")
    return 0


def selected(arguments: argparse.Namespace, workers: int) -> set[int]:
    """The ranks to print, of a run of so many workers; a note says so if they are not all that were asked for.

    Raises:
        JobError: 64, there is no such rank.
    """
    for rank in arguments.rank:
        if not 0 <= rank < workers:
            raise usage_error(f"--rank must be from 0 to {workers - 1} for {arguments.name}, not {rank}")
    ranks = sorted(set(arguments.rank or range(workers)))
    if len(ranks) > AT_A_TIME:
        part = f"{ranks[0]} to {ranks[AT_A_TIME - 1]} of {len(ranks)}"
        note(f"at most {AT_A_TIME} ranks are printed at a time, here {part}; --rank selects others")
    return set(ranks[:AT_A_TIME])


class LinePrinter:
    """Prints lines of logs on standard output.

    Args:
        ranks: how many ranks the run has.
        pattern: which lines are printed.
        as_json: whether each line is a JSON object.
    """

    def __init__(self, ranks: int, pattern: re.Pattern[str], *, as_json: bool) -> None:
        self._width, self._pattern, self._as_json = len(str(ranks - 1)), pattern, as_json
        self._colour, self._is_terminal = use_colour(), sys.stdout.isatty()

    def print(self, line: Line) -> None:
        """Print a line, if it matches."""
        if not self._pattern.search(line.text):
            return
        if self._as_json:
            fields = {"rank": line.rank, "pod": line.pod, "time": line.time, "line": line.text}
            print(json.dumps(fields), flush=True)
            return
        prefix = f"rank {line.rank:>{self._width}} |"
        if self._colour:
            prefix = f"\x1b[{COLOURS[line.rank % len(COLOURS)]}m{prefix}\x1b[0m"
        print(prefix, printable(line.text) if self._is_terminal else line.text, flush=True)
