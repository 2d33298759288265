"""Trained parameters -> a SavedModel, as TensorFlow Serving wants it; loading it needs nothing of this project."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from job import model

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray


class Classifier(tf.Module):
    """Parameters as variables, and the signature `classify`, which is also the default."""

    def __init__(self, params: Mapping[str, NDArray[np.float32]], shape: tuple[int, int]) -> None:
        super().__init__()
        self.params = {name: tf.Variable(value, name=name, trainable=False) for name, value in params.items()}
        self.classify = tf.function(
            self._classify, input_signature=[tf.TensorSpec([None, *shape], tf.uint8, name="images")]
        )

    def _classify(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = model.predict(self.params, images)
        return {"probabilities": probabilities, "class": tf.argmax(probabilities, axis=1)}


def save(folder: Path, params: Mapping[str, NDArray[np.float32]], shape: tuple[int, int]) -> None:
    """Write the model.

    Args:
        folder: made here; by TensorFlow Serving's custom, .../saved_model/<version>.
        params: the parameters by name.
        shape: height and width of an image. The signature takes `images` uint8 [n, height, width] and gives
            `probabilities` float32 [n, classes] and `class` int64 [n].
    """
    classifier = Classifier(params, shape)
    signatures = {"classify": classifier.classify, "serving_default": classifier.classify}
    with tempfile.TemporaryDirectory() as local:
        # Not there at once: TensorFlow's errors do not tell a full volume from one that answers late, Python's do.
        tf.saved_model.save(classifier, local, signatures=signatures)
        for path in [Path(local), *sorted(Path(local).rglob("*"))]:
            copy = folder / path.relative_to(local)
            if path.is_dir():
                copy.mkdir(parents=True)
            else:
                shutil.copyfile(path, copy)
