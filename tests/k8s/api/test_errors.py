"""What a failed connection says in words."""

from __future__ import annotations

import ssl

import pytest
from urllib3.exceptions import ConnectTimeoutError, ProtocolError

from k8s.api.errors import in_words


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ProtocolError("Connection aborted.", ConnectionResetError(104, "Connection reset by peer")), None),
        (ConnectionError("Connection reset by peer"), None),
        (TimeoutError("HTTPSConnectionPool(host='a', port=1): Read timed out. (read timeout=30)"), "Read timed out"),
        (
            OSError("HTTPSConnection(host='a', port=1): Failed to resolve 'a' ([Errno -2] Name or service not known)"),
            "Failed to resolve 'a' (Name or service not known)",
        ),
        (
            ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] verify failed: self-signed (_ssl.c:10)"),
            "verify failed: self-signed",
        ),
        (
            ConnectTimeoutError(object(), "Connection to 10.0.0.1 timed out. (connect timeout=5.0)"),
            "Connection to 10.0.0.1 timed out",
        ),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_in_words(error: Exception, said: str | None) -> None:
    """A failed connection is described in a few words."""
    assert in_words(error) == (said or "Connection reset by peer")
