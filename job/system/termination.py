"""The termination message: how a container ended, for `kubectl describe` and for the launcher."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

PATH = Path("/dev/termination-log")  # Kubernetes creates it in each container
LIMIT = 4096  # bytes; Kubernetes cuts off the rest


def write(code: int, reason: str, message: str, **fields: Any) -> None:
    """Write the message if PATH exists: code, reason and message of a JobError, and fields of a Record."""
    if not PATH.is_file():
        return

    def as_json(message: str) -> bytes:
        return json.dumps({"code": int(code), "reason": reason, "message": message, **fields}).encode()

    # Each character that JSON escapes takes up to 12 bytes.
    while message and len(as_json(message)) > LIMIT:
        message = message[: len(message) * 3 // 4]
    with suppress(OSError):  # the file may belong to another user, and nothing depends on it
        PATH.write_bytes(as_json(message))
