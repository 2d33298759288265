"""The child side of a process that a supervisor starts: it sends records, and ends with an exit code."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from job import telemetry
from job.cluster import Cluster, identify
from job.config import Config, parse, usage_error
from job.error_table import job_error
from job.errors import Exit, JobError
from job.model_file import use_model
from job.must_match import model_file
from job.system import process
from job.telemetry import Reporter
from job.time_spent import SPENT, TimeSpent
from job.training import internals

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = Path(__file__).parents[1]


def run_child(work: Callable[[Config, Cluster, Reporter], int]) -> NoReturn:
    """Do the work with the flags and the environment that the supervisor set; exit with the code that it returns.

    An exception is reported in a record with phase `failed`.
    """
    process.end_with_parent()
    process.set_name(Path(sys.argv[0]).stem)
    if telemetry.PIPE not in os.environ:
        sys.exit("only a supervisor starts this module: run `python -m job train`")
    config, cluster = parse(sys.argv[1:]), identify(os.environ)
    if cluster is None:
        raise RuntimeError("the supervisor gave no identity")
    pipe = os.fdopen(int(os.environ[telemetry.PIPE]), "w", buffering=1, encoding="utf-8")
    spent = TimeSpent.load(os.environ[SPENT])
    report = Reporter(cluster.run, cluster.rank, pipe, int(os.environ[telemetry.RESTARTS]), spent)
    try:
        use_model(config.model)
        code = work(config, cluster, report)
    except Exception as error:  # noqa: BLE001 - every exception becomes an exit code and a sentence
        failure = failure_of(error, cluster.size)
        if failure.code == Exit.BUG:
            traceback.print_exc()
        code = failure.code
        fields = {"reason": failure.reason, "message": failure.message, "hint": failure.hint or None}
        with suppress(JobError):  # writing to the journal may be what failed
            report("failed", code=int(code), **fields)
    # TensorFlow's threads have kept a finished process from exiting for up to 40 s.
    sys.stderr.flush()
    os._exit(code)


def failure_of(error: Exception, workers: int) -> JobError:
    """The exit code, reason and sentence for an exception that ended the work of one of several workers."""
    if isinstance(error, JobError):
        return error
    name, first_line = type(error).__name__, (str(error).splitlines() or [""])[0][:1000]
    if workers > 1 and internals.is_lost_peer(error):
        cause = internals.cause_of(error) or first_line
        return JobError(Exit.TRY_AGAIN, "peer-lost", f"a peer was lost: {name}: {cause}", "start the run again")
    if failure := job_error(error, "system", "the program"):
        return failure
    # The innermost line of this project or of the model: frames below it are TensorFlow's or generated code. Those of
    # internals are passed over: it looks up names in TensorFlow's modules for the line that uses them.
    frames, model = traceback.extract_tb(error.__traceback__), str(model_file())
    if isinstance(error, SyntaxError) and error.filename == model:  # another version of Python checked it
        version = platform.python_version()
        return usage_error(f"the model {model} is not Python {version}: line {error.lineno}: {error.msg}")
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE) or frame.filename == model]
    ours = [frame for frame in ours if frame.filename != internals.__file__] or ours
    place = (ours or frames)[-1]
    message = f"{name} at {place.filename}:{place.lineno}: {first_line}"
    return JobError(Exit.BUG, "bug", message, "please report it with the lines above")
