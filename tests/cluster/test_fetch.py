"""`fetch` copies a model to this machine completely, or not at all."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from k8s.volume.template import VOLUME_POD_SELECTOR
from tests.cluster.access import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.namespace import Namespace

CUT_AFTER = 100_000  # bytes, in the middle of the largest file


def test_fetch_by_a_connection_that_breaks(shared: Namespace, tmp_path: Path) -> None:
    """All files arrive although the connection breaks; a second fetch copies only a damaged file."""
    shared.submit("run", "--epochs=1", workers=1)
    shared.wait_until_published("run")
    here = tmp_path / "here" / "run"
    with Proxy(tmp_path / "kubeconfig", CUT_AFTER) as proxy:
        output = shared.launcher("fetch", "run", str(here.parent), kubeconfig=proxy.kubeconfig)
        assert proxy.cuts == 1
    assert f"run is in {here}: " in output
    files = shared.kubectl("exec", shared.reader(), "--", "sh", "-c", "cd /output/models/run && find . -type f")
    assert sorted(files.split()) == sorted(f"./{path.relative_to(here)}" for path in here.rglob("*") if path.is_file())
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=here, check=True, capture_output=True)

    (here / "report.html").write_text("damaged", encoding="utf-8")
    output = shared.launcher("fetch", "latest", str(here.parent), "--output=json")
    fetched = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    assert (fetched["name"], fetched["folder"], fetched["fetched"]) == ("run", str(here), 1)
    assert (here / "report.html").read_bytes() == shared.read("models/run/report.html")
    assert [
        pod for pod in shared.cluster.select("Pod", VOLUME_POD_SELECTOR) if pod["metadata"]["name"] != "reader"
    ] == []
