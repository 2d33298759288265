"""Users' own overlays with `kubectl apply -k`: names, labels and namespaces stay consistent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from k8s.checks.matching import selects
from k8s.commands.schedule import cron_job
from k8s.render import render
from k8s.render.attempt import next_job, record_submission
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.render.submission import Submission
from k8s.state.names import CLAIM_LABEL, PART_OF_LABEL, claim_of, trainer_of
from k8s.volume.template import base_template, volume_pod

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k8s.api.objects import Object

RUNS = ["cpu", "gpu", "local", "cronjob"]
TEAM = {"team": "a"}


def overlay(folder: Path, *resources: Path, **content: Any) -> Path:
    """A folder with a kustomization of these resources."""
    folder.mkdir()
    relative = [os.path.relpath(path, folder.resolve()) for path in resources]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"resources": relative, **content}))
    return folder


def run_of(name: str, folder: Path) -> Path:
    """An overlay of the manifests, or the schedule that `schedule --dry-run=client` prints."""
    if name != "cronjob":
        return MANIFESTS / "overlays" / name
    made = cron_job(render.job(Submission("nightly", overlay="local")), "@daily", "UTC")
    made_folder = overlay(folder / "schedule")
    (made_folder / "cronjob.yaml").write_text(yaml.safe_dump(made))
    (made_folder / "kustomization.yaml").write_text("resources: [cronjob.yaml]")
    return made_folder


def template_of(run: Object) -> Object:
    """The pods' template of a Job or a CronJob."""
    spec = run["spec"]["jobTemplate"]["spec"] if run["kind"] == "CronJob" else run["spec"]
    template: Object = spec["template"]
    return template


def assert_consistent(objects: Sequence[Object]) -> None:
    """The run's pods use the setup that comes with them, and are selected by it."""
    [volume_policy] = [found for found in objects if "-volume" in found["metadata"]["name"]]
    objects = [found for found in objects if found is not volume_policy]
    assert volume_policy["kind"] == "NetworkPolicy"
    assert selects(volume_policy["spec"]["podSelector"], volume_pod(base_template("a:1"), "v")["metadata"]["labels"])
    names = {found["kind"]: found["metadata"]["name"] for found in objects}
    assert len(names) == len(objects) == 5
    assert len({found["metadata"].get("namespace") for found in objects}) == 1
    by_kind = {found["kind"]: found for found in objects}
    template = template_of(by_kind.get("Job") or by_kind["CronJob"])
    spec, labels = template["spec"], template["metadata"]["labels"]
    assert spec["subdomain"] == names["Service"]
    assert render.variables(trainer_of(template))["SERVICE"]["value"] == names["Service"]
    assert claim_of(template) == names["PersistentVolumeClaim"] == labels[CLAIM_LABEL]
    assert spec["serviceAccountName"] == names["ServiceAccount"]
    assert by_kind["Service"]["spec"]["selector"].items() <= labels.items()
    policy = by_kind["NetworkPolicy"]["spec"]
    peers = [policy["podSelector"], policy["ingress"][0]["from"][0]["podSelector"]]
    peers += [policy["egress"][0]["to"][0]["podSelector"]]
    for selector in peers:
        assert selector["matchLabels"].items() <= labels.items()
    for term in (
        spec.get("affinity", {}).get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
    ):
        assert selects(term["labelSelector"], labels)
        assert labels.keys() >= {*term["matchLabelKeys"]}
    for constraint in spec["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"namePrefix": "team-"},
        {"nameSuffix": "-v2"},
        {"namePrefix": "team-", "nameSuffix": "-v2", "namespace": "work"},
        {"commonLabels": TEAM},
        {"namePrefix": "team-", "labels": [{"pairs": TEAM, "includeSelectors": True}]},
        {"labels": [{"pairs": TEAM, "includeSelectors": False}]},
        {"labels": [{"pairs": {PART_OF_LABEL: "shop"}, "includeTemplates": True}]},
        {"commonAnnotations": TEAM, "namespace": "work"},
    ],
    ids=lambda content: "+".join(content) or "plain",
)
def test_over_setup_and_run(tmp_path: Path, run: str, content: dict[str, Any]) -> None:
    """Whatever an overlay of the setup and a run changes, the run's pods use that setup."""
    made = overlay(tmp_path / "overlay", MANIFESTS / "setup", run_of(run, tmp_path), **content)
    assert_consistent(kustomize(made))


def test_an_overlay_of_an_overlay(tmp_path: Path) -> None:
    """A name that is changed twice is changed everywhere."""
    inner = overlay(tmp_path / "inner", MANIFESTS / "setup", MANIFESTS / "overlays/cpu", namePrefix="inner-")
    objects = kustomize(overlay(tmp_path / "outer", inner, namePrefix="outer-"))
    assert_consistent(objects)
    assert {found["metadata"]["name"].startswith("outer-inner-mnist") for found in objects} == {True}


def test_a_renamed_job_is_continued_with_its_new_names(tmp_path: Path) -> None:
    """`retry` uses the setup that an overlay renamed after `submit --dry-run=client` had printed the Job."""
    printed = tmp_path / "printed"
    overlay(printed)
    sent = record_submission(render.job(Submission("digits")))
    (printed / "job.yaml").write_text(yaml.safe_dump(sent))
    (printed / "kustomization.yaml").write_text("resources: [job.yaml]")
    objects = kustomize(overlay(tmp_path / "overlay", MANIFESTS / "setup", printed, namePrefix="team-"))
    [job] = [found for found in objects if found["kind"] == "Job"]
    assert_consistent(objects)
    new = next_job(job)
    assert new["spec"]["template"]["spec"] == {
        **job["spec"]["template"]["spec"],
        "containers": new["spec"]["template"]["spec"]["containers"],
    }
    assert new["spec"]["template"]["spec"]["subdomain"] == "team-mnist-job"


def test_two_overlays_side_by_side(tmp_path: Path) -> None:
    """Each of two runs has a setup of its own."""
    each = [
        overlay(tmp_path / name, MANIFESTS / "setup", MANIFESTS / "overlays/cpu", namePrefix=f"{name}-")
        for name in ("a", "b")
    ]
    objects = kustomize(overlay(tmp_path / "both", *each))
    for name in ("a", "b"):
        assert_consistent([found for found in objects if found["metadata"]["name"].startswith(f"{name}-")])


def test_the_dataset_of_an_overlay(tmp_path: Path) -> None:
    """A claim for the dataset that comes with the overlay is renamed where the run mounts it."""
    patch = [
        {
            "op": "add",
            "path": "/spec/template/spec/volumes/-",
            "value": {"name": "data", "persistentVolumeClaim": {"claimName": "mnist-job-data"}},
        }
    ]
    folders = [MANIFESTS / name for name in ("setup", "data", "overlays/cpu")]
    patches = [{"target": {"kind": "Job"}, "patch": yaml.safe_dump(patch)}]
    objects = kustomize(overlay(tmp_path / "overlay", *folders, namePrefix="team-", patches=patches))
    [job] = [found for found in objects if found["kind"] == "Job"]
    assert job["spec"]["template"]["spec"]["volumes"][-1]["persistentVolumeClaim"]["claimName"] == "team-mnist-job-data"
