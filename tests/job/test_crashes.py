"""Tests of commands whose process a signal ends while TensorFlow is imported: none of them ends without a word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from job import __main__ as command_line
from job.errors import Exit
from job.system import cpu
from tests.job import processes
from tests.job.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNFIT = "error: TensorFlow cannot run on this CPU ("


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which TensorFlow runs the Python code in $ON_IMPORT while it is imported."""
    package = tmp_path / "fake" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os\nexec(os.environ['ON_IMPORT'])\n")
    return processes.environment({"PYTHONPATH": f"{package.parent}{os.pathsep}{processes.ROOT}"})


def crash(number: signal.Signals) -> dict[str, str]:
    """The variable that makes TensorFlow's import end by a signal."""
    return {"ON_IMPORT": f"os.kill(os.getpid(), {int(number)})"}


@pytest.fixture
def predict(tmp_path: Path) -> list[str]:
    """The command that classifies a picture."""
    model = tmp_path / "model"
    (model / "saved_model" / "1").mkdir(parents=True)
    (model / "report.json").write_text(
        json.dumps({"dataset": {"dataset": "mnist", "classes": [str(digit) for digit in range(10)]}})
    )
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 13:16] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")
    return [sys.executable, "-m", "job", "predict", "--model", str(model), str(tmp_path / "one.png")]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_ends_at_once_on_an_unfit_cpu(
    workers: int, prepared: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """70 after one start of each trainer, with one sentence and nothing written."""
    arguments = "--data", prepared, "--output", tmp_path / "output", "--workers", workers
    ended = processes.run(*arguments, env=environment | crash(signal.SIGILL))
    *before, last = ended.stderr.splitlines()
    assert (ended.code, before) == (Exit.BUG, [])
    assert "TensorFlow cannot run on this CPU (" in last
    assert "restarting" not in ended.stdout
    assert not (tmp_path / "output").exists()


def test_predict_names_an_unfit_cpu(predict: list[str], environment: dict[str, str]) -> None:
    """A shell would only say `Illegal instruction`, and a script nothing."""
    ended = subprocess.run(
        predict, check=False, capture_output=True, text=True, cwd=processes.ROOT, env=environment | crash(signal.SIGILL)
    )
    assert (ended.returncode, ended.stdout) == (Exit.BUG, "")
    assert ended.stderr.startswith(UNFIT)
    assert ended.stderr.count("\n") == 1


def test_predict_names_another_crash(predict: list[str], environment: dict[str, str]) -> None:
    """A fault in native code."""
    ended = subprocess.run(
        predict, check=False, capture_output=True, text=True, cwd=processes.ROOT, env=environment | crash(signal.SIGBUS)
    )
    sentence = "error: the command was ended by SIGBUS; run it again, and report it if this happens again\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (Exit.BUG, "", sentence)


def test_an_interrupt_that_is_dropped_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second signal of one Ctrl-C is ignored, that of a later Ctrl-C is not."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    interrupt = command_line.interrupter()
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    interrupt()
    now += 10
    with pytest.raises(KeyboardInterrupt):
        interrupt()


@pytest.mark.parametrize(
    ("send", "number"),
    [
        (os.killpg, signal.SIGINT),  # a terminal's Ctrl-C
        (os.kill, signal.SIGINT),
        (os.kill, signal.SIGTERM),
        (os.kill, signal.SIGKILL),
    ],
)
def test_predict_takes_no_process_along(
    send: Callable[[int, int], None],
    number: signal.Signals,
    predict: list[str],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """A signal to the command ends its copy too."""
    ready = tmp_path / "ready"
    waits = f"import pathlib, time; pathlib.Path({str(ready)!r}).write_text(str(os.getpid())); time.sleep(600)"
    command = subprocess.Popen(
        predict, cwd=processes.ROOT, env=environment | {"ON_IMPORT": waits}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    with command:
        copy = int(wait_until(lambda: ready.exists() and ready.read_text(), "TensorFlow is imported"))
        send(command.pid, number)
        _, errors = command.communicate(timeout=processes.DEADLINE_S)
    wait_until(lambda: not os.path.exists(f"/proc/{copy}"), "the copy is gone")  # noqa: PTH110 - a process, no path
    expected = {
        signal.SIGINT: (Exit.INTERRUPTED, "error: interrupted by Ctrl-C\n"),
        signal.SIGTERM: (128 + signal.SIGTERM, ""),
        signal.SIGKILL: (-signal.SIGKILL, ""),
    }
    assert (command.returncode, errors) == expected[number]


@pytest.mark.parametrize(
    ("number", "flags", "unfit"),
    [
        (signal.SIGILL, "flags\t\t: fpu avx", "Some CPU"),
        (signal.SIGILL, "flags\t\t: fpu sse4_2", "Some CPU, without AVX"),
        (signal.SIGILL, "Features\t: fp asimd", "Some CPU"),
        (signal.SIGABRT, "flags\t\t: fpu sse4_2", "Some CPU, without AVX"),
        (signal.SIGSEGV, "flags\t\t: fpu sse4_2", "Some CPU, without AVX"),
        (signal.SIGABRT, "flags\t\t: fpu avx", ""),
        (signal.SIGABRT, "Features\t: fp asimd", ""),
        (signal.SIGKILL, "flags\t\t: fpu sse4_2", ""),
        (signal.SIGTERM, "flags\t\t: fpu sse4_2", ""),
        (0, "flags\t\t: fpu sse4_2", ""),
    ],
)
def test_which_ends_mean_an_unfit_cpu(
    number: int, flags: str, unfit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow aborts if it notices that AVX is missing. CPUs other than x86 list no such flags."""
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Some CPU\n{flags}\n\nprocessor\t: 1\n")
    found = cpu.unfit(number)
    expected = f"TensorFlow cannot run on this CPU ({unfit}): " if unfit else ""
    assert (found.message if found else "").startswith(expected)
    assert (found is not None) == bool(unfit)


def test_a_system_that_does_not_describe_its_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MacOS has no /proc/cpuinfo."""
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "absent")
    found = cpu.unfit(signal.SIGILL)
    assert found is not None
    assert found.message == "TensorFlow cannot run on this CPU (unknown model): SIGILL ended its process"
