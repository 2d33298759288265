"""What rank 0 looks for in the output folder before the workers gather: is there anything to train, and a place for it?

In a process of its own, for a volume that hangs must not stop the supervisor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from job import task
from job.publish import Output

if TYPE_CHECKING:
    from job.cluster import Cluster
    from job.config import Config
    from job.promotion import Verdict
    from job.task import Teller


def look(config: Config, cluster: Cluster, tell: Teller) -> int:
    """Repeat a published run's promotion and tell its verdict, else try the folder; returns the exit code."""
    output = Output(config.output, cluster.run, cluster.job_uid, take_over=config.continue_)
    if verdict := output.verdict():
        return tell_published(tell, verdict)
    output.probe()
    return 0


def tell_published(tell: Teller, verdict: Verdict) -> int:
    """Say that the run was published before; returns its exit code."""
    tell("published", code=verdict.code, reason=verdict.verdict, message=f"published before: {verdict.reason}")
    return verdict.code


if __name__ == "__main__":
    task.main(look)
