"""A small server on this machine that plays an API server's answers."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from typing import TYPE_CHECKING, Any

from kubernetes import client

from k8s.api.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.objects import Object

PODS = "/api/v1/namespaces/here/pods"


JOBS = "/apis/batch/v1/namespaces/here/jobs"


CUT = object()  # in place of an answer: the connection is closed


# CUT, Frames, an object (200), (status, object), or (status, object, Retry-After); a list as the lines of a stream; or
# what writes to a file
Answer = Any


class Frames:
    """An answer to an exec request: the messages of a websocket (RFC 6455), and its end."""

    def __init__(self, *messages: bytes) -> None:
        self.text = b"".join(b"\x82" + bytes([len(message)]) + message for message in messages) + b"\x88\0"
        assert all(len(message) < 126 for message in messages)


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives each request the next prepared answer."""

    server: Server

    def do(self) -> None:
        """Answer a request, and record it."""
        length = int(self.headers.get("Content-Length") or 0)
        asked = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, asked))
        names = dict.fromkeys(name.lower() for name in self.headers)
        self.server.headers.append({name: ", ".join(self.headers.get_all(name, [])) for name in names})
        self.server.repeated.append(self.headers.items())
        answer = self.server.answers.pop(0)
        if answer is CUT:
            return
        if isinstance(answer, Frames):
            self.upgrade(answer.text)
            return
        status, content, *after = answer if isinstance(answer, tuple) else (200, answer)
        if isinstance(content, bytes):  # a proxy's own page
            self.send_response_only(status)
        else:
            self.send_response(status)
        for seconds in after:
            self.send_header("Retry-After", str(seconds))
        if callable(content):
            self.end_headers()
            content(self.wfile)
            return
        if isinstance(content, list):
            body = b"".join(json.dumps(line).encode() + b"\n" for line in content)
        else:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def upgrade(self, frames: bytes) -> None:
        """Open a websocket, and send all that it says."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()  # noqa: S324 - the protocol's
        self.protocol_version = "HTTP/1.1"
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(frames)
        self.rfile.read()
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815 - the base class's names

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """An API server with prepared answers.

    Attributes:
        answers: those to come, in order.
        asked: each request: its method, its path with the query, and its body.
        headers: of each request, by their names in lower case.
        repeated: the headers of each request as they came, also those of the same name.
    """

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, *answers: Answer, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.repeated: list[list[tuple[str, str]]] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def begin(self) -> None:
        """Start to answer, in a thread."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def end(self) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()


def cluster_at(port: int, say: Callable[[str], None] = lambda _: None) -> Cluster:
    """The cluster at a port of this machine."""
    settings = client.Configuration()
    settings.host = f"http://127.0.0.1:{port}"
    settings.api_key["BearerToken"] = "Bearer secret"
    return Cluster(lambda: client.ApiClient(settings), "here", say)


def named(name: str, kind: str = "Job", **fields: Any) -> Object:
    """An object."""
    return {"kind": kind, "metadata": {"name": name, "uid": f"{name}-uid", **fields}}


def refused(code: int, reason: str, message: str) -> tuple[int, Object]:
    """An answer that is a Status."""
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def page(*items: Object, version: str = "7", more: str = "") -> Object:
    """A page of a list."""
    return {"metadata": {"resourceVersion": version, "continue": more}, "items": list(items)}


def tokens_of(server: Server) -> list[str]:
    """The tokens that came with the requests."""
    return [headers["authorization"].removeprefix("Bearer ") for headers in server.headers]


BUSY = refused(429, "TooManyRequests", "too many requests")


AWAY = (503, b"upstream away")


CONFLICT = refused(409, "Conflict", 'Operation cannot be fulfilled on resourcequotas "q"')


UNAUTHORIZED = refused(401, "Unauthorized", "Unauthorized")


EXISTS = refused(409, "AlreadyExists", 'jobs.batch "a" already exists')
