"""logs: print the log of every rank, live until the run has ended."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

from job.config import parse_duration, usage_error
from k8s.state.find import job_of
from k8s.state.run import Run, is_settled
from k8s.view.output import note, use_colour
from k8s.view.run_logs import RunLogs

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
    add("name", metavar="NAME", help="the run")
    add("--rank", type=int, action="append", default=[], metavar="N", help="print only this rank; repeatable")
    add("--since", metavar="TIME", help="print only lines from this time on, such as 90s, 10m or 1h")
    add("--tail", type=int, metavar="N", help="begin with the last N lines of each pod")
    add("--grep", metavar="REGEX", help="print only lines that match")
    add("--no-follow", action="store_true", help="print the existing lines, and exit")


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Print the logs of a run; returns the exit status."""
    try:
        pattern = re.compile(arguments.grep or "")
    except re.error as error:
        raise usage_error(f"--grep must be a regular expression, not {arguments.grep!r}: {error}") from None
    if arguments.tail is not None and arguments.tail < 1:
        raise usage_error(f"--tail must be at least 1, not {arguments.tail}")
    since = time.monotonic() - parse_duration("--since", arguments.since) if arguments.since else None
    cluster = connect()
    job = job_of(cluster, arguments.name)
    workers = Run(job).workers
    for rank in arguments.rank:
        if not 0 <= rank < workers:
            raise usage_error(f"--rank must be from 0 to {workers - 1} for {arguments.name}, not {rank}")
    ranks = sorted(set(arguments.rank or range(workers)))
    if len(ranks) > AT_A_TIME:
        part = f"{ranks[0]} to {ranks[AT_A_TIME - 1]} of {len(ranks)}"
        note(f"at most {AT_A_TIME} ranks are printed at a time, here {part}; --rank selects others")
    printer = LinePrinter(workers, pattern, as_json=arguments.output == "json")
    logs = RunLogs(cluster, job, set(ranks[:AT_A_TIME]), since, arguments.tail, printer.print)
    logs.show_past()
    if not arguments.no_follow and not is_settled(job):
        logs.follow()
    return 0


class LinePrinter:
    """Prints lines of logs on standard output.

    Args:
        ranks: how many ranks the run has.
        pattern: which lines are printed.
        as_json: whether each line is a JSON object.
    """

    def __init__(self, ranks: int, pattern: re.Pattern[str], *, as_json: bool) -> None:
        self._width, self._pattern, self._as_json = len(str(ranks - 1)), pattern, as_json
        self._colour = use_colour()

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
        print(prefix, line.text, flush=True)
