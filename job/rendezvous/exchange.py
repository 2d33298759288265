"""One HTTP request to the supervisor's port, and what is answered to it."""

from __future__ import annotations

import io
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from job.rendezvous.http import BLANK_LINE, BODY_BYTES
from job.rendezvous.server import Refused, Request, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.rendezvous.server import Answer


class Exchange(BaseHTTPRequestHandler):
    """One request, and what is answered to it.

    Args:
        data: the request, as is_whole() wants it.
        metrics: as in serve().
        join: as in serve().
    """

    default_request_version = request_version = "HTTP/1.0"  # 0.9 would be answered without a status

    def __init__(self, data: bytes, metrics: Callable[[], bytes], join: Callable[[Request], Answer] | None) -> None:
        # Not the base's, which reads from the connection: only its reading of a request is wanted here.
        self._metrics, self._join = metrics, join
        self.rfile, self.wfile = io.BytesIO(data), io.BytesIO()
        if BLANK_LINE.search(data):
            self.handle_one_request()
        else:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self.answer = self.wfile.getvalue()

    def do_GET(self) -> None:
        """Answer /healthz and /metrics."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._send(HTTPStatus.OK, b"ok\n")
        elif path == "/metrics":
            from prometheus_client import CONTENT_TYPE_LATEST  # noqa: PLC0415 - as in Gauges.text()

            self._send(HTTPStatus.OK, self._metrics(), CONTENT_TYPE_LATEST)
        elif path == "/join" and self._join:
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Answer /join."""
        path = self.path.partition("?")[0]
        lengths = self.headers.get_all("Content-Length", [])
        if path in ("/healthz", "/metrics"):
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)
        elif path != "/join" or not self._join:
            self._refuse(HTTPStatus.NOT_FOUND)
        elif not lengths or "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
        elif len(lengths) > 1 or not re.fullmatch("[0-9]+", lengths[0]):
            self._refuse(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
        elif len(lengths[0]) > 4 or int(lengths[0]) > BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._answer_join(self._join, int(lengths[0]))

    def _answer_join(self, join: Callable[[Request], Answer], length: int) -> None:
        body = self.rfile.read(length)
        if len(body) < length:
            self._refuse(HTTPStatus.BAD_REQUEST, "the body is shorter than Content-Length")
            return
        try:
            self._send(HTTPStatus.OK, to_json(join(Request.from_json(body))), "application/json")
        except ValueError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except Refused as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer what the base cannot read or has no method for; its messages would repeat what was sent."""
        self._refuse({501: HTTPStatus.METHOD_NOT_ALLOWED, 505: HTTPStatus.BAD_REQUEST}.get(code, HTTPStatus(code)))

    def _refuse(self, status: HTTPStatus, sentence: str = "") -> None:
        self._send(status, f"{sentence or status.phrase}\n".encode())

    def _send(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
