"""The supervisor's port: /healthz, /metrics and, at rank 0, /join, served by Tornado in a thread.

No request may harm the supervisor, and no flood of unfinished requests may keep the workers out.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from job.rendezvous import messages
from job.rendezvous.messages import Refused, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
    from tornado.iostream import IOStream

    from job.rendezvous.server import Rendezvous

CONNECTIONS = 2048  # at most: one half is for unfinished requests, the other for workers that wait for their reply
RECEIVE_S = 5.0  # for the whole header of a request, and again for its body
HOLD_S = 2.0  # for a reply to a worker that waits for the others; well below ANSWER_S and FRESH_S
HEADER_BYTES = 8192
BODY_BYTES = 4096


def serve(host: str, port: int, metrics: Callable[[], bytes], rendezvous: Rendezvous | None) -> Server:
    """Listen on a port and answer requests in a thread, until the context ends.

    Args:
        host: an IP address; "" for all interfaces.
        port: 0 for a free one.
        metrics: returns the text of /metrics.
        rendezvous: answers /join; None above rank 0.

    Raises:
        OSError: the port is in use, or the process may open no more files.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if not host and socket.has_dualstack_ipv6():
        listening = socket.create_server(("", port), family=socket.AF_INET6, backlog=CONNECTIONS, dualstack_ipv6=True)
    else:
        # The launcher of local workers holds their ports, so that no other program takes one between two supervisors.
        held = host == "::1" or host.startswith("127.")
        listening = socket.create_server((host, port), family=family, backlog=CONNECTIONS, reuse_port=held)
    listening.setblocking(False)
    return Server(listening, metrics, rendezvous)


class Server(AbstractContextManager["Server"]):
    """An event loop in a thread, which answers requests until the context ends."""

    def __init__(self, listening: socket.socket, metrics: Callable[[], bytes], rendezvous: Rendezvous | None) -> None:
        self.port: int = listening.getsockname()[1]
        # Tornado would print a warning for some malformed requests.
        logging.getLogger("tornado.general").setLevel(logging.ERROR)
        # The other half of the files that this process may open is for the supervisor itself.
        half = min(CONNECTIONS, allow_files(2 * CONNECTIONS) // 2) // 2
        unfinished: dict[IOStream, None] = {}
        routes: list[Any] = [("/healthz", _Health), ("/metrics", _Metrics, {"metrics": metrics})]
        if rendezvous:
            places = asyncio.Semaphore(half)
            routes.append(("/join", _Join, {"rendezvous": rendezvous, "places": places, "unfinished": unfinished}))
        application = Application(routes, default_handler_class=_NotFound, log_function=lambda _: None)
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._closing = asyncio.Event()

        async def answer() -> None:
            server = _BoundedServer(application, unfinished, half)
            server.add_socket(listening)
            loop = asyncio.get_running_loop()
            started.set_result(loop)
            await self._closing.wait()
            loop.set_exception_handler(lambda *_: None)  # a reply that is cut off now is not worth a traceback
            server.stop()
            await server.close_all_connections()

        def run() -> None:
            try:
                with asyncio.Runner() as runner:
                    runner.run(answer())
            except OSError as error:  # an event loop needs files too
                if started.done():
                    raise
                started.set_exception(error)

        self._thread = threading.Thread(target=run, name="http", daemon=True)
        self._thread.start()
        self._loop = started.result()

    def __exit__(self, *_: object) -> None:
        """Free the port and close all connections."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()


class _BoundedServer(HTTPServer):
    """Tornado's server, but a new connection closes the oldest one if there are too many unfinished requests.

    If new connections were refused instead, a flood of idle ones could keep the workers out.

    Args:
        application: answers the requests.
        unfinished: the connections whose request is not complete, the oldest first.
        most: unfinished requests at a time.
    """

    def initialize(self, application: Application, unfinished: dict[IOStream, None], most: int) -> None:  # type: ignore[override]
        super().initialize(
            application,
            no_keep_alive=True,
            idle_connection_timeout=RECEIVE_S,
            body_timeout=RECEIVE_S,
            max_header_size=HEADER_BYTES,
            max_body_size=BODY_BYTES,
            max_buffer_size=2 * (HEADER_BYTES + BODY_BYTES),
        )
        self._unfinished, self._most = unfinished, most

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self._unfinished) >= self._most:
            oldest = next(iter(self._unfinished))
            del self._unfinished[oldest]
            oldest.close()
        self._unfinished[stream] = None
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        self._unfinished.pop(cast("HTTP1ServerConnection", server_conn).stream, None)
        super().on_close(server_conn)


class _Handler(RequestHandler):
    """Answers in plain text, and errors with their name in one line."""

    def write_error(self, status_code: int, **_: Any) -> None:
        self.finish_text(f"{HTTPStatus(status_code).phrase}\n", status_code)

    def finish_text(self, text: str, status: int = HTTPStatus.OK) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)


class _NotFound(_Handler):
    def prepare(self) -> None:
        self.write_error(HTTPStatus.NOT_FOUND)


class _Health(_Handler):
    def get(self) -> None:
        self.finish_text("ok\n")


class _Metrics(_Handler):
    def initialize(self, metrics: Callable[[], bytes]) -> None:
        self._metrics = metrics

    def get(self) -> None:
        from prometheus_client import CONTENT_TYPE_LATEST  # noqa: PLC0415 - 26 ms, and many supervisors are never asked

        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(self._metrics())


class _Join(_Handler):
    def initialize(self, rendezvous: Rendezvous, places: asyncio.Semaphore, unfinished: dict[IOStream, None]) -> None:
        self._rendezvous, self._places, self._unfinished = rendezvous, places, unfinished

    async def post(self) -> None:
        self._unfinished.pop(cast("HTTP1Connection", self.request.connection).stream, None)
        try:
            request = messages.decode(self.request.body, Request)
            if self._places.locked():
                reply = self._rendezvous.join(request)
            else:
                async with self._places:
                    reply = await self._rendezvous.join_and_wait(request, HOLD_S)
        except ValueError as error:
            self.finish_text(f"{error}\n", HTTPStatus.BAD_REQUEST)
        except Refused as error:
            self.finish_text(f"{error}\n", HTTPStatus.CONFLICT)
        else:
            self.set_header("Content-Type", "application/json")
            self.finish(messages.encode(reply))


def allow_files(wanted: int) -> int:
    """Raise this process's limit of open files to `wanted`, or as far as allowed; returns the limit.

    Containers usually start with 1,024, which is too few for a thousand supervisors that ask at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
