"""promote: move `latest` to a published run by hand, forwards or back, whatever its verdict and its age."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from job.config import check_name
from k8s.state.names import OUTPUT
from k8s.volume import pod as helper

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `promote` takes."""
    parser.add_argument("name", metavar="NAME", help="the run")
    helper.add_flags(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Promote a run; returns the exit status."""
    name = arguments.name
    check_name(name, 1, "NAME")
    cluster = connect()
    place = helper.place(cluster, name, arguments.image, arguments.claim)
    with helper.opened(cluster, place, writes=True) as pod:
        was = pod.output(["readlink", f"{OUTPUT}/latest"])[1].decode(errors="replace").strip()
        before = json.loads(pod.job("promote", name, f"--output={OUTPUT}", "--json"))["before"]
        if before == name:  # also where it ran again, for the connection broke once it was done
            before = was.rpartition("/")[2] or None
    if arguments.output == "json":
        print(json.dumps({"name": name, "before": before, "claim": place.claim}))
    else:
        print(f"latest is {name}; it was {before or 'not there'}")
    return 0
