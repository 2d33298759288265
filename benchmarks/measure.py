"""Run one case as a process, and read what it measured."""

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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.cases import Case

PROJECT = Path(__file__).resolve().parent.parent
LIMIT_S = 300

# What trained to less than this has not done the work. Zeros give 0.1; one epoch at 0.5 gives 0.91.
LEAST_ACCURACY = 0.9

# What a shell may hold that would change how fast a program is, or which program it is. OPENBLAS_ too: a machine may
# tune it for something else, and NumPy would be slower here than a user finds it.
FOREIGN = ("OPENBLAS_", "OMP_", "MKL_", "TF_", "KERAS_", "XLA_")


class FailedError(Exception):
    """A case that gave no result; its text says why."""


def measure(case: Case) -> Result:
    """Run a case once.

    Raises:
        FailedError: it ended with an error, took too long, printed no result or did not learn.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        output = Path(folder) / "output"
        command = [part.replace(OUTPUT, str(output)) for part in case.command]
        start = time.perf_counter()
        printed = _run(command, environment(os.environ, case.threads))
        seconds = time.perf_counter() - start
        result = job_result(output, seconds) if case.job else _printed_result(printed)
    if result.accuracy is not None and result.accuracy < LEAST_ACCURACY:
        raise FailedError(f"accuracy {result.accuracy:.3f}, so it did not do the work")
    return result


def job_result(output: Path, seconds: float) -> Result:
    """What this job says of itself in its report.

    Args:
        output: the folder given as --output.
        seconds: how long the whole command took.
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


def environment(around: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a program that is timed, the same for all at the same limit of threads."""
    kept = {name: value for name, value in around.items() if not name.startswith(FOREIGN)}
    limits = {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    return kept | limits | {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}


def _run(command: list[str], environ: Mapping[str, str]) -> str:
    """Give what a command printed; its processes are a session of their own, which ends with it."""
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environ,
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
