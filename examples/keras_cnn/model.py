"""Another model.py: a small convolutional network, described with Keras 3. Give this file with --model."""

import keras
from keras import layers as of

from job.training.keras import model


def build() -> keras.Model:
    """The network from images to logits. Keras gives the layers the names that the checkpoints contain."""
    return keras.Sequential(
        [
            keras.Input([28, 28, 1]),
            of.Conv2D(16, 5, strides=2, activation="relu", kernel_initializer="he_normal"),
            of.Conv2D(32, 3, strides=2, activation="relu", kernel_initializer="he_normal"),
            of.Flatten(),
            of.Dense(64, activation="relu", kernel_initializer="he_normal"),
            of.Dense(10),
        ]
    )


init, loss_and_gradient, predict, layers, jit_compile = model(build)
