"""The published form of a model: a SavedModel that TensorFlow Serving takes and that needs nothing of this project."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import tensorflow as tf

from job.error_table import errors_from
from job.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

Params: TypeAlias = "Mapping[str, NDArray[np.float32]]"
Predict: TypeAlias = "Callable[[Mapping[str, tf.Tensor], tf.Tensor], tf.Tensor]"


class Classifier(tf.Module):
    """Parameters as variables, and the signature `classify`, which is also the default."""

    def __init__(self, params: Params, predict: Predict, shape: tuple[int, int]) -> None:
        super().__init__()
        self.params = {name: tf.Variable(value, name=name, trainable=False) for name, value in params.items()}

        def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
            probabilities = predict(self.params, images)
            return {"probabilities": probabilities, "class": tf.argmax(probabilities, axis=1)}

        images = tf.TensorSpec([None, *shape], tf.uint8, name="images")
        self.classify = tf.function(classify, input_signature=[images], autograph=False)


def save(folder: Path, params: Params, predict: Predict, shape: tuple[int, int]) -> None:
    """Write a model.

    Its signature takes `images` uint8 [n, height, width] and returns `probabilities` float32 [n, classes] and `class`
    int64 [n].

    Args:
        folder: created here; TensorFlow Serving expects .../saved_model/<version>.
        params: the parameters by name.
        predict: model.predict.
        shape: height and width of an image.

    Raises:
        OSError: from the file system of the folder.
        JobError: 73 or 75 from that of the folder for temporary files.
    """
    classifier = Classifier(params, predict, shape)
    signatures = {"classify": classifier.classify, "serving_default": classifier.classify}
    with contextlib.ExitStack() as stack:
        # First on a local disk: TensorFlow's errors do not say whether a volume is full or slow, Python's do.
        with errors_from("temporary", "of this process"):
            local = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        with errors_from("temporary", Path(local).parent):
            tf.saved_model.save(classifier, local, signatures=signatures)
        for path in [Path(local), *sorted(Path(local).rglob("*"))]:
            copy = folder / path.relative_to(local)
            if path.is_dir():
                copy.mkdir(parents=True)
            else:
                shutil.copyfile(path, copy)


def classify(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The probabilities float32 [n, classes] that a saved model gives images [n, height, width].

    Raises:
        ValueError: if the model is damaged or does not take these images.
        JobError: 75 if it could not be read temporarily, 71 if memory ran out.
    """
    try:
        with errors_from("model", folder):
            signature = tf.saved_model.load(str(folder)).signatures["classify"]
            probabilities: NDArray[np.float32] = signature(images=tf.constant(images))["probabilities"].numpy()
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise ValueError(first_line(error)) from error
    return probabilities


def parameters_sha256(params: Params) -> str:
    """SHA-256 over the name, dtype, shape and bytes of each parameter, in sorted name order."""
    sha = hashlib.sha256()
    for name in sorted(params):
        sha.update(f"{name} {params[name].dtype} {params[name].shape}\n".encode())
        sha.update(params[name].tobytes())
    return sha.hexdigest()
