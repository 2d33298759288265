"""Tests of models that Keras describes: the functions of model.py, and whole runs of the example."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from job import model as softmax
from job.errors import Exit, JobError
from job.training.keras import model
from tests.job import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from job.training.keras import Functions

EXAMPLE = processes.ROOT / "examples" / "keras_cnn" / "model.py"
FLAGS = ("--name=cnn", "--workers=2", "--epochs=3", "--batch-size=64", "--learning-rate=0.1", f"--model={EXAMPLE}")
# Classifies the first 50 test images with a published model, where Keras cannot be imported.
CLASSIFY = """
import sys
sys.modules["keras"] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = tf.constant(np.load(sys.argv[2])[:50])
print(model.signatures["classify"](images=images)["class"].numpy().tolist())
"""


def of(*layers: Any, shape: tuple[int, ...] = (28, 28, 1)) -> Functions:
    """The functions of a sequential model."""
    return model(lambda: keras.Sequential([keras.Input(shape), *layers]))


def tensors(params: Mapping[str, NDArray[np.float32]]) -> dict[str, tf.Tensor]:
    """Parameters as the training gives them to the functions."""
    return {name: tf.constant(value) for name, value in params.items()}


def examples(count: int = 5) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Images, labels, and weights of which one is 0."""
    random = np.random.default_rng(1)
    weights = np.ones(count, np.float32)
    weights[2] = 0
    images = random.integers(0, 256, (count, 28, 28), np.uint8)
    return tf.constant(images), tf.constant(random.integers(0, 10, count), tf.int32), tf.constant(weights)


@pytest.mark.parametrize("shape", [(784,), (28, 28), (28, 28, 1)])
def test_a_dense_layer_is_softmax_regression(shape: tuple[int, ...]) -> None:
    """Loss, gradient and probabilities are those of this job's own model, whatever the shape of the input."""
    functions = of(keras.layers.Flatten(), keras.layers.Dense(10, name="only"), shape=shape)
    params = tensors(functions.init(3))
    same = {"W": params["only/kernel"], "b": params["only/bias"]}
    loss, gradient = functions.loss_and_gradient(params, *examples())
    expected_loss, expected = softmax.loss_and_gradient(same, *examples())
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient["only/kernel"], expected["W"], atol=1e-5)
    np.testing.assert_allclose(gradient["only/bias"], expected["b"], atol=1e-5)
    probabilities = functions.predict(params, examples()[0])
    np.testing.assert_allclose(probabilities, softmax.predict(same, examples()[0]), atol=1e-6)


def test_parameters_have_the_names_of_the_layers_and_depend_on_the_seed() -> None:
    """A second start of the same run makes the same names and values."""

    def build() -> keras.Model:
        dense = [keras.layers.Dense(4), keras.layers.Dense(10)]
        return keras.Sequential([keras.Input([28, 28]), keras.layers.Flatten(), *dense])

    functions = model(build)
    first, second, other = functions.init(1), functions.init(1), functions.init(2)
    assert sorted(first) == ["dense/bias", "dense/kernel", "dense_1/bias", "dense_1/kernel"]
    assert {value.dtype for value in first.values()} == {np.dtype(np.float32)}
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["dense/kernel"], other["dense/kernel"])


def test_regularisers_count_once_for_each_example() -> None:
    """The job divides by the number of examples, so that the mean loss has the penalty once, as with Keras's fit."""
    images, labels, weights = examples()
    rate = 0.01
    regularizer = keras.regularizers.L2(rate)
    functions = of(keras.layers.Flatten(), keras.layers.Dense(10, name="only", kernel_regularizer=regularizer))
    plain = of(keras.layers.Flatten(), keras.layers.Dense(10, name="only"))
    params = tensors(functions.init(0))
    plain.init(0)
    loss, gradient = functions.loss_and_gradient(params, images, labels, weights)
    without, gradient_without = plain.loss_and_gradient(params, images, labels, weights)
    kernel, count = params["only/kernel"].numpy(), float(np.sum(weights))
    np.testing.assert_allclose(loss - without, count * rate * np.sum(kernel**2), rtol=1e-3)
    difference = gradient["only/kernel"] - gradient_without["only/kernel"]
    np.testing.assert_allclose(difference, count * 2 * rate * kernel, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (
            lambda: [keras.layers.BatchNormalization(name="norm"), keras.layers.Dropout(0.5, name="drop")],
            "has variables that no gradient changes, which this job does not keep, in norm, drop; leave them out",
        ),
        (
            lambda: [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax", name="end")],
            "ends in a softmax, which this job adds itself; leave the softmax of end out",
        ),
        (
            lambda: [keras.layers.Flatten(), keras.layers.Dense(10), keras.layers.Softmax(name="end")],
            "ends in a softmax, which this job adds itself; leave the softmax of end out",
        ),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(layers: Callable[[], list[Any]], sentence: str) -> None:
    """With 64, a sentence that names the layer, and a remedy."""
    with pytest.raises(JobError) as error:
        of(*layers()).init(0)
    assert (error.value.code, str(error.value)) == (Exit.USAGE, f"the Keras model in model.py {sentence}")


def test_a_model_without_an_input_shape_is_refused() -> None:
    """Keras makes its parameters only when it sees the first images."""
    with pytest.raises(JobError, match=r"has no input shape; start the model with keras\.Input\(\[28, 28, 1\]\)"):
        model(lambda: keras.Sequential([keras.layers.Dense(10)])).init(0)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_model_says_whether_xla_compiles(jit_compile: bool) -> None:
    """Nothing is compiled unless it is asked for."""
    assert model(keras.Sequential, jit_compile=jit_compile).jit_compile is jit_compile
    assert model(keras.Sequential).jit_compile is False


def test_the_example_trains_and_resumes_to_the_same_bits(tmp_path: Path, prepared: Path) -> None:
    """Two workers train it; its model needs no Keras; resumed at its first checkpoint, the run ends in the same way."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    ended = processes.run(*FLAGS, f"--data={prepared}", f"--output={whole}")
    assert ended.code == 0, ended.stderr
    report = json.loads((whole / "models/cnn/report.json").read_bytes())
    assert report["test"]["accuracy"] > 0.5  # chance is 0.1
    assert "<canvas" not in (whole / "models/cnn/report.html").read_text()

    saved, images = whole / "models/cnn/saved_model/1", prepared / "mnist/decoded/test-images.npy"
    words = [sys.executable, "-c", CLASSIFY, str(saved), str(images)]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert json.loads(printed) == np.load(whole / "models/cnn/predictions.npz")["predicted"][:50].tolist()

    shutil.copytree(whole / "runs", resumed / "runs")
    (resumed / "runs/cnn/verdict.json").unlink()
    _, *later = sorted((resumed / "runs/cnn/checkpoints").iterdir(), key=lambda file: int(file.stem))
    assert len(later) == 2
    for checkpoint in later:
        checkpoint.unlink()
    ended = processes.run(*FLAGS, f"--data={prepared}", f"--output={resumed}")
    assert ended.code == 0, ended.stderr
    assert "resuming from the checkpoint at step 10" in ended.stdout
    again = json.loads((resumed / "models/cnn/report.json").read_bytes())
    assert again["parameters_sha256"] == report["parameters_sha256"]
