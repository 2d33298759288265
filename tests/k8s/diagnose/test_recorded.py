"""What `why` prints about runs as a Kubernetes 1.35 showed them: recorded/NAME.json, and NAME.txt beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from job.telemetry import Record
from k8s.diagnose.catalogue import PROBLEMS
from k8s.diagnose.explain import explain_run
from k8s.diagnose.queueing import kueue_says, stopped
from k8s.state.run import Run, state

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
# Reasons without an entry in the catalogue: their sentence says everything.
UNLISTED = {"published", "running"}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_run_is_explained(path: Path) -> None:
    """Its state, the first cause in a whole sentence, the meaning of an exit code, and the remedy."""
    saved = json.loads(path.read_text())
    record = Record(**saved["record"]) if "record" in saved else None
    pods, events, down = (tuple(saved.get(name, ())) for name in ("pods", "events", "down"))
    run = Run(saved["job"], pods, events, record, saved.get("claim"), down, flags="-n team")
    if workloads := saved.get("workloads"):
        run = dataclasses.replace(run, kueue=kueue_says(workloads), evicted=stopped(workloads))
    assert f"{run.name}: {state(run)}\n{explain_run(run)}\n" == path.with_suffix(".txt").read_text()
    assert explain_run(run).reason in PROBLEMS.keys() | UNLISTED
