"""data put: a dataset comes to the claim whole and verified, or not at all."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

import k8s.__main__ as entry
from job.dataset.rows import load_dataset
from k8s.api.errors import ApiError
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.volume import pod as volume_pod
from k8s.volume import upload
from k8s.volume.pod import VolumePod
from tests.k8s.fakes import VolumeCluster, volume_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from k8s.api.objects import Object
    from tests.conftest import Mount

    Put = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cluster(tmp_path: Path) -> VolumeCluster:
    """A cluster with an empty volume and a run."""
    return VolumeCluster(tmp_path / "claim", volume_job("digits"))


@pytest.fixture
def put(cluster: VolumeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Put:
    """Runs `data put` with the words given; returns its exit status, output and errors."""
    monkeypatch.setattr(volume_pod, "RETRY_S", 0.0)
    monkeypatch.setattr("k8s.api.kubeconfig.connect", lambda *_, **__: cluster.given())

    def run(*words: str | Path) -> tuple[int, str, str]:
        status = entry.main(["data", "put", *map(str, words)])
        assert not [name for kind, name in cluster.objects if kind == "Pod"]
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A prepared dataset that a test may change."""
    return shutil.copytree(prepared / "mnist", tmp_path / "here")


def content(folder: Path) -> dict[str, bytes]:
    """The files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_whole(cluster: VolumeCluster, put: Put, folder: Path) -> None:
    """The dataset is on the claim afterwards, and nothing else; a second time nothing is copied."""
    for left in (".mnist.incoming-one/mnist", ".mnist.incoming-two"):
        (cluster.root / left).mkdir(parents=True)
        (cluster.root / left / "stale").touch()
    status, out, err = put(folder, "--claim=output")
    assert (status, err) == (0, "")
    assert re.fullmatch(
        r"mnist is on the claim output, verified: \d+ files, \d\.\d MB, copied now\n"
        r"  mnist-job submit -n here --data output\n",
        out,
    )
    assert content(cluster.root) == {f"mnist/{path}": data for path, data in content(folder).items()}
    load_dataset(cluster.root, "mnist")
    cluster.commands.clear()
    status, out, _ = put(folder, "--claim=output", "--output=json")
    told = json.loads(out)
    assert (status, told["dataset"], told["claim"], told["copied"]) == (0, "mnist", "output", 0)
    assert told["files"] == len(content(folder))
    assert not [command for command in cluster.commands if command.startswith("sh ")]


@pytest.mark.parametrize("seed", range(2))
def test_broken_connections(seed: int, put: Put, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the connection breaks, the dataset is whole."""
    broken = VolumeCluster(tmp_path / "claim", volume_job("digits"), seed=seed)
    monkeypatch.setattr("k8s.api.kubeconfig.connect", lambda *_, **__: broken.given())
    assert put(folder, "--claim=output")[0] == 0
    assert broken.cuts > 0
    assert content(broken.root / "mnist") == content(folder)


