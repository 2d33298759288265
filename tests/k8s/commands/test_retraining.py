"""promote, compare and prune: the job's own commands in the volume pod, and what the cluster's Jobs add to them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import k8s.__main__ as entry
from k8s.state.names import CANCELLED
from k8s.volume import pod as volume_pod
from tests.job import report_samples as samples
from tests.k8s.fakes import FakeCluster, VolumeCluster
from tests.k8s.fakes import volume_job as job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def publish(root: Path, name: str, day: int, wrong: int = 100) -> None:
    """A published run that started on a day."""
    right = np.arange(1000) >= wrong
    samples.publish(root, name, right, started=f"2026-11-{day:02}T06:00:00+00:00")
    started = {"started": f"2026-11-{day:02}T06:00:00+00:00"}
    (root / "runs" / name / "config.json").write_text(json.dumps(started))
    (root / "models" / name / "saved_model" / "1").mkdir(parents=True)


def begin(root: Path, name: str, day: int) -> None:
    """A run that started on a day, published nothing, and has not been written to since."""
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"started": f"2026-11-{day:02}T06:00:00+00:00"}))
    os.utime(folder, (0, 0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three models, the first of them latest."""
    for day, name in enumerate(["first", "second", "third"], 1):
        publish(tmp_path, name, day, 100 + 50 * day)
    (tmp_path / "latest").symlink_to("models/first")
    return tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command of the launcher on a cluster; returns its exit status, output and errors."""
    monkeypatch.setattr(volume_pod, "RETRY_S", 0.0)

    def run(cluster: FakeCluster, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("k8s.api.kubeconfig.connect", lambda *_, **__: cluster.given())
        status = entry.main(words)
        assert not [name for kind, name in cluster.objects if kind == "Pod"]
        return (status, *capsys.readouterr())

    return run


def test_promote(root: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    """It moves latest, forwards and back, and says what it was before, even if the connection breaks."""
    cluster = VolumeCluster(root, job("second", "Complete"))
    assert command(cluster, "promote", "second") == (0, "latest is second; it was first\n", "")
    assert (root / "latest").readlink() == Path("models/second")
    cluster.breaks = ["promote"]
    status, out, _ = command(cluster, "promote", "first", "--output=json")
    assert (status, json.loads(out)) == (0, {"name": "first", "before": "second", "claim": "output"})
    assert (root / "latest").readlink() == Path("models/first")
    said = "error: run 'gone' is not published in /output; published are first, second, third\n"
    assert command(cluster, "promote", "gone") == (64, "", said)
    wrong = (
        "error: NAME must be lower-case letters, digits and hyphens, with a letter or digit at both ends, not '../x'\n"
    )
    assert command(cluster, "promote", "../x") == (64, "", wrong)


def test_compare(root: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    """It prints the job's table or JSON and saves the page; a damaged run is named after the others are printed."""
    cluster = VolumeCluster(root, job("first", "Complete"))
    page = tmp_path / "page here.html"
    status, out, err = command(cluster, "compare", f"--html={page}")
    assert (status, err) == (0, f"the comparison is in {page}\n")
    assert "first <- latest  2026-11-01 06:00    85.00%" in out
    assert "third is worse" in out
    assert "Accuracy over time" in page.read_text(encoding="utf-8")
    (root / "models/second/report.json").unlink()
    page.unlink()
    status, out, err = command(cluster, "compare", f"--html={page}", "--output=json")
    assert (status, [one["name"] for one in json.loads(out)["runs"]]) == (1, ["third", "first"])
    assert err.splitlines()[-1] == "error: the published run second is damaged: report.json is missing"
    assert page.is_file()
    nowhere = tmp_path / "nowhere"
    said = f"error: --html {nowhere}/x.html cannot be written: there is no folder {nowhere}\n"
    assert command(cluster, "compare", f"--html={nowhere}/x.html") == (64, "", said)


