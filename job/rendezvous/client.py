"""A request to rank 0's supervisor, and its reply, over HTTP by Tornado."""

from __future__ import annotations

import re
import socket
from contextlib import closing
from http import HTTPStatus
from typing import Any

from tornado.httpclient import HTTPClient, HTTPClientError, HTTPRequest
from tornado.iostream import UnsatisfiableReadError
from tornado.netutil import Resolver
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient

from job.rendezvous import messages
from job.rendezvous.messages import Refused, Reply, Request

REPLY_BYTES = 2**20  # three times what a thousand addresses take
REFUSAL_CHARS = 1000


def ask(supervisor: str, request: Request, timeout_s: float) -> Reply:
    """Send one request to rank 0.

    Args:
        supervisor: host:port of rank 0's supervisor.
        request: what to send.
        timeout_s: seconds for the connection and the whole reply. The look-up of the host's address is not included.

    Raises:
        OSError: there is no reply, or not one that rank 0 sends.
        Refused: rank 0 there belongs to another run, or has other settings.
    """
    limits = {"max_buffer_size": REPLY_BYTES, "max_body_size": REPLY_BYTES, "max_header_size": 8192}
    http = HTTPRequest(
        f"http://{supervisor}/join",
        "POST",
        body=messages.encode(request),
        connect_timeout=timeout_s,
        request_timeout=timeout_s,
        follow_redirects=False,
        decompress_response=False,
    )
    try:
        with closing(HTTPClient(SimpleAsyncHTTPClient, resolver=_Resolver(), **limits)) as client:
            response = client.fetch(http, raise_error=False)
        if response.code == HTTPStatus.CONFLICT:
            raise Refused(re.sub(r"[^ -~]", "", response.body.decode("latin-1"))[:REFUSAL_CHARS])
        if response.code != HTTPStatus.OK:
            raise OSError(f"the process there is not worker 0: HTTP status {response.code}")
        reply = messages.decode(response.body, Reply)
    except HTTPTimeoutError:
        raise TimeoutError(f"no complete reply within {timeout_s:g} s") from None
    except (HTTPClientError, UnsatisfiableReadError, ValueError) as error:  # it breaks off, is too long or is not HTTP
        raise OSError(f"the process there is not worker 0: {error}") from None
    if len(reply.addresses) not in (0, request.workers):
        raise OSError(
            f"the process there is not worker 0: {len(reply.addresses)} addresses of {request.workers} workers"
        )
    return reply


class _Resolver(Resolver):
    """Looks up addresses in the calling thread; Tornado's own threads would delay the process's exit if DNS hangs."""

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        """The family and the address of each way to reach a host."""
        return [(found[0], found[4]) for found in socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)]
