"""The programs that are timed and their settings. Every case is one command."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# A placeholder in commands: a new empty folder for each run.
OUTPUT = "{output}"
RUN = "bench"

FLOOR = "two matrix products"
FLOOR_CLASSES_FIRST = "two matrix products, classes first"
JOB = "this job"
JOB_2 = "this job, 2 workers"
JOB_2_AVERAGED = "this job, 2 workers, --sync-every 100"
JOB_COMMAND = "this job's `train`, 2 workers, defaults"
SESSION = "TensorFlow, a session call a batch"
KERAS = "Keras fit"
KERAS_100 = "Keras fit, 100 steps per execution"
NUMPY = "NumPy by hand"
NUMPY_CLASSES_FIRST = "NumPy by hand, classes first"
TORCH = "PyTorch"
TORCH_DDP = "PyTorch DDP over gloo, 2 processes"
TF_KERAS = "tf_keras fit, MWMS, 2 workers"
TF_KERAS_100 = "tf_keras fit, MWMS, 2 workers, 100 steps per execution"
CNN = "this job, CNN"
CNN_2 = "this job, CNN, 2 workers"
CNN_KERAS = "Keras fit, CNN"
CNN_KERAS_XLA = "Keras fit, CNN, jit_compile"
CNN_TORCH = "PyTorch, CNN"
CNN_TORCH_DDP = "PyTorch DDP over gloo, CNN, 2 processes"
CNN_TF_KERAS = "tf_keras fit, MWMS, CNN, 2 workers"
CNN_BATCH, CNN_RATE = 256, 0.1


@dataclass(frozen=True)
class Case:
    """One program at one setting.

    Attributes:
        name: of the program; the same for every number of threads.
        command: the command line.
        threads: limit for each of its processes.
        processes: how many processes train.
        batch_size: examples a step, over all processes.
        job: whether it is this job, which writes its timing into report.json; the others print theirs.
    """

    name: str
    command: tuple[str, ...]
    threads: int
    processes: int = 1
    batch_size: int = 100
    job: bool = False


@dataclass(frozen=True)
class Settings:
    """Settings of all cases.

    Attributes:
        data: folder of prepared datasets, with MNIST decoded.
        on_disk: a folder with MNIST that has more rows than a worker holds in memory.
        epochs: of every program; the first one is its warm-up.
        learning_rate: constant.
        cores: of this machine.
        torch_python: an interpreter with PyTorch, or None.
        tf_keras: whether tf_keras is installed.
    """

    data: Path
    on_disk: Path
    epochs: int
    learning_rate: float
    cores: int
    torch_python: str | None
    tf_keras: bool


def cases(settings: Settings) -> list[Case]:
    """Every case, in the order of the table."""
    chosen: list[Case] = []
    classes_first = ["--classes-first", "1"]
    hundred = ["--steps-per-execution", "100"]
    # One process, with one thread and with one for each core: the better number differs between programs.
    for threads in sorted({1, settings.cores}):
        chosen += [
            rival(settings, FLOOR, "benchmarks.floor", threads),
            rival(settings, FLOOR_CLASSES_FIRST, "benchmarks.floor", threads, flags=classes_first),
            job(settings, JOB, threads),
            rival(settings, SESSION, "benchmarks.rivals.textbook_tf", threads),
            rival(settings, KERAS, "benchmarks.rivals.keras_fit", threads),
            rival(settings, KERAS_100, "benchmarks.rivals.keras_fit", threads, flags=hundred),
            rival(settings, NUMPY, "benchmarks.rivals.numpy_loop", threads),
            rival(settings, NUMPY_CLASSES_FIRST, "benchmarks.rivals.numpy_loop", threads, flags=classes_first),
        ]
    if settings.torch_python:
        # More threads wait for each other on two busy cores: 1,800 microseconds a step instead of 270.
        chosen.append(rival(settings, TORCH, "benchmarks.rivals.torch_loop", 1))
    # Two processes share the cores.
    threads = max(1, settings.cores // 2)
    chosen += [
        job(settings, JOB_2, threads, workers=2),
        job(settings, JOB_2_AVERAGED, threads, workers=2, flags=["--sync-every", "100"]),
    ]
    if settings.torch_python:
        chosen.append(rival(settings, TORCH_DDP, "benchmarks.rivals.torch_ddp", threads, processes=2))
    if settings.tf_keras:
        module = "benchmarks.rivals.tf_keras_mwms"
        chosen += [
            rival(settings, TF_KERAS, module, threads, processes=2),
            rival(settings, TF_KERAS_100, module, threads, flags=hundred, processes=2),
        ]
    chosen.append(whole_command(settings))
    return [*chosen, *growth(settings), *network(settings)]


def growth(settings: Settings) -> list[Case]:
    """Cases with more work: larger batches, more workers, and rows that are read from disk."""
    # An epoch with a large batch has few steps: more epochs give hundreds of steps to time.
    few = max(1, settings.epochs // 3)
    return [
        job(settings, f"{JOB}, batch 1000", settings.cores, batch_size=1000, epochs=few * 10),
        job(settings, f"{JOB}, batch 10000", settings.cores, batch_size=10000, epochs=few * 40),
        job(settings, f"{JOB}, 4 workers", max(1, settings.cores // 4), workers=4),
        job(settings, f"{JOB}, rows on disk", settings.cores, epochs=2, data=settings.on_disk),
    ]


def network(settings: Settings) -> list[Case]:
    """Cases with the convolutional network of examples/keras_cnn, with one thread for each process."""
    cnn = ["--cnn", "1", f"--batch-size={CNN_BATCH}", f"--learning-rate={CNN_RATE}"]

    def of(name: str, module: str, *flags: str, processes: int = 1) -> Case:
        case = rival(settings, name, f"benchmarks.rivals.{module}", 1, flags=[*cnn, *flags], processes=processes)
        return replace(case, batch_size=CNN_BATCH)

    def ours(name: str, workers: int) -> Case:
        flags = [f"--learning-rate={CNN_RATE}", "--model=examples/keras_cnn/model.py"]
        return job(settings, name, 1, workers=workers, batch_size=CNN_BATCH, flags=flags)

    chosen = [ours(CNN, 1), of(CNN_KERAS, "keras_fit"), of(CNN_KERAS_XLA, "keras_fit", "--jit-compile", "1")]
    if settings.torch_python:
        chosen.append(of(CNN_TORCH, "torch_loop"))
    chosen.append(ours(CNN_2, 2))
    if settings.torch_python:
        chosen.append(of(CNN_TORCH_DDP, "torch_ddp", processes=2))
    if settings.tf_keras:
        chosen.append(of(CNN_TF_KERAS, "tf_keras_mwms", processes=2))
    return chosen


def rival(
    settings: Settings, name: str, module: str, threads: int, *, flags: Sequence[str] = (), processes: int = 1
) -> Case:
    """A module of this package that trains MNIST in another way."""
    torch = module.startswith("benchmarks.rivals.torch")
    python = settings.torch_python if torch and settings.torch_python else sys.executable
    command = [python, "-m", module, f"--data={settings.data}", f"--epochs={settings.epochs}"]
    command += [f"--learning-rate={settings.learning_rate}", f"--threads={threads}", *flags]
    return Case(name, tuple(command), threads, processes)


def job(  # noqa: PLR0913 - one argument for each flag that cases vary
    settings: Settings,
    name: str,
    threads: int,
    *,
    workers: int = 1,
    batch_size: int = 100,
    epochs: int | None = None,
    data: Path | None = None,
    flags: Sequence[str] = (),
) -> Case:
    """This job with the settings of its alternatives and without evaluations between epochs."""
    command = [*_train(data or settings.data, workers), f"--epochs={epochs or settings.epochs}"]
    command += [f"--learning-rate={settings.learning_rate}", "--schedule=constant", "--evaluate-every=0"]
    command += [f"--batch-size={batch_size}", f"--threads={threads}", *flags]
    return Case(name, tuple(command), threads, workers, batch_size, job=True)


def whole_command(settings: Settings) -> Case:
    """This job's whole command with its defaults, except for the number of epochs."""
    command = (*_train(settings.data, 2), f"--epochs={settings.epochs}")
    return Case(JOB_COMMAND, command, max(1, settings.cores // 2), 2, job=True)


def _train(data: Path, workers: int) -> list[str]:
    where = [f"--data={data}", f"--output={OUTPUT}", f"--name={RUN}"]
    return [sys.executable, "-m", "job", "train", f"--workers={workers}", *where]
