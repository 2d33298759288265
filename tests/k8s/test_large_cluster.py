"""Commands beside many nodes and pods, on the server that the benchmark plays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.large_cluster import RUN, WORKERS, LargeCluster
from k8s.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NODES, PODS = 3, 1100  # more pods than a page has


def test_commands_in_a_large_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Preflight sums up every page of pods; status and why show the run without the other pods' events and nodes."""
    with LargeCluster(NODES, PODS, tmp_path) as cluster:
        flag = f"--kubeconfig={cluster.kubeconfig}"
        assert main(["preflight", flag, "--name=other", "--output=json"]) == 0
        checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
        assert checks["nodes"]["state"] == "ok"
        before = cluster.sent
        assert main(["status", flag, RUN, "--output=json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["state"], len(found["ranks"]), len(found["events"])) == ("training", WORKERS, WORKERS)
        assert main(["why", flag, RUN]) == 0
        assert "nothing is wrong: training" in capsys.readouterr().out
        assert cluster.sent - before < 500_000
