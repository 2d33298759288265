"""Tests of the SavedModel, which users and TensorFlow Serving load without this project."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from job import model as job_model
from job.errors import Exit, JobError
from job.output.run_folder import RunFolder
from job.training import export
from tests.job import report_samples as samples

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Mount

# Runs where `job` cannot be imported, and prints the model's output.
LOADER = """
import json, sys
sys.modules["job"] = None  # an import of it fails, although `make setup` has installed it
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
signatures = {}
for name, signature in loaded.signatures.items():
    _, inputs = signature.structured_input_signature
    (key, spec), = inputs.items()
    outputs = signature(images=tf.constant(images))
    signatures[name] = {
        "input": [key, spec.dtype.name, spec.shape.as_list()],
        "outputs": {key: [value.dtype.name, value.shape.as_list()] for key, value in sorted(outputs.items())},
        "probabilities": outputs["probabilities"].numpy().tolist(),
        "class": outputs["class"].numpy().tolist(),
        "one": signature(images=tf.constant(images[:1]))["class"].numpy().tolist(),
    }
print(json.dumps(signatures))
"""


def test_plain_tensorflow_loads_and_runs_it(tmp_path: Path) -> None:
    """Both signatures have the right names, types, shapes and results, for any number of images."""
    model, images = samples.layers(784, 10), samples.images(5)
    ((weights, bias, _),) = model
    folder = tmp_path / "saved_model" / "1"
    export.save(folder, {"W": weights, "b": bias}, job_model.predict, (28, 28))
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        # -I: Python ignores this folder and PYTHONPATH.
        [sys.executable, "-I", "-c", LOADER, folder, tmp_path / "images.npy"],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    expected = samples.forward(model, images)
    classes = expected.argmax(axis=1).tolist()
    signature = {
        "input": ["images", "uint8", [None, 28, 28]],
        "outputs": {"class": ["int64", [5]], "probabilities": ["float32", [5, 10]]},
        "class": classes,
        "one": classes[:1],
    }
    for each in printed.values():
        np.testing.assert_allclose(each.pop("probabilities"), expected, atol=1e-6)
    assert printed == {"classify": signature, "serving_default": signature}


def test_model_that_does_not_fit_on_the_volume_is_73(volume: Mount) -> None:
    """The error is the same as for any other file of the output folder, and nothing is published."""
    output = RunFolder(volume("size=24k"), "a", "local")
    ((weights, bias, _),) = samples.layers(784, 10)
    with pytest.raises(JobError) as caught:
        output.publish(
            lambda folder: export.save(
                folder / "saved_model" / "1", {"W": weights, "b": bias}, job_model.predict, (28, 28)
            )
        )
    assert caught.value.code == Exit.OUTPUT
    assert list((output.root / "models").iterdir()) == []
