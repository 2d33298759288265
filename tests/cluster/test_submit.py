"""Runs as users start them: with make or kubectl alone, on one or several nodes, two at a time, by an operator."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load

from job.cluster import SUPERVISOR_PORT, TENSORFLOW_PORT
from job.config import Config
from job.dataset.prepare import prepare_dataset
from k8s.render.kustomize import MANIFESTS
from k8s.render.render import setup_objects
from k8s.state.names import CLAIM, trainer_of
from tests.cluster.namespace import ROOT, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object
    from tests.cluster.namespace import Namespace

TRAINING = ("--epochs=2", "--evaluate-every=0")
LAST = "checkpoints/1200.safetensors"


@pytest.mark.alone  # beside another run, its workers might only fit on one node
def test_make_submit(shared: Namespace, tmp_path: Path) -> None:
    """`make submit` follows a run of two workers, whose parameters equal those of two local workers within 1e-5."""
    shared.reader()  # binds the claim: see the fixture `spread`
    flags = [f"--namespace={shared.name}", "--name=run", f"--claim={shared.output_claim}"]
    arguments = " ".join([*flags, "--", *TRAINING])
    command = ["make", "submit", f"IMAGE={shared.image}", "WORKERS=2", f"ARGS={arguments}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("submitted run with 2 workers", "phase=waiting", "phase=training", "run is published: accuracy 0.9"):
        assert text in done.stdout, done.stdout
    nodes = 2 if len(shared.nodes()) > 1 and shared.access_mode == "ReadWriteMany" else 1
    # Not by the pods: once rank 0 has ended, the Job may delete rank 1's.
    scheduled = shared.cluster.select("Event", "", "reason=Scheduled,involvedObject.kind=Pod")
    workers = [event for event in scheduled if event["involvedObject"]["name"].startswith("run-")]
    assert len({event["message"].rpartition(" to ")[2] for event in workers}) == nodes
    params = load(shared.read(f"runs/run/{LAST}"))

    settings = Config(data=ROOT / "data" if (ROOT / "data" / "mnist").is_dir() else tmp_path / "data")
    prepare_dataset(settings, None, lambda _: None)
    local = ["--workers=2", f"--data={settings.data}", f"--output={tmp_path}", "--name=run", *TRAINING]
    subprocess.run([".venv/bin/python", "-m", "job", "train", *local], cwd=ROOT, check=True, capture_output=True)
    expected = load((tmp_path / "runs" / "run" / LAST).read_bytes())
    assert sorted(params) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(params[name], array, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "team-"])
def test_kubectl_alone(namespace: Namespace, tmp_path: Path, prefix: str) -> None:
    """A run starts with `kubectl apply -k` of an overlay of the setup and a run, also with names of its own."""
    namespace.claim(f"{prefix}{CLAIM}", "ReadWriteOnce", os.environ.get("RWO_CLASS"), storage="5Gi")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    bases = [os.path.relpath(MANIFESTS / path, overlay.resolve()) for path in ("setup", "overlays/local")]
    name, _, tag = namespace.image.rpartition(":")
    content = {"resources": bases, "images": [{"name": "mnist-job", "newName": name, "newTag": tag}]}
    content |= {"namePrefix": prefix} if prefix else {}
    (overlay / "kustomization.yaml").write_text(json.dumps(content), encoding="utf-8")
    namespace.kubectl("apply", "-k", str(overlay))
    namespace.wait_until_published(f"{prefix}mnist")
    assert len({pod["spec"]["nodeName"] for pod in namespace.pods(f"{prefix}mnist")}) == 1
    assert namespace.result(f"{prefix}mnist")["test"]["accuracy"] >= 0.925


def test_read_write_once_with_four_workers(namespace: Namespace) -> None:
    """All four workers of a run on a ReadWriteOnce claim are on one node."""
    namespace.claim("output", "ReadWriteOnce", os.environ.get("RWO_CLASS"))
    namespace.submit("run", *TRAINING, workers=4, flags=["--cpu=200m"])
    namespace.wait_until_published("run")
    job = namespace.job("run")
    assert "podAffinity" in job["spec"]["template"]["spec"]["affinity"]
    assert {pod["spec"]["nodeName"] for pod in namespace.pods("run")} == {
        namespace.pods("run", 0)[0]["spec"]["nodeName"]
    }


def test_a_second_run_on_a_claim_of_one_node(namespace: Namespace) -> None:
    """A second run on a ReadWriteOnce claim runs on the node on which the first one uses it."""
    namespace.claim("output", "ReadWriteOnce", os.environ.get("RWO_CLASS"))
    namespace.submit("one", "--epochs=100000", "--evaluate-every=0", workers=1, flags=["--cpu=300m"])
    node = namespace.pod("one", 0)["spec"]["nodeName"]
    namespace.submit("two", *TRAINING, workers=2, flags=["--cpu=300m"])
    namespace.wait_until_published("two")
    assert {pod["spec"]["nodeName"] for pod in namespace.pods("two")} == {node}


def test_two_runs_at_once(shared: Namespace) -> None:
    """Two runs on one claim are both published, and `latest` is one of them; a second run of one name is refused."""
    shared.submit("one", *TRAINING, workers=1)
    shared.submit("two", *TRAINING, workers=1)
    output = shared.launcher("submit", *shared.submission("one", *TRAINING), code=2)
    remedy = f"choose another --name, or run `mnist-job retry one -n {shared.name}`"
    assert f"failed      name: a Job named one already exists; {remedy}" in output
    for run in ("one", "two"):
        shared.wait_until_published(run)
    listing = shared.kubectl("exec", shared.reader(), "--", "sh", "-c", "cd /output && ls models && readlink latest")
    assert listing.split()[:2] == ["one", "two"]
    assert listing.split()[2] in ("models/one", "models/two")
    assert shared.result("one") == shared.result("two")


def test_an_operator_sets_tf_config(shared: Namespace) -> None:
    """Plain pods with a TF_CONFIG train a run together; systems/test_training_operator.py has a real operator."""
    for new in setup_objects():
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

    wait_until(succeeded, "the end of both pods")
    assert shared.result("plain")["test"]["accuracy"] > 0.9


def plain_pod(namespace: Namespace, rank: int, tf_config: str) -> Object:
    """The pod of a worker without a Job."""
    template = namespace.render("plain", *TRAINING, workers=2)["spec"]["template"]
    trainer = trainer_of(template)
    trainer["env"] = [{"name": "RUN", "value": "plain"}, {"name": "TF_CONFIG", "value": tf_config}]
    assert {port["containerPort"] for port in trainer["ports"]} == {TENSORFLOW_PORT, SUPERVISOR_PORT}
    metadata = {"name": f"plain-{rank}", "labels": template["metadata"]["labels"]}
    spec = {**template["spec"], "hostname": f"plain-{rank}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
