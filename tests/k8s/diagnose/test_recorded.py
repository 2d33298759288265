"""What `why` prints of runs as a Kubernetes 1.35 showed them: recorded/NAME.json, and NAME.txt beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from job.telemetry import Record
from k8s.diagnose.catalogue import PROBLEMS
from k8s.diagnose.explain import explain_run
from k8s.state.run import Run, state

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
# Reasons that need no entry: what is told says it all.
ITS_OWN = {"published", "running", "unknown-code", "join-timeout"}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_run_is_explained(path: Path) -> None:
    """Its state, the first cause in a whole sentence, what an exit code means, and what to do."""
    found = json.loads(path.read_text())
    record = Record(**found["record"]) if "record" in found else None
    down = tuple(found.get("down", ()))
    run = Run(found["job"], tuple(found["pods"]), tuple(found["events"]), record, found.get("claim"), down)
    assert f"{run.name}: {state(run)}\n{explain_run(run)}\n" == path.with_suffix(".txt").read_text()
    assert explain_run(run).reason in PROBLEMS.keys() | ITS_OWN