def test_another_copy_at_the_same_time(
    cluster: VolumeCluster, put: Put, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that begins while another one is in progress takes its files away; the dataset is whole."""
    upload_file = upload._upload_file
    copied: list[Path] = []

    def upload_late(pod: VolumePod, path: Path, *rest: Any) -> None:
        upload_file(pod, path, *rest)
        copied.append(path)
        if len(copied) != 2:
            return
        cluster.objects["Pod", "other"] = {"metadata": {"name": "other"}}
        other = VolumePod(cluster.given(), "other", "output")
        upload.upload(other, folder, "mnist", lambda _: nullcontext(lambda _: None))
        del cluster.objects["Pod", "other"]

    monkeypatch.setattr(upload, "_upload_file", upload_late)
    assert put(folder, "--claim=output") == (
        1,
        "",
        (
            "error: another `data put` has removed what this one had copied to the claim output; "
            "wait until that one has ended, and run this command again\n"
        ),
    )
    assert content(cluster.root) == {f"mnist/{path}": data for path, data in content(folder).items()}


def test_damaged_here(cluster: VolumeCluster, put: Put, folder: Path) -> None:
    """A dataset that is not what its fingerprint says does not get its name on the claim."""
    fingerprint = json.loads((folder / "fingerprint.json").read_text())
    fingerprint["train"]["sha256"] = "0" * 64
    (folder / "fingerprint.json").write_text(json.dumps(fingerprint))
    status, out, err = put(folder, "--claim=output")
    assert (status, out) == (1, "")
    assert re.fullmatch(
        r"error: the dataset on the claim output was not verified: .*mnist.*; "
        r"verify the local dataset with `python -m job data`, and copy it to another claim\n",
        err,
    )
    assert content(cluster.root) == {}


def test_another_dataset_is_there(cluster: VolumeCluster, put: Put, folder: Path) -> None:
    """A dataset on a claim is never changed."""
    (cluster.root / "mnist").mkdir()
    (cluster.root / "mnist/fingerprint.json").write_text("{}")
    assert put(folder, "--claim=output") == (
        1,
        "",
        (
            "error: the claim output already holds another dataset mnist, and a dataset is never changed; "
            "choose another claim with --claim\n"
        ),
    )
    assert content(cluster.root) == {"mnist/fingerprint.json": b"{}"}


def test_full_volume(put: Put, folder: Path, volume: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the volume is full, its own word is passed on, and the next attempt removes what this one left."""
    full = VolumeCluster(volume("size=100k"), volume_job("digits"))
    monkeypatch.setattr("k8s.api.kubeconfig.connect", lambda *_, **__: full.given())
    status, out, err = put(folder, "--claim=output")
    assert (status, out) == (1, "")
    remedy = "free space on it, or choose another claim with --claim"
    assert re.fullmatch(rf"error: the claim output cannot be written: .*No space left on device; {remedy}\n", err)
    assert not (full.root / "mnist").exists()
    volume("size=100m")
    assert put(folder, "--claim=output")[0] == 0
    assert content(full.root) == {f"mnist/{path}": data for path, data in content(folder).items()}


@pytest.mark.parametrize("fingerprint", [None, "{", "[]", '{"dataset": "../x"}'])
def test_folder_without_a_dataset(put: Put, tmp_path: Path, fingerprint: str | None) -> None:
    """A folder without a valid fingerprint is a usage error before any cluster is asked."""
    if fingerprint:
        (tmp_path / "fingerprint.json").write_text(fingerprint)
    hint = "prepare one with `python -m job data`, and give the folder that this prints, such as data/mnist"
    said = f"error: FOLDER {tmp_path} is not a prepared dataset: it has no valid fingerprint.json; {hint}\n"
    assert put(tmp_path) == (64, "", said)


MAY_NOT = "User u cannot create resource claims"


def refusing(cluster: VolumeCluster, kind: str, said: str, *, dry_run: bool | None = None) -> Callable[..., Object]:
    """The create() of a cluster that refuses objects of a kind: all, or only in dry runs, or only otherwise."""
    create = cluster.create

    def create_or_not(new: Object, **options: bool) -> Object:
        if new["kind"] == kind and dry_run in (None, bool(options.get("dry_run"))):
            raise ApiError(403, "Forbidden", said, "create it")
        return create(new, **options)

    return create_or_not


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_refused_copy_leaves_no_claim(
    *, dry_run: bool, cluster: VolumeCluster, put: Put, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the pod is refused, before or when it is created, the new claim is not left behind."""
    before = dict(cluster.objects)
    monkeypatch.setattr(cluster, "create", refusing(cluster, "Pod", "no pods today", dry_run=dry_run))
    status, out, err = put(folder)
    assert (status, out) == (2, "")
    remedy = "change what the message names, or ask the cluster's administrator"
    assert err == f"error: the API server refuses the volume pod: no pods today; {remedy}\n"
    assert cluster.objects == before
    changes = [(verb, kind) for verb, kind, _ in cluster.asked if verb != "dry-run"]
    assert dry_run is (("create", "PersistentVolumeClaim") not in changes)


def test_a_claim_whose_dry_run_was_accepted(
    cluster: VolumeCluster, put: Put, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the claim is refused when it is created, it is the claim that is named, with a remedy for it."""
    said = "exceeded quota: few, requested: requests.storage=1Gi, used: requests.storage=0, limited: requests.storage=0"
    monkeypatch.setattr(cluster, "create", refusing(cluster, "PersistentVolumeClaim", said, dry_run=False))
    status, _, err = put(folder)
    remedy = "ask an administrator to raise the quota few, or create a claim that is allowed and pass it with --claim"
    assert (status, err) == (2, f"error: the API server refuses the claim mnist-job-data: {said}; {remedy}\n")


def test_a_copy_that_cannot_start_creates_no_claim(cluster: VolumeCluster, put: Put, folder: Path) -> None:
    """Without an image, or a permission on the volume pod, nothing is created."""
    cluster.forbidden = {("create", "Pod", "exec")}
    assert put(folder)[0] == 2
    cluster.forbidden = set()
    del cluster.objects["Job", "digits"]
    status, _, err = put(folder)
    assert (status, "give the image with --image" in err) == (64, True)
    assert [asked for asked in cluster.asked if asked[0] == "create"] == []


def test_before_the_first_run(cluster: VolumeCluster, put: Put, folder: Path) -> None:
    """In a namespace without the setup, the pod runs as the namespace's default service account."""
    del cluster.objects["Job", "digits"]
    assert put(folder, "--claim=output", "--image=mine:1")[0] == 0
    [pod] = [new for verb, kind, new in cluster.asked if (verb, kind) == ("create", "Pod")]
    assert "serviceAccountName" not in pod["spec"]


def test_claim_is_created(cluster: VolumeCluster, put: Put, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that does not exist is created as the manifest says; a user without permission gets a remedy."""
    assert put(folder)[2] == (
        "created the claim mnist-job-data: 1Gi, ReadWriteOnce; "
        "workers on several nodes need a ReadWriteMany claim instead\n"
    )
    [manifest] = kustomize(MANIFESTS / "data")
    assert ("create", "PersistentVolumeClaim", manifest) in cluster.asked

    monkeypatch.setattr(cluster, "create", refusing(cluster, "PersistentVolumeClaim", MAY_NOT))
    assert put(folder, "--claim=other") == (
        2,
        "",
        (
            "error: the claim other cannot be created: User u cannot create resource claims; "
            "ask an administrator for a claim, and pass it with --claim\n"
        ),
    )
