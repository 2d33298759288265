"""The launcher's exit statuses, its errors, and what a failed request says in words."""

from __future__ import annotations

import json
import re
from enum import IntEnum

# The API server's words when it cannot call an admission webhook: its name, its Service or host, and why.
NO_WEBHOOK = re.compile(
    r'(?:Internal error occurred: )?failed calling webhook "([^"]+)": (?:failed to call webhook: )?'
    r'Post "https://([^/":?]+)[^"]*": (.*)'
)


class Status(IntEnum):
    """Exit statuses of the launcher's own. Those of usage (64), Ctrl-C (130) and workers are in job/errors.py."""

    FAILED = 1
    REFUSED = 2
    UNREACHED = 3


MEANINGS: dict[Status, str] = {
    Status.FAILED: "the run failed without a worker's exit code, or a command on the volume did; the reason is printed",
    Status.REFUSED: "refused by a check, by the API server or because of the run's state; or there is no such run or "
    "schedule",
    Status.UNREACHED: "the cluster was not reached",
}


class LauncherError(Exception):
    """A failure that a user can meet: what is wrong, what to do about it, and the exit status.

    Args:
        status: the launcher's exit status.
        message: one sentence that names the value that is wrong.
        hint: one sentence that says what to do next; empty when message says it.
    """

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.status = status


def refused(message: str, hint: str = "") -> LauncherError:
    """The error of a command that is not carried out."""
    return LauncherError(Status.REFUSED, message, hint)


def unreached(message: str, hint: str = "") -> LauncherError:
    """The error of a command that cannot reach the cluster."""
    return LauncherError(Status.UNREACHED, message, hint)


def failed(message: str, hint: str = "") -> LauncherError:
    """The error of a command that was started and did not succeed."""
    return LauncherError(Status.FAILED, message, hint)


class ApiError(LauncherError):
    """The API server refused a request.

    Attributes:
        code: the HTTP status, such as 403.
        reason: Kubernetes' word for it, such as Forbidden or AlreadyExists.
        message: the API server's sentence.
        retry_after_s: how long the API server asks clients to wait.
        more: the token with which an expired list can continue; empty for none.
    """

    def __init__(
        self, code: int, reason: str, message: str, what: str, *, retry_after_s: float = 0.0, more: str = ""
    ) -> None:
        super().__init__(Status.REFUSED, f"the API server refused to {what}: {message}")
        self.code, self.reason, self.message = code, reason, message
        self.retry_after_s, self.more = retry_after_s, more


class NoConnectionError(ConnectionError):
    """No connection was made, so nothing was sent."""


def refusal(code: int, text: bytes, what: str, retry_after: str = "") -> ApiError:
    """The error in a response, which is usually a Status object.

    Args:
        code: the HTTP status.
        text: the response's body.
        what: what was requested, for the error's sentence.
        retry_after: the header Retry-After; API servers give it in whole seconds.
    """
    wait_s = float(retry_after) if retry_after.isdecimal() else 0.0
    try:
        status = json.loads(text)
        more = (status.get("metadata") or {}).get("continue") or ""
        message = in_short(status.get("message") or f"HTTP {code}")
        return ApiError(code, status.get("reason") or "", message, what, retry_after_s=wait_s, more=more)
    except (ValueError, AttributeError):
        message = f"HTTP {code}: {text[:200].decode(errors='replace').strip()}"
        return ApiError(code, "", message, what, retry_after_s=wait_s)


def in_short(message: str) -> str:
    """A message of the API server, shortened if the program behind an admission webhook does not answer."""
    return NO_WEBHOOK.sub(r"the admission webhook \1 at \2 does not answer: \3", message)


def in_words(error: BaseException) -> str:
    """Why a connection failed, in a few words: the innermost error without the class names and numbers around it."""
    error = innermost(error)
    texts = [each for each in (error, *error.args) if each is error or isinstance(each, str)]
    text = str(getattr(error, "strerror", None) or texts[-1])
    text = re.sub(r"^\w*Connection(Pool)?\([^)]*\): (Failed to establish a new connection: )?", "", text)
    text = re.sub(r"\[[^\]]*\] | \((_ssl\.c:|(connect|read) timeout=)[^)]*\)", "", text)
    return text.rstrip(".") or type(error).__name__


def innermost(error: BaseException) -> BaseException:
    """The error at the bottom of those that wrap it."""
    while inner := next((cause for cause in reversed(error.args) if isinstance(cause, BaseException)), None):
        error = inner
    return error


def http_errors() -> tuple[type[Exception], ...]:
    """The errors that the HTTP client raises when a connection fails."""
    # Imported here, because `--help` should not wait for them.
    import http.client  # noqa: PLC0415

    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    return HTTPError, http.client.HTTPException, OSError
