"""Several runs on one volume: promotion, comparison, pruning, and runs on other data."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from job.config import Config
from job.dataset.prepare import prepare_dataset
from k8s.commands.data import DATA_CLAIM
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.state.names import data_claim_of
from k8s.view.output import note
from tests.cluster.namespace import ROOT, wait_until
from tests.fixtures import write_idx

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.namespace import Namespace

SHORT = ("--epochs=1", "--evaluate-every=0")
PARTS = (("train", 6000), ("test", 1000))  # of MNIST's examples, which make another dataset


def json_of(namespace: Namespace, command: str, *arguments: str) -> Any:
    """The JSON that a command prints."""
    output = namespace.launcher(command, *arguments, "--output=json")
    return json.loads(next(line for line in output.splitlines() if line.startswith("{")))


def test_retraining(shared: Namespace, tmp_path: Path) -> None:
    """A worse model is rejected, with its classes, and can be promoted by hand; old runs are pruned with their Jobs."""
    shared.submit("first", *SHORT, workers=1)
    shared.wait_until_published("first")
    shared.submit("second", *SHORT, "--learning-rate=0.0001", "--schedule=constant", workers=1)
    shared.wait_until_failed("second")
    figures = r"accuracy 0\.\d{4} is worse than that of the current latest, first: 0\.\d{4} \(95% interval 0\.\d{4} to "
    [run] = [run for run in json_of(shared, "status")["runs"] if run["name"] == "second"]
    assert (run["state"], run["code"]) == ("rejected", 69)
    assert re.match(figures, run["detail"])
    output = " ".join(shared.launcher("status", "second").split())
    assert re.search(f"second: rejected: {figures}", output)
    why = shared.why("second")
    assert re.search(rf"worker 0 exited with 69 \(rejected\): {figures}", why)
    assert "; the new model is worse beyond chance for class " in why
    time = json_of(shared, "status", "first")["time"]
    assert {"queued", "pulling", "importing", "compiling", "training", "evaluating", "publishing"} <= time[
        "spent_s"
    ].keys()
    assert 0 < time["goodput"] < 1
    assert time["core_seconds"] > 0

    page = tmp_path / "runs.html"
    output = shared.launcher("compare", f"--html={page}")
    assert "first <- latest" in output
    assert "second is worse" in output
    assert re.search(f"second, the newest, was rejected: {figures}", output)
    assert "first is latest" in page.read_text(encoding="utf-8")

    assert json_of(shared, "promote", "second") == {"name": "second", "before": "first", "claim": "output"}
    assert json_of(shared, "fetch", "latest", str(tmp_path))["name"] == "second"
    assert (tmp_path / "second/saved_model/1/saved_model.pb").is_file()

    # It started before the third run, and its files are old: only its Job protects it from pruning.
    shared.submit("suspended", "--epochs=2000", "--evaluate-every=0", workers=1)
    shared.wait_for_step("suspended", 1000)
    shared.launcher("suspend", "suspended")
    wait_until(lambda: not shared.pods("suspended"), "the end of its pod")
    shared.kubectl("exec", shared.reader(), "--", "sh", "-c", "cd /output/runs/suspended && touch -d @0 . *")
    shared.submit("third", *SHORT, workers=1)
    shared.wait_until_published("third")
    assert json_of(shared, "promote", "second")["before"] == "third"
    shared.launcher("prune", "--keep=1", code=64)  # without a terminal, there is nobody to confirm
    planned = json_of(shared, "prune", "--keep=1", "--dry-run")
    assert [one["name"] for one in planned["prune"]] == planned["jobs"] == ["first"]
    assert {name: why for name, why in planned["kept"].items() if why} == {
        "second": "`latest` points to it",
        "suspended": "its Job is suspended",
    }
    pruned = json_of(shared, "prune", "--keep=1", "--yes")
    assert (pruned["pruned"], pruned["jobs"]) == (["first"], ["first"])
    assert shared.cluster.get("Job", "first") is None
    # Promoted were first, second (by hand), third and second (by hand); the newest three versions are served.
    remaining = {"models": ["second", "third"], "runs": ["second", "suspended", "third"], "serving": ["2", "3", "4"]}
    for kind, names in remaining.items():
        listed = shared.kubectl("exec", shared.reader(), "--", "ls", f"/output/{kind}")
        assert listed.split() == names
    shared.launcher("resume", "suspended")
    assert (shared.wait_for_step("suspended", 1).step or 0) > 1000  # it continues, and does not start again
    shared.launcher("cancel", "suspended")


def test_data_on_a_volume(shared: Namespace, tmp_path: Path) -> None:
    """A run uses a dataset that `data put` copied to a claim; tested on other data, its model is not promoted."""
    shared.submit("first", *SHORT, workers=1)
    decoded = {path.stem: np.load(path) for path in (ROOT / "data/mnist/decoded").glob("*.npy")}
    parts = {
        f"{split}_{what}": decoded[f"{split}-{what}"][:count] for split, count in PARTS for what in ("images", "labels")
    }
    write_idx(tmp_path / "raw", **parts)
    prepare_dataset(Config(data=tmp_path / "data"), tmp_path / "raw", note)
    [claim] = kustomize(MANIFESTS / "data")
    claim["spec"] |= {"storageClassName": shared.storage_class, "accessModes": [shared.access_mode]}
    shared.cluster.create(claim)
    words = ("data", "put", str(tmp_path / "data/mnist"), f"--claim={DATA_CLAIM}")
    output = shared.launcher(*words)
    assert f"mnist is on the claim {DATA_CLAIM}, verified: " in output
    assert json_of(shared, *words)["copied"] == 0
    output = shared.launcher("data", "put", str(ROOT / "data/mnist"), f"--claim={DATA_CLAIM}", code=1)
    assert f"the claim {DATA_CLAIM} already holds another dataset mnist" in output
    shared.wait_until_published("first")

    output = shared.launcher("preflight", *shared.submission("second", flags=["--data=nowhere"]), code=2)
    assert "failed      data: the claim nowhere does not exist; create it, or choose another one with --data" in output
    shared.submit("second", *SHORT, workers=2, flags=[f"--data={DATA_CLAIM}"])
    shared.wait_until_published("second")
    kept = "kept because the current latest, first, was tested on other data"
    [run] = [run for run in json_of(shared, "status")["runs"] if run["name"] == "second"]
    assert (run["state"], run["detail"]) == ("published", kept)
    assert f"`latest` was not changed: {kept}" in shared.why("second")
    output = shared.launcher("compare")
    assert "Tested on other data than first (latest), so not comparable: second" in output
    assert "second, the newest, was kept: the current latest, first, was tested on other data" in output

    output = shared.launcher("retry", "second", "--workers=1", "--wait")
    assert "second is published" in output
    assert data_claim_of(shared.job("second")["spec"]["template"]) == DATA_CLAIM
