"""A model is copied to this machine whole, or not at all."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from k8s.volume.template import VOLUME_PODS
from tests.cluster.access import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.lab import Lab

CUT_AFTER = 100_000  # bytes: in the middle of the largest file


def test_fetch_by_a_connection_that_breaks(shared: Lab, tmp_path: Path) -> None:
    """The connection breaks in the middle of a file: all files arrive, are verified, and are not copied twice."""
    shared.submit("run", "--epochs=1", workers=1)
    shared.until_published("run")
    here = tmp_path / "here" / "run"
    with Proxy(tmp_path / "kubeconfig", CUT_AFTER) as proxy:
        said = shared.launcher("fetch", "run", str(here.parent), kubeconfig=proxy.kubeconfig)
        assert proxy.cuts == 1
    assert f"run is in {here}: " in said
    there = shared.kubectl("exec", shared.reader(), "--", "sh", "-c", "cd /output/models/run && find . -type f")
    assert sorted(there.split()) == sorted(f"./{path.relative_to(here)}" for path in here.rglob("*") if path.is_file())
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=here, check=True, capture_output=True)

    (here / "report.html").write_text("damaged", encoding="utf-8")
    said = shared.launcher("fetch", "latest", str(here.parent), "--output=json")
    found = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    assert (found["name"], found["folder"], found["fetched"]) == ("run", str(here), 1)
    assert (here / "report.html").read_bytes() == shared.read("models/run/report.html")
    assert [pod for pod in shared.cluster.select("Pod", VOLUME_PODS) if pod["metadata"]["name"] != "reader"] == []
