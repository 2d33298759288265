"""Tests of the SavedModel, which users and TensorFlow Serving load without this project."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf

from job import model as job_model
from job.errors import Exit, JobError
from job.output.run_folder import RunFolder
from job.supervisor.child import failure_of
from job.training import export
from tests.job import report_samples as samples

if TYPE_CHECKING:
    from collections.abc import Callable
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


def test_a_full_temporary_folder_is_not_memory(volume: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow reports both in a ResourceExhaustedError. Nothing is left in the folder."""
    temporary = volume("size=16k")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    check_temporary(refusal(tmp_path / "model"), temporary, "No space left on device")
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("raised", "what"),
    [
        (
            tf.errors.ResourceExhaustedError(None, None, "/x/y; No space left on device [Op:SaveV2]"),
            "No space left on device",
        ),
        (tf.errors.PermissionDeniedError(None, None, "/x/y; Permission denied"), "Permission denied"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
    ],
)
def test_a_temporary_folder_that_takes_nothing_is_73(
    raised: Exception, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the folder and the limit to raise."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tf.saved_model, "save", raises(raised))
    check_temporary(refusal(tmp_path / "model"), tmp_path, what)


def test_no_temporary_folder_at_all_is_73(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pod without a writable /tmp."""
    nowhere = "No usable temporary directory found in ['/tmp', '/app']"
    monkeypatch.setattr(tempfile, "gettempdir", raises(FileNotFoundError(errno.ENOENT, nowhere)))
    monkeypatch.setattr(tempfile, "tempdir", None)
    error = refusal(tmp_path / "model")
    assert (error.code, error.reason) == (Exit.OUTPUT, "temporary-not-writable")
    assert error.message == f"the temporary folder of this process cannot be written: {nowhere}"


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), Exit.OUT_OF_MEMORY),
        (tf.errors.UnknownError(None, None, "/x/y; Input/output error"), Exit.TRY_AGAIN),
        (tf.errors.InvalidArgumentError(None, None, "wrong shape"), Exit.BUG),
    ],
)
def test_other_errors_of_an_export_keep_their_meaning(
    raised: Exception, code: Exit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack of memory, a failing disk and a bug."""
    monkeypatch.setattr(tf.saved_model, "save", raises(raised))
    with pytest.raises((JobError, tf.errors.OpError)) as caught:
        save(tmp_path / "model")
    assert failure_of(caught.value, 1).code == code


def test_a_lack_of_memory_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model can be sound."""
    monkeypatch.setattr(tf.saved_model, "load", raises(tf.errors.ResourceExhaustedError(None, None, "OOM: 3 GiB")))
    with pytest.raises(JobError) as caught:
        export.classify(tmp_path, np.zeros((1, 28, 28), np.uint8))
    remedy = "give it more memory; or use a smaller --batch-size, and another --name"
    assert str(caught.value) == f"memory ran out: ResourceExhaustedError: OOM: 3 GiB; {remedy}"
    assert caught.value.code == Exit.OUT_OF_MEMORY


def save(folder: Path) -> None:
    """Export a small model."""
    ((weights, bias, _),) = samples.layers(784, 10)
    export.save(folder, {"W": weights, "b": bias}, job_model.predict, (28, 28))


def refusal(folder: Path) -> JobError:
    """Why a small model cannot be exported."""
    with pytest.raises(JobError) as caught:
        save(folder)
    return caught.value


def check_temporary(error: JobError, folder: Path, what: str) -> None:
    """The code, the reason and the whole sentence."""
    assert (error.code, error.reason) == (Exit.OUTPUT, "temporary-not-writable")
    remedy = "free space there: in Kubernetes, raise the sizeLimit of the volume that is mounted there; elsewhere, set"
    assert str(error) == f"the temporary folder {folder} cannot be written: {what}; {remedy} TMPDIR to another folder"


def raises(error: Exception) -> Callable[..., Any]:
    """A function that raises an error, whatever it is given."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
