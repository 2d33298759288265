"""What rank 0 looks for in the output folder before the workers gather: is there anything to train, and a place for it?

In a process of its own, for a volume that hangs must not stop the supervisor.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from job.output.promotion import Candidate
from job.output.run_folder import RunFolder
from job.supervisor import task
from job.system.files import read_json

if TYPE_CHECKING:
    from job.cluster import Cluster
    from job.config import Config
    from job.output.promotion import Verdict
    from job.supervisor.task import Teller


def look(config: Config, cluster: Cluster, tell: Teller) -> int:
    """Repeat a published run's promotion and tell its verdict, else try the folder; returns the exit code."""
    output = RunFolder(config.output, cluster.run, cluster.job_uid, take_over=config.continue_)
    if verdict := output.published_verdict():
        return tell_published(tell, output, verdict)
    output.probe()
    return 0


def tell_published(tell: Teller, output: RunFolder, verdict: Verdict) -> int:
    """Say that the run was published before; returns its exit code."""
    accuracy = None
    with suppress(ValueError, OSError):  # the verdict holds even where the report is damaged since
        accuracy = Candidate.of(read_json(output.model / "report.json") or {}).accuracy
    message = f"published before: {verdict.reason}"
    tell("published", accuracy=accuracy, code=verdict.code, reason=verdict.verdict, message=message)
    return verdict.code


if __name__ == "__main__":
    task.main(look)
