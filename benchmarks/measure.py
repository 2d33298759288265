"""Run one case as a process and read its result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import OUTPUT, RUN
from benchmarks.rivals.common import Result
from job.system.process import PARENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.cases import Case

PROJECT = Path(__file__).resolve().parent.parent
LIMIT_S = 300

# A program with a lower accuracy did not do the work. Zeros give 0.1, one epoch at 0.5 gives 0.91.
LEAST_ACCURACY = 0.9

# Environment variables that change the speed of a program. With a machine's own OPENBLAS_ settings, NumPy would be
# slower here than for its users.
FOREIGN = ("OPENBLAS_", "OMP_", "MKL_", "TF_", "KERAS_", "XLA_")


class FailedError(Exception):
    """A case without a result; the text says why."""


def measure(case: Case) -> Result:
    """Run a case once.

    Raises:
        FailedError: if it failed, took too long, printed no result or did not learn.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        output = Path(folder) / "output"
        command = [part.replace(OUTPUT, str(output)) for part in case.command]
        start = time.perf_counter()
        printed = _run(command, environment(os.environ, case.threads), PROJECT)
        seconds = time.perf_counter() - start
        result = job_result(output, seconds) if case.job else _printed_result(printed)
    if result.accuracy is not None and result.accuracy < LEAST_ACCURACY:
        raise FailedError(f"accuracy {result.accuracy:.3f}: it did not do the work")
    return result


def job_result(output: Path, seconds: float) -> Result:
    """The result of this job, from its report.

    Args:
        output: the folder of --output.
        seconds: duration of the whole command.
    """
    try:
        report = json.loads((output / "models" / RUN / "report.json").read_bytes())
    except FileNotFoundError as error:
        raise FailedError(f"it left no {error.filename}") from None
    timing = report["timing"]
    return Result(
        us_per_step=timing["us_per_step"],
        examples_per_s=timing["examples_per_s"],
        accuracy=report["test"]["accuracy"],
        peak_rss_mb=timing["peak_rss_mb"],
        whole_s=seconds,
    )


def environment(variables: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a timed program, which is the same for all programs with this number of threads."""
    kept = {name: value for name, value in variables.items() if not name.startswith(FOREIGN)}
    limits = {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    return kept | limits | {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}


def _run(command: list[str], environ: Mapping[str, str], folder: Path) -> str:
    """The output of a command; all processes that it started are killed when it ends."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**environ, PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise FailedError(f"not done after {LIMIT_S} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        last = [line for line in (out + err).splitlines() if line.strip()][-1:]
        raise FailedError(f"exit status {process.returncode}: {''.join(last)[:200]}")
    return out


def _printed_result(printed: str) -> Result:
    for line in reversed(printed.splitlines()):
        if line.startswith('{"us_per_step"'):
            return Result(**json.loads(line))
    raise FailedError("it printed no result")