@pytest.mark.parametrize("age", [[], ["--older-than=1h"]])
def test_prune(root: Path, command: Callable[..., tuple[int, str, str]], age: list[str]) -> None:
    """Ended and cancelled runs go with their Jobs, and so do old Jobs without files; runs that may continue are kept.

    An age does not change that, although the volume alone would then let a suspended run go.
    """
    stopped = {CANCELLED: "2026-11-01T00:00:00Z"}
    for name in ("cancelled", "suspended", "running", "queued", "retried"):
        begin(root, name, 1)
    cluster = VolumeCluster(
        root,
        job("first", "Complete"),
        job("second", "SuccessCriteriaMet", day=2),
        job("third", "Complete", day=3),
        job("cancelled", suspend=True, annotations=stopped),
        job("suspended", suspend=True),
        job("queued", suspend=True, queue="night"),
        job("running"),
        job("retried", "Failed", day=9),
        job("imageless", "Failed", day=1),
        job("new", "Failed", day=4),
        job("elsewhere", "Failed", claim="another"),
        {"kind": "Job", "metadata": {"name": "foreign", "uid": "f", "labels": {}}},
    )
    before = dict(cluster.objects)
    asked = (
        "error: prune asks before it removes anything, and standard input is not a terminal; "
        "--dry-run shows what would be pruned, --yes prunes it\n"
    )
    assert command(cluster, "prune", "--keep=1") == (64, "", asked)
    said = """
'first' is kept: `latest` points to it
'queued' is kept: its Job is queued
'retried' is kept: its Job was created recently
'running' is kept: its Job has not ended
'suspended' is kept: its Job is suspended
to prune, 2 runs, which frees 0.0 MB:
  cancelled  2026-11-01 06:00 UTC       0.0 MB  unpublished
  second     2026-11-02 06:00 UTC       0.0 MB  model and run
Jobs to delete, 3: cancelled, second, imageless
"""
    status, out, _ = command(cluster, "prune", "--keep=1", "--dry-run", *age)
    assert (status, out) == (0, said.lstrip())
    assert cluster.objects == before
    cluster.breaks = ["--yes"]
    status, out, _ = command(cluster, "prune", "--keep=1", "--yes", "--output=json", *age)
    told = json.loads(out)
    assert (told["pruned"], told["jobs"], told["claim"]) == (
        ["cancelled", "second"],
        ["cancelled", "second", "imageless"],
        "output",
    )
    assert {name for kind, name in before.keys() - cluster.objects.keys()} == {"cancelled", "second", "imageless"}
    assert sorted(path.name for path in (root / "models").iterdir()) == ["first", "third"]
    left = ["first", "queued", "retried", "running", "suspended", "third"]
    assert sorted(path.name for path in (root / "runs").iterdir()) == left


@pytest.mark.parametrize("whole_steps", range(4))
def test_prune_that_is_killed(whole_steps: int, root: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    """Wherever a prune is killed, the next one removes the rest of each run: its model, its folder and its Job."""
    begin(root, "cancelled", 1)
    stopped = job("cancelled", suspend=True, annotations={CANCELLED: "2026-11-01T00:00:00Z"})
    cluster = VolumeCluster(root, job("second", "Complete", day=2), job("third", "Complete", day=3), stopped)
    (root / "latest").unlink()
    (root / "latest").symlink_to("models/third")
    # Two Jobs and one command; after the last there is nothing left to be killed in.
    left = iter(range(whole_steps))
    delete, runs = cluster.delete, cluster.run

    def step() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    def delete_job(kind: str, name: str, **how: Any) -> None:
        if kind == "Job":
            step()
        delete(kind, name, **how)

    def run(words: Sequence[str], write: Callable[[bytes], Any]) -> tuple[int, str]:
        if "--yes" in words:
            step()
        return runs(words, write)

    cluster.delete, cluster.command = delete_job, run  # type: ignore[method-assign]
    assert command(cluster, "prune", "--keep=1", "--yes")[0] == (130 if whole_steps < 3 else 0)
    cluster.delete, cluster.command = delete, runs  # type: ignore[method-assign]
    assert command(cluster, "prune", "--keep=1", "--yes")[0] == 0
    assert [name for kind, name in cluster.objects if kind == "Job"] == ["third"]
    assert sorted(path.name for kind in ("runs", "models") for path in (root / kind).iterdir()) == ["third", "third"]


def test_prune_after_a_killed_one(root: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    """What a killed prune left behind is deleted even if no run is pruned."""
    cluster = VolumeCluster(root, job("first", "Complete"))
    (root / ".pruned/old.x1").mkdir(parents=True)
    (root / ".pruned/old.x1/file").write_bytes(bytes(10))
    told = "0.0 MB that an interrupted prune left behind will be deleted\nthere is nothing to prune\n"
    before = sorted((root / "models").iterdir())
    assert command(cluster, "prune", "--keep=3", "--yes") == (0, told, "the volume is that of the claim output\n")
    assert [path.name for path in (root / ".pruned").iterdir()] == ["lock"]
    assert sorted((root / "models").iterdir()) == before


def test_run_that_is_resumed_during_the_question(
    root: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that may no longer be pruned after the question is kept."""
    cluster = VolumeCluster(root, job("second", "Complete"), job("third", "Complete", day=3))

    def resubmitted() -> bool:
        cluster.objects["Job", "second"] = job("second", day=2)
        return True

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("k8s.commands.prune.confirmed", resubmitted)
    assert command(cluster, "prune", "--keep=1")[1].splitlines()[-1] == "pruned 0 runs and 0 Jobs"
    assert (root / "models/second").is_dir()
    assert ("Job", "second") in cluster.objects


def test_prune_without_permission(root: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    """A user who may not delete Jobs is refused before anything is done, but may see the plan."""
    cluster = VolumeCluster(root, job("first", "Complete"))
    cluster.forbidden = {("delete", "Job", "")}
    said = (
        "error: this user may not delete Job in namespace here; bind the role mnist-job-runner of k8s/manifests/rbac\n"
    )
    assert command(cluster, "prune", "--keep=1", "--yes") == (2, "", said)
    assert command(cluster, "prune", "--keep=1", "--dry-run")[0] == 0
