"""Training on GPUs: the result, where operators run, what a fault does, and the speed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.gpu import runs
from tests.job import processes

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_result_is_that_of_a_cpu(gpus: int, mnist: Path, tmp_path: Path) -> None:
    """An epoch gives the parameters of a run on CPUs within 1e-5, and the same bits twice."""
    assert gpus
    runs.assert_one_epoch(mnist, tmp_path, "gpu")


def test_steps_run_on_the_gpu(gpus: int, capsys: pytest.CaptureFixture[str]) -> None:
    """All operators of a step run there, and a step copies nothing between host and GPU but its loop's numbers."""
    assert gpus
    words = [sys.executable, "-m", "tests.gpu.placement", "GPU:0"]
    ended = subprocess.run(
        words, check=False, capture_output=True, cwd=processes.ROOT, env=processes.environment(), text=True
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{ended.stdout}")
    assert ended.returncode == 0, ended.stderr


def test_a_run_continues_in_the_middle_of_a_block(gpus: int, digits: Path, tmp_path: Path) -> None:
    """A trainer that is killed, and one that is stopped, continue to the parameters of an undisturbed run."""
    assert gpus
    runs.assert_continues(digits, tmp_path, "gpu")


def test_two_workers(gpus: int, prepared: Path, tmp_path: Path) -> None:
    """They train on two GPUs. On one, the run is refused in one sentence."""
    runs.assert_two_workers(prepared, tmp_path / "output", "gpu", gpus)


def test_speed_of_a_keras_model(gpus: int, mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The convolutional network learns. Its speed and that of Keras's fit are printed, and no speed is required."""
    assert gpus
    found = runs.speeds(mnist, tmp_path, "gpu", epochs=4, batch_size=256)
    with capsys.disabled():
        sys.stdout.write(f"\nexamples/s: {found}\n")
    assert found.accuracy > 0.97
