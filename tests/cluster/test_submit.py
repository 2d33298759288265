"""Runs as users start them: by make, by kubectl alone, on one node or on several, side by side, under an operator."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load

from job.cluster import SUPERVISOR_PORT, TENSORFLOW_PORT
from job.config import Config
from job.dataset.prepare import prepare_dataset
from k8s.render.kustomize import MANIFESTS
from k8s.render.render import setup
from k8s.state.names import CLAIM, trainer_of
from tests.cluster.lab import ROOT, until

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object
    from tests.cluster.lab import Lab

TRAINING = ("--epochs=2", "--evaluate-every=0")
LAST = "checkpoints/1200.safetensors"


def test_make_submit(shared: Lab, tmp_path: Path) -> None:
    """Two workers on two nodes train what two workers here train, within float tolerance; the run is followed."""
    flags = [f"--namespace={shared.namespace}", "--name=run", f"--claim={shared.output_claim}"]
    arguments = " ".join([*flags, "--", *TRAINING])
    command = ["make", "submit", f"IMAGE={shared.image}", "WORKERS=2", f"ARGS={arguments}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("submitted run with 2 workers", "phase=waiting", "phase=training", "run is published: accuracy 0.9"):
        assert told in done.stdout, done.stdout
    if len(shared.nodes()) > 1:
        assert len({pod["spec"]["nodeName"] for pod in shared.pods("run")}) == 2
    there = load(shared.read(f"runs/run/{LAST}"))

    settings = Config(data=ROOT / "data" if (ROOT / "data" / "mnist").is_dir() else tmp_path / "data")
    prepare_dataset(settings, None, lambda _: None)
    here = ["--workers=2", f"--data={settings.data}", f"--output={tmp_path}", "--name=run", *TRAINING]
    subprocess.run([".venv/bin/python", "-m", "job", "train", *here], cwd=ROOT, check=True, capture_output=True)
    expected = load((tmp_path / "runs" / "run" / LAST).read_bytes())
    assert sorted(there) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(there[name], array, rtol=0, atol=1e-5)


def test_kubectl_alone(lab: Lab, tmp_path: Path) -> None:
    """`kubectl apply -k` of the setup and of an overlay, without the launcher."""
    lab.claim(CLAIM, "ReadWriteOnce", os.environ.get("RWO_CLASS"), storage="5Gi")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    base = os.path.relpath(MANIFESTS / "overlays" / "local", overlay.resolve())
    name, _, tag = lab.image.rpartition(":")
    images = [{"name": "mnist-job", "newName": name, "newTag": tag}]
    (overlay / "kustomization.yaml").write_text(json.dumps({"resources": [base], "images": images}), encoding="utf-8")
    lab.kubectl("apply", "-k", str(MANIFESTS / "setup"))
    lab.kubectl("apply", "-k", str(overlay))
    lab.until_published("mnist")
    assert len({pod["spec"]["nodeName"] for pod in lab.pods("mnist")}) == 1
    assert lab.result("mnist")["test"]["accuracy"] >= 0.925


def test_read_write_once_with_four_workers(lab: Lab) -> None:
    """A ReadWriteOnce claim brings all of four workers to one node by itself."""
    lab.claim("output", "ReadWriteOnce", os.environ.get("RWO_CLASS"))
    lab.submit("run", *TRAINING, workers=4, flags=["--cpu=300m"])
    lab.until_published("run")
    job = lab.job("run")
    assert "podAffinity" in job["spec"]["template"]["spec"]["affinity"]
    assert {pod["spec"]["nodeName"] for pod in lab.pods("run")} == {lab.pods("run", 0)[0]["spec"]["nodeName"]}


def test_two_runs_at_once(shared: Lab) -> None:
    """Two runs on one claim both publish; `latest` is one of them. A third of one's name is refused."""
    shared.submit("one", *TRAINING, workers=1)
    shared.submit("two", *TRAINING, workers=1)
    said = shared.launcher("submit", *shared.submission("one", *TRAINING), code=2)
    remedy = f"give another --name, or run `mnist-job retry one -n {shared.namespace}`"
    assert f"failed      name: a Job named one exists already; {remedy}" in said
    for run in ("one", "two"):
        shared.until_published(run)
    found = shared.kubectl("exec", shared.reader(), "--", "sh", "-c", "cd /output && ls models && readlink latest")
    assert found.split()[:2] == ["one", "two"]
    assert found.split()[2] in ("models/one", "models/two")
    assert shared.result("one") == shared.result("two")


def test_an_operator_sets_tf_config(shared: Lab) -> None:
    """Plain pods with a TF_CONFIG, as an operator makes them, train a run together."""
    for new in setup():
        if new["kind"] in ("Service", "ServiceAccount"):
            shared.cluster.create(new)
    hosts = [f"plain-{rank}.mnist-job:{TENSORFLOW_PORT}" for rank in range(2)]
    for rank in range(2):
        task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": rank}}
        shared.cluster.create(plain_pod(shared, rank, json.dumps(task)))

    def succeeded() -> bool:
        pods = [shared.cluster.get("Pod", f"plain-{rank}") for rank in range(2)]
        assert all(pod and pod["status"]["phase"] != "Failed" for pod in pods), pods
        return all(pod and pod["status"]["phase"] == "Succeeded" for pod in pods)

    until(succeeded, "the end of both pods")
    assert shared.result("plain")["test"]["accuracy"] > 0.9


def plain_pod(lab: Lab, rank: int, tf_config: str) -> Object:
    """A worker's pod that no Job makes."""
    template = lab.render("plain", *TRAINING, workers=2)["spec"]["template"]
    trainer = trainer_of(template)
    trainer["env"] = [{"name": "RUN", "value": "plain"}, {"name": "TF_CONFIG", "value": tf_config}]
    assert {port["containerPort"] for port in trainer["ports"]} == {TENSORFLOW_PORT, SUPERVISOR_PORT}
    metadata = {"name": f"plain-{rank}", "labels": template["metadata"]["labels"]}
    spec = {**template["spec"], "hostname": f"plain-{rank}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
