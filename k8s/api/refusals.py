"""What went wrong with a request, in words: the API server's refusal, or a connection's end."""

from __future__ import annotations

import json
import re

from k8s.api.errors import ApiError


def refusal(code: int, text: bytes, what: str) -> ApiError:
    """The error in an answer, which is mostly a Status object."""
    try:
        status = json.loads(text)
        return ApiError(code, status.get("reason") or "", status.get("message") or f"HTTP {code}", what)
    except (ValueError, AttributeError):
        return ApiError(code, "", f"HTTP {code}: {text[:200].decode(errors='replace').strip()}", what)


def plainly(error: BaseException) -> str:
    """The last cause of a connection's end, without the objects, numbers and places that its message holds."""
    error = innermost(error)
    text = str(getattr(error, "strerror", None) or error)
    text = re.sub(r"^HTTPS?Connection(Pool)?\([^)]*\): (Failed to establish a new connection: )?", "", text)
    text = re.sub(r"\[[^\]]*\] | \((_ssl\.c:|read timeout=)[^)]*\)", "", text)
    return text.rstrip(".") or type(error).__name__


def innermost(error: BaseException) -> BaseException:
    """The error that others wrap."""
    while inner := next((cause for cause in reversed(error.args) if isinstance(cause, BaseException)), None):
        error = inner
    return error


def http_errors() -> tuple[type[Exception], ...]:
    """What the HTTP client raises where a connection ends."""
    import http.client  # noqa: PLC0415

    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    return HTTPError, http.client.HTTPException, OSError
