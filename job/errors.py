"""Exit codes, the meaning of each, and the exception that carries one to the end of the process."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of a worker; 64 to 78 follow BSD's sysexits.h where it has a fitting one."""

    OK = 0
    USAGE = 64
    DATA_DAMAGED = 65
    DATA_MISSING = 66
    REJECTED = 69
    BUG = 70
    OUT_OF_MEMORY = 71
    OUTPUT = 73
    TRY_AGAIN = 75
    NOT_FINITE = 76
    SETTINGS = 78
    INTERRUPTED = 130  # local mode only; a worker that receives SIGTERM exits TRY_AGAIN


MEANINGS: dict[Exit, str] = {
    Exit.OK: "published, or already published and accepted",
    Exit.USAGE: "a flag, an environment value or TF_CONFIG is wrong, or the run's name is taken",
    Exit.DATA_DAMAGED: "the dataset is damaged, or not the one that the run started with",
    Exit.DATA_MISSING: "no dataset at the given path, or it cannot be read",
    Exit.REJECTED: "published, but rejected: 'latest' did not move",
    Exit.BUG: "an uncaught exception (a bug), or a CPU that cannot run TensorFlow",
    Exit.OUT_OF_MEMORY: "the trainer or its GPU ran out of memory",
    Exit.OUTPUT: "the output folder or the temporary folder cannot be written",
    Exit.TRY_AGAIN: "stopped early; running the same command again may succeed",
    Exit.NOT_FINITE: "the loss was not finite",
    Exit.SETTINGS: "the run was started with other settings or another model.py, or all of its checkpoints are damaged",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


PUBLISHED = {Exit.OK, Exit.REJECTED}  # rank 0's codes once its model is published


class JobError(Exception):
    """An error for the user: what is wrong, what to do, and the exit code.

    Args:
        code: the exit code of the process.
        reason: a short fixed identifier in kebab case; tools key on it.
        message: one sentence that names the wrong value.
        hint: one sentence that says what to do next; empty if the message says it.
    """

    def __init__(self, code: Exit, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


def first_line(error: BaseException) -> str:
    """The message of another library's exception, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
