"""Rank 0's check of the output folder before the rendezvous: is the run published, and can the folder be written?

It runs in a process of its own, so that a volume that hangs does not block the supervisor.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from job.dataset.fingerprint import read_fingerprint
from job.errors import JobError
from job.must_match import settings_to_match
from job.output.promotion import Candidate
from job.output.run_folder import RunFolder
from job.supervisor.child import run_child
from job.system.files import read_json

if TYPE_CHECKING:
    from job.cluster import Cluster
    from job.config import Config
    from job.output.promotion import Verdict
    from job.telemetry import Reporter


def precheck(config: Config, cluster: Cluster, report: Reporter) -> int:
    """Promote a published run and report its verdict, or else probe the folder; returns the exit code."""
    output = RunFolder(config.output, cluster.run, cluster.job_uid, take_over=config.continue_)
    must_match = None
    with suppress(JobError):  # a published run needs neither a dataset nor a model
        must_match = settings_to_match(config, read_fingerprint(config.data, config.dataset))
    if verdict := output.promote_if_published(must_match):
        return report_published(report, output, verdict)
    output.probe()
    return 0


def report_published(report: Reporter, output: RunFolder, verdict: Verdict) -> int:
    """Report that the run was already published; returns its exit code."""
    accuracy = None
    with suppress(ValueError, OSError):  # the verdict stands even if the report has been damaged since
        accuracy = Candidate.of(read_json(output.model / "report.json") or {}).accuracy
    message = f"published before: {verdict.reason}"
    report("published", accuracy=accuracy, code=verdict.code, reason=verdict.verdict, message=message)
    return verdict.code


if __name__ == "__main__":
    run_child(precheck)
