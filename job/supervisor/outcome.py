"""What the exit of a supervised process means."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.error_table import MORE_MEMORY
from job.errors import Exit
from job.system import cpu, process

if TYPE_CHECKING:
    from job.supervisor.supervised_process import Exited
    from job.telemetry import Record

FINAL_CODES = set(Exit) - {Exit.TRY_AGAIN, Exit.INTERRUPTED}
EXPLAINED_CODES = set(Exit) - {Exit.BUG}  # codes whose record already explains the failure


@dataclass(frozen=True)
class Outcome:
    """How a supervised process, or the worker, ended; the fields are those of JobError."""

    code: int
    reason: str
    message: str
    hint: str = ""


def judge(exited: Exited, final_record: Record | None, forced: Outcome | None, *, began: bool) -> Outcome:
    """The outcome of a process that has exited.

    Args:
        exited: its exit.
        final_record: the record in which it reported how it ended, None if it sent none.
        forced: why the supervisor made it exit, None if the supervisor did not.
        began: whether its first step had begun.
    """
    code = exited.exit_code
    if final_record and (final_record.code == code or is_published(final_record)):
        hint = "" if is_published(final_record) else final_record.hint
        return Outcome(final_record.code or 0, final_record.reason or "", final_record.message or "", hint or "")
    if code == Exit.OK:
        return Outcome(code, "", "")
    if forced:
        return forced
    if exited.returncode == -signal.SIGKILL and exited.oom_kills > 0:
        message = "the kernel killed the trainer: out of memory"
        return Outcome(Exit.OUT_OF_MEMORY, "out-of-memory", message, MORE_MEMORY)
    if not began and (unfit := cpu.unfit(-exited.returncode)):  # it would happen again
        return Outcome(unfit.code, unfit.reason, unfit.message, unfit.hint)
    killed = "killed", f"the trainer was killed by {process.signal_name(code)}"
    unknown = "unknown-code", f"the trainer exited with code {code} and no message"
    return Outcome(code, *(killed if exited.returncode < 0 else unknown))


def is_published(final_record: Record | None) -> bool:
    """Whether a process has reported that the run is published, which holds whatever happens to it later."""
    return final_record is not None and final_record.phase == "published"
