"""The launcher's exit statuses, and the error that carries one to the edge of the process."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Exit statuses that are the launcher's own; usage (64), Ctrl-C (130) and a worker's codes are job/errors.py's."""

    FAILED = 1
    REFUSED = 2
    UNREACHED = 3


MEANINGS: dict[Status, str] = {
    Status.FAILED: "the run failed without a worker's exit code, or a command on the volume did; the reason is told",
    Status.REFUSED: "refused by a check before the submission, or by the API server",
    Status.UNREACHED: "the cluster was not reached",
}


class LauncherError(Exception):
    """A failure that a user can meet: what is wrong, what to do, and the exit status.

    Args:
        status: the launcher's exit status.
        message: one sentence that names the value that is wrong.
        hint: one sentence that says what to do next; empty when message says it.
    """

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.status = status


class ApiError(LauncherError):
    """The API server refused a request.

    Attributes:
        code: the HTTP status, as 403.
        reason: Kubernetes' word for it, as Forbidden or AlreadyExists.
        message: the API server's sentence.
    """

    def __init__(self, code: int, reason: str, message: str, what: str) -> None:
        super().__init__(Status.REFUSED, f"the API server refused to {what}: {message}")
        self.code, self.reason, self.message = code, reason, message
