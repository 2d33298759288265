"""preflight: check whether the cluster can run the job; each check is a line with its remedy."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from k8s.api.errors import Status
from k8s.checks import preflight
from k8s.commands.flags import add_submission, submission_of
from k8s.commands.submit import model_map, prepare, render_job
from k8s.view.output import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from k8s.api.cluster import Cluster

EXAMPLES = (
    "mnist-job preflight --workers 4 --memory 2Gi",
    "mnist-job preflight --overlay gpu --claim models -n research -o json",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `preflight`: those of a submission."""
    add_submission(parser)


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Make all checks; returns the exit status."""
    submission = submission_of(arguments)
    job = render_job(arguments, submission)
    cluster = connect()
    checks = preflight.check_all(cluster, *prepare(cluster, job), model_map(submission))
    if arguments.output == "json":
        print(json.dumps([dataclasses.asdict(check) for check in checks]))
    else:
        print(printable("\n".join(str(check) for check in checks)))
    return Status.REFUSED if any(check.failed for check in checks) else 0
