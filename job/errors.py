"""Exit codes, what each means, and the error that carries one to the edge of the process."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of a worker; 64 to 78 are those of BSD's sysexits.h where one fits."""

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
    INTERRUPTED = 130  # local.py's alone; a worker that is told to stop exits TRY_AGAIN


MEANINGS: dict[Exit, str] = {
    Exit.OK: "published, or found published and accepted",
    Exit.USAGE: "a flag, an environment value or TF_CONFIG is wrong, or the run's name is taken",
    Exit.DATA_DAMAGED: "the dataset is damaged, or not the one the run began with",
    Exit.DATA_MISSING: "there is no dataset at the path given",
    Exit.REJECTED: "published, but rejected: 'latest' was not moved",
    Exit.BUG: "an uncaught exception: a bug",
    Exit.OUT_OF_MEMORY: "out of memory: the container's, the machine's or the GPU's",
    Exit.OUTPUT: "the output folder cannot be written",
    Exit.TRY_AGAIN: "stopped before the end; the same command may succeed when run again",
    Exit.NOT_FINITE: "the loss was not finite",
    Exit.SETTINGS: "the run was begun with other settings, or none of its checkpoints is sound",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


PUBLISHED = {Exit.OK, Exit.REJECTED}  # what rank 0 ends with once its model is there


class JobError(Exception):
    """A failure that a user can meet: what is wrong, what to do, and the exit code.

    Args:
        code: the exit code of the process that meets it.
        reason: a short fixed word in kebab case; tools key on it.
        message: one sentence that names the value that is wrong.
        hint: one sentence that says what to do next; empty when message says it.
    """

    def __init__(self, code: Exit, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message
