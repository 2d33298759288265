"""What the end of a supervisor's child means."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.errors import Exit
from job.system import process

if TYPE_CHECKING:
    from job.supervisor.supervised_process import Ended
    from job.telemetry import Record

FINAL_CODES = set(Exit) - {Exit.TRY_AGAIN, Exit.INTERRUPTED}
EXPLAINED_CODES = set(Exit) - {Exit.BUG}  # what a child ends with after a sentence that says it all


@dataclass(frozen=True)
class Outcome:
    """How a child, or this worker, ended; as in JobError."""

    code: int
    reason: str
    message: str
    hint: str = ""


def judge(ended: Ended, told: Record | None, ours: Outcome | None) -> Outcome:
    """What the end of a child means.

    Args:
        ended: how it ended.
        told: its own words, None where it said nothing.
        ours: why it was made to end, None where nobody made it.
    """
    code = ended.exit_code
    if told and (told.code == code or is_published(told)):
        hint = "" if is_published(told) else told.hint
        return Outcome(told.code or 0, told.reason or "", told.message or "", hint or "")
    if code == Exit.OK:
        return Outcome(code, "", "")
    if ours:
        return ours
    if ended.code == -signal.SIGKILL and ended.oom_kills > 0:
        hint = "give it more memory, or a smaller --batch-size"
        return Outcome(Exit.OUT_OF_MEMORY, "out-of-memory", "the kernel killed the trainer for memory", hint)
    if ended.code < 0:
        return Outcome(code, "killed", f"the trainer was killed by {process.killed_by(code)}")
    return Outcome(code, "unknown-code", f"the trainer ended with {code} and said nothing")


def is_published(told: Record | None) -> bool:
    """Whether a child has said that the run is published, which holds whatever happens to it after that."""
    return told is not None and told.phase == "published"
