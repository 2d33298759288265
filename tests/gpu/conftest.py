"""Skips the tests of this folder where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.job import processes

HERE = Path(__file__).parent
DRIVER = Path("/proc/driver/nvidia/version")
COUNT = "import tensorflow as tf; print(tf.test.is_built_with_cuda(), len(tf.config.list_physical_devices('GPU')))"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def gpus() -> int:
    """The number of GPUs that TensorFlow finds. Without one, the test is skipped."""
    if not DRIVER.exists():
        pytest.skip("this machine has no NVIDIA driver")
    words = [sys.executable, "-c", COUNT]
    ended = subprocess.run(words, check=True, capture_output=True, env=processes.environment(), text=True)
    has_cuda, count = ended.stdout.split()
    if has_cuda == "False":
        pytest.skip("this TensorFlow is built without CUDA")
    if count == "0":
        pytest.skip(f"TensorFlow finds no GPU here: {' '.join(ended.stderr.splitlines()[-1:])}")
    return int(count)


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The data folder, with MNIST in it: run `make data` first."""
    assert (processes.ROOT / "data" / "mnist").exists()
    return processes.ROOT / "data"
