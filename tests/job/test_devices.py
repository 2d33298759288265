"""The tests of tests/gpu with a CPU in the GPU's place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from tests.gpu import placement, runs
from tests.job import processes


def test_result_of_an_epoch(prepared: Path, tmp_path: Path) -> None:
    """Three runs of an epoch have the same parameters."""
    runs.assert_one_epoch(prepared, tmp_path, "cpu")


def test_steps_run_on_the_device_that_they_are_given() -> None:
    """All operators of a step run on a second device, which is not the one that TensorFlow prefers."""
    words = [sys.executable, "-m", "tests.gpu.placement", "CPU:1"]
    variables = {"CUDA_VISIBLE_DEVICES": "-1"}
    ended = subprocess.run(
        words, check=False, capture_output=True, cwd=processes.ROOT, env=processes.environment(variables), text=True
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("device", "devices"), [("cpu", 2), ("gpu", 0)])
def test_two_workers(device: str, devices: int, prepared: Path, tmp_path: Path) -> None:
    """They train together. Without a GPU each, they are refused in one sentence."""
    if device == "gpu" and Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    runs.assert_two_workers(prepared, tmp_path / "output", device, devices)


def test_copies_are_found_in_a_profile() -> None:
    """The sizes of those between host and GPU, whether the profile has their details as a text or as a reference."""
    space = xplane_pb2.XSpace()
    for name in ("/host:CPU", "/device:GPU:0"):
        plane = space.planes.add(name=name)
        for number, text in enumerate(["memcpy_details", "kind_src:device kind_dst:pinned size:8 dest:0 async:1"]):
            plane.stat_metadata[number].name = text
        line = plane.lines.add()
        for number, event in enumerate(["MemcpyH2D", "MemcpyD2H", "MemcpyD2D", "gemm"]):
            plane.event_metadata[number].name = event
            line.events.add(metadata_id=number)
        line.events[0].stats.add(metadata_id=0, str_value="kind_src:pageable kind_dst:device size:31400 dest:0 async:0")
        line.events[1].stats.add(metadata_id=0, ref_value=1)
        line.events[2].stats.add(metadata_id=0, str_value="kind_src:device kind_dst:device size:16 dest:0 async:1")
    assert list(placement.copies(space)) == [31400, 8]


def test_speeds_of_a_keras_model_are_measured(prepared: Path, tmp_path: Path) -> None:
    """Those of this job and of Keras's fit, with which it is compared."""
    found = runs.speeds(prepared, tmp_path, "cpu", epochs=2, batch_size=100)
    assert min(found) > 0
