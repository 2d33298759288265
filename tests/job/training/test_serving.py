"""Plain TensorFlow loads every version in serving/, as TensorFlow Serving does, while promotions go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from job import model as job_model
from job.output.latest import move_latest
from job.output.run_folder import RunFolder
from job.output.serving import KEEP
from job.training import export
from tests.job import report_samples as samples
from tests.job.output.runs import fill, manifest
from tests.job.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

# Lists the folder like TensorFlow Serving, loads each number that it does not hold, and prints the model's answers.
# Runs where `job` cannot be imported, up to the version that it is given.
LOADER = """
import json, os, sys, time
sys.modules["job"] = None  # an import of it fails, although `make setup` has installed it
import numpy as np
import tensorflow as tf

folder, images, last = sys.argv[1], tf.constant(np.load(sys.argv[2])), int(sys.argv[3])
held = 0
while held < last:
    for version in sorted(int(name) for name in os.listdir(folder) if name.isdecimal()):
        if version > held:
            model = tf.saved_model.load(f"{folder}/{version}")
            answer = model.signatures["serving_default"](images=images)
            print(json.dumps({"version": version, "class": answer["class"].numpy().tolist()}), flush=True)
            held = version
    time.sleep(0.01)
"""
# The runs in the order in which they become latest: by themselves at first, then by hand.
PROMOTIONS = ["a", "b", "a", "c", "b", "c", "a"]


def publish(root: Path, name: str, day: int, seed: int) -> RunFolder:
    """Publish a run with a real model of random parameters."""
    output = RunFolder(root, name, "local")
    ((weights, bias, _),) = samples.layers(784, 10, seed=seed)

    def fill_in(folder: Path) -> None:
        fill(0.9, day, name)(folder)
        shutil.rmtree(folder / "saved_model")
        export.save(folder / "saved_model" / "1", {"W": weights, "b": bias}, job_model.predict, (28, 28))

    with output.begin(manifest()):
        output.publish(fill_in)
    return output


def loaded(log: Path, version: int, loader: subprocess.Popen[str]) -> bool:
    """Whether the loader has loaded that version, or has ended."""
    return log.read_text().count("\n") >= version or loader.poll() is not None


def test_plain_tensorflow_loads_each_version_while_promotions_go_on(tmp_path: Path) -> None:
    """It finds every version that is in the folder whole, and the version's answers are those of the promoted run."""
    images = samples.images(20)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "elsewhere").mkdir()
    root, log = tmp_path / "output", tmp_path / "log"
    runs = {name: publish(root, name, seed, seed) for seed, name in enumerate("abc", 1)}
    expected = {
        name: samples.forward(samples.layers(784, 10, seed=seed), images).argmax(axis=1).tolist()
        for seed, name in enumerate("abc", 1)
    }
    assert len({str(classes) for classes in expected.values()}) == 3
    runs["a"].promote()
    with (
        log.open("w") as output,
        # -I: Python ignores this folder and PYTHONPATH.
        subprocess.Popen(
            [sys.executable, "-I", "-c", LOADER, root / "serving", tmp_path / "images.npy", str(len(PROMOTIONS))],
            cwd=tmp_path / "elsewhere",
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as loader,
    ):
        for version, name in enumerate(PROMOTIONS[1:], 2):
            # A promotion removes the version that is KEEP older; the loader may be loading any other one.
            gone = version - KEEP
            wait_until(partial(loaded, log, gone, loader), f"version {gone} to be loaded")
            if name in PROMOTIONS[: version - 1]:
                move_latest(root, name)
            else:
                assert runs[name].promote().verdict == "promoted"
        _, errors = loader.communicate(timeout=300)
    assert loader.returncode == 0, errors
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        {"version": version, "class": expected[name]} for version, name in enumerate(PROMOTIONS, 1)
    ]
