"""Whole runs of one or two workers on a device, which is `cpu` or `gpu`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors import numpy as safetensors

from job.errors import Exit
from tests.faults.team import ALONE, ALONE_EARLY, Team, assert_same, copy_with
from tests.job import processes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

EXAMPLE = processes.ROOT / "examples" / "keras_cnn" / "model.py"
RUN = "run"


class Speeds(NamedTuple):
    """Training examples per second of this job, and of Keras's fit without and with XLA; the job's test accuracy."""

    job: float
    keras: float
    keras_with_xla: float
    accuracy: float


def one_epoch(data: Path, output: Path, device: str) -> dict[str, NDArray[np.float32]]:
    """The parameters by name after an epoch of one worker."""
    flags = [f"--data={data}", f"--output={output}", f"--name={RUN}", "--epochs=1", f"--device={device}"]
    ended = processes.run(*flags)
    assert ended.code == 0, ended.stderr
    [checkpoint] = (output / "runs" / RUN / "checkpoints").glob("*.safetensors")
    return safetensors.load_file(checkpoint)


def assert_one_epoch(data: Path, folder: Path, device: str) -> None:
    """An epoch gives the parameters of a run on CPUs within 1e-5, and the same bits twice."""
    on_cpu = one_epoch(data, folder / "cpu", "cpu")
    first, second = (one_epoch(data, folder / name, device) for name in ("first", "second"))
    assert first.keys() == second.keys() == on_cpu.keys()
    for name, parameter in first.items():
        np.testing.assert_array_equal(second[name], parameter, err_msg=name)
        np.testing.assert_allclose(parameter, on_cpu[name], rtol=0, atol=1e-5, err_msg=name)


def assert_continues(data: Path, folder: Path, device: str) -> None:
    """Workers whose trainers are killed or asked to stop within a block end like an undisturbed one.

    The killed trainer is started again from its last checkpoint. The one that stops saves the middle of its block.
    """
    flags = (*ALONE, f"--device={device}")
    with Team(data, folder / "undisturbed", 1, flags).start() as team:
        assert team.exit_codes() == [0], team[0].errors
    undisturbed = team.result()
    with Team(data, folder / "killed", 1, flags).start() as team:
        place = team[0].wait_for_step(ALONE_EARLY)
        team[0].kill_trainer()
        team[0].wait_for_phase("restarting", place)
        assert_same(team, undisturbed)
    with Team(data, folder / "stopped", 1, flags).start() as team:
        team[0].wait_for_step(ALONE_EARLY)
        team[0].kill_trainer(signal.SIGTERM)
        assert_same(team, undisturbed)


def assert_two_workers(data: Path, output: Path, device: str, devices: int) -> None:
    """Two workers train together on two devices; if one of them has none, the run is refused in one sentence."""
    flags = [f"--data={data}", f"--output={output}", f"--name={RUN}", "--epochs=2", f"--device={device}"]
    ended = processes.run(*flags, "--workers=2")
    if devices >= 2:
        assert ended.code == 0, ended.stderr
        report = json.loads((output / "models" / RUN / "report.json").read_bytes())
        assert report["test"]["accuracy"] > 0.8
        return
    [line] = ended.stderr.splitlines()
    assert ended.code == Exit.USAGE, line
    assert "--device gpu: TensorFlow finds no GPU here; use --device cpu, or give each worker a GPU" in line
    assert not (output / "models").exists()


def speeds(data: Path, folder: Path, device: str, epochs: int, batch_size: int) -> Speeds:
    """The speed of examples/keras_cnn in this job and in Keras's fit, measured one after the other."""
    variables = copy_with(folder, "model.py", EXAMPLE.read_text(encoding="utf-8"))
    output = folder / "output"
    common = [f"--data={data}", f"--epochs={epochs}", f"--batch-size={batch_size}", "--learning-rate=0.15"]
    flags = [*common, f"--output={output}", f"--name={RUN}", f"--device={device}", "--evaluate-every=0"]
    ended = processes.run(*flags, env=variables)
    assert ended.code == 0, ended.stderr
    report = json.loads((output / "models" / RUN / "report.json").read_bytes())
    keras, keras_with_xla = (keras_fit([*common, "--cnn=1", f"--jit-compile={xla}"], device) for xla in (0, 1))
    return Speeds(report["timing"]["examples_per_s"], keras, keras_with_xla, report["test"]["accuracy"])


def keras_fit(flags: list[str], device: str) -> float:
    """Examples per second of Keras's fit, without its first epoch."""
    variables = {"CUDA_VISIBLE_DEVICES": "-1"} if device == "cpu" else {}
    words = [sys.executable, "-m", "benchmarks.rivals.keras_fit", *flags]
    ended = subprocess.run(
        words,
        check=False,
        capture_output=True,
        cwd=processes.ROOT,
        env=processes.environment(variables),
        text=True,
        timeout=processes.DEADLINE_S,
    )
    assert ended.returncode == 0, ended.stderr
    return float(json.loads(ended.stdout.splitlines()[-1])["examples_per_s"])
