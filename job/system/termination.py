"""The termination message: what a container leaves of its end for `kubectl describe` and for the launcher."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

PATH = Path("/dev/termination-log")  # Kubernetes makes it in each container
LIMIT = 4096  # bytes; Kubernetes cuts off what is beyond


def write(code: int, reason: str, message: str, **fields: Any) -> None:
    """Leave the message where there is a place for it: code, reason and message of a JobError, fields of a Record."""
    if not PATH.is_file():
        return

    def text(message: str) -> bytes:
        return json.dumps({"code": int(code), "reason": reason, "message": message, **fields}).encode()

    # Each character that JSON escapes takes up to 12 bytes.
    while message and len(text(message)) > LIMIT:
        message = message[: len(message) * 3 // 4]
    with suppress(OSError):  # it may be somebody else's; nothing depends on it
        PATH.write_bytes(text(message))
