"""promote: move `latest` to a published run of any verdict and age."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from job.config import check_name
from k8s.commands import flags
from k8s.state.names import OUTPUT
from k8s.view.output import printable
from k8s.volume.start import open_volume

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster


EXAMPLES = ("mnist-job promote digits", "mnist-job promote digits --output json")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `promote`."""
    flags.add_name(parser, "the run")
    flags.add_volume(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Promote a run; returns the exit status."""
    name = arguments.name
    check_name(name, 1, "NAME")
    with open_volume(connect(), arguments, name, writes=True) as pod:
        latest = pod.latest()
        before = json.loads(pod.run_job("promote", name, f"--output={OUTPUT}", "--json"))["before"]
        if before == name:  # also if the job had promoted it before the connection broke, and then ran again
            before = latest.rpartition("/")[2] or None
    if arguments.output == "json":
        print(json.dumps({"name": name, "before": before, "claim": pod.claim}))
    else:
        print(printable(f"latest is {name}; " + (f"it was {before}" if before else "there was none before")))
    return 0
