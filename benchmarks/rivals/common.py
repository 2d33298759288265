"""Shared by the alternatives: flags, the rows in memory, the clock, and the JSON line that each of them prints."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from job.system import cgroup, process

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CLASSES = 10
PIXELS = 28 * 28


@dataclass(frozen=True)
class Rows:
    """A split in memory: images uint8 [n, 784], labels int32 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Result:
    """The measurements of one program.

    Attributes:
        us_per_step: microseconds a training step, after warm-up.
        examples_per_s: over all processes.
        accuracy: on the test set, measured after the timed part; None for a program that trains nothing.
        peak_rss_mb: peak memory of its first process, in 10^6 bytes.
        whole_s: seconds from the start of the process to its end.
    """

    us_per_step: float
    examples_per_s: float
    accuracy: float | None
    peak_rss_mb: float
    whole_s: float


def arguments(description: str | None, **extra: int) -> argparse.Namespace:
    """The command line; `extra` adds flags with integer values and gives their defaults.

    From then on, this process does not outlive the benchmark that started it.
    """
    process.end_with_parent()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared datasets")
    parser.add_argument("--batch-size", type=int, default=100, help="over all processes")
    parser.add_argument("--epochs", type=int, default=10, help="at least 2; the first one is the warm-up")
    parser.add_argument("--learning-rate", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    for name, default in extra.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    return parser.parse_args()


def load(data: Path) -> tuple[Rows, Rows]:
    """The training and the test rows of MNIST that `python -m job data` decoded."""
    decoded = data / "mnist" / "decoded"
    train, test = (
        Rows(
            np.load(decoded / f"{split}-images.npy").reshape(-1, PIXELS),
            np.load(decoded / f"{split}-labels.npy").astype(np.int32),
        )
        for split in ("train", "test")
    )
    return train, test


def keras_model(keras: Any, args: argparse.Namespace, **options: Any) -> Any:
    """A model in Keras 3 or tf_keras; like the other programs, it computes no accuracy while it trains.

    Args:
        keras: the library.
        args: the command line; with `cnn`, the model is the network of examples/keras_cnn, else softmax regression.
        options: more arguments of compile().
    """
    of = keras.layers
    layers = [of.Dense(CLASSES, kernel_initializer="zeros")]
    if args.cnn:
        layers = [
            of.Reshape([28, 28, 1]),
            of.Conv2D(16, 5, strides=2, activation="relu"),
            of.Conv2D(32, 3, strides=2, activation="relu"),
            of.Flatten(),
            of.Dense(64, activation="relu"),
            of.Dense(CLASSES),
        ]
    model = keras.Sequential([of.Input([PIXELS], dtype="uint8"), of.Rescaling(1 / 255), *layers])
    model.compile(
        optimizer=keras.optimizers.SGD(args.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=args.steps_per_execution,
        **options,
    )
    return model


def keras_accuracy(model: Any, rows: Rows) -> float:
    """The share of rows that a Keras model classifies correctly."""
    return correct(np.concatenate([model(images) for images in np.array_split(rows.images, 10)]), rows)


def epoch_clock(keras: Any) -> tuple[Any, list[float]]:
    """A callback of Keras, and the list to which it appends the time of each epoch's end in seconds."""
    ends: list[float] = []

    def note_end(_epoch: int, _logs: dict[str, Any]) -> None:
        ends.append(time.perf_counter())

    return keras.callbacks.LambdaCallback(on_epoch_end=note_end), ends


def time_epochs(epochs: int, steps: int, run_epoch: Callable[[], object]) -> float:
    """Run all epochs; returns the microseconds a step, without the first epoch.

    Args:
        epochs: at least 2.
        steps: steps of an epoch.
        run_epoch: trains one epoch and returns after its last step.
    """
    run_epoch()
    start = time.perf_counter()
    for _ in range(epochs - 1):
        run_epoch()
    return between(start, time.perf_counter(), (epochs - 1) * steps)


def between(start: float, end: float, steps: int) -> float:
    """Microseconds a step, from times in seconds."""
    return (end - start) / steps * 1e6


def accuracy(weights: NDArray[np.float32], bias: NDArray[np.float32], rows: Rows) -> float:
    """The share of rows that softmax regression with weights [784, 10] and bias [10] classifies correctly."""
    return correct(rows.images.astype(np.float32) / 255 @ weights + bias, rows)


def correct(logits: NDArray[np.floating[Any]], rows: Rows) -> float:
    """The share of rows whose largest logit [n, 10] is that of their label."""
    return float(np.mean(logits.argmax(axis=1) == rows.labels))


def pin(rank: int, ranks: int) -> None:
    """Give this process its share of the CPUs, like this job does for its workers on one machine."""
    if share := cgroup.cpu_shares(ranks)[rank]:
        os.sched_setaffinity(0, share)


def finish(us_per_step: float, batch_size: int, test_accuracy: float | None) -> None:
    """Print the result of this process as a JSON line."""
    result = Result(us_per_step, batch_size / us_per_step * 1e6, test_accuracy, process.peak_rss_mb(), process.age())
    print(json.dumps(asdict(result)), flush=True)
