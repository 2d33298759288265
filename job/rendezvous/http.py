"""What the supervisor's port answers: /healthz, /metrics and, at rank 0, /join, by Tornado.

No request may harm the supervisor, and no flood of unfinished requests may keep the workers out.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from job.rendezvous import messages
from job.rendezvous.messages import Refused, Request

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
    from tornado.iostream import IOStream

    from job.rendezvous.server import Rendezvous

RECEIVE_S = 5.0  # for the whole header of a request, and again for its body
HOLD_S = 2.0  # for which a reply is held back at most; well below ANSWER_S and FRESH_S
AGAIN_S = 0.25  # within which a worker that gave up a request after ANSWER_S sends the next one
HEADER_BYTES = 8192
BODY_BYTES = 4096


def answer_requests(
    listening: socket.socket,
    metrics: Callable[[], bytes],
    rendezvous: Rendezvous | None,
    places: int,
    started: Callable[[Callable[[], object]], None],
) -> None:
    """Answer requests until asked to stop.

    Args:
        listening: the port, not blocking.
        metrics: returns the text of /metrics.
        rendezvous: answers /join; None above rank 0.
        places: how many unfinished requests there may be, and how many workers that wait for their reply.
        started: called, when requests are answered, with a function that stops this from any thread.

    Raises:
        OSError: the process may open no more files.
    """
    # Tornado would print a warning for some malformed requests.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    unfinished: dict[IOStream, None] = {}
    routes: list[Any] = [("/healthz", _Health), ("/metrics", _Metrics, {"metrics": metrics})]
    if rendezvous:
        options = {"rendezvous": rendezvous, "places": asyncio.Semaphore(places), "unfinished": unfinished}
        routes.append(("/join", _Join, options))
    application = Application(routes, default_handler_class=_NotFound, log_function=lambda _: None)

    async def answer() -> None:
        server = _BoundedServer(application, unfinished, places)
        server.add_socket(listening)
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        started(lambda: loop.call_soon_threadsafe(stop.set))
        await stop.wait()
        loop.set_exception_handler(lambda *_: None)  # a reply that is cut off now is not worth a traceback
        server.stop()
        await server.close_all_connections()

    asyncio.run(answer())


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
        self._held: Request | None = None  # whose reply is held back

    def on_connection_close(self) -> None:
        if self._held:
            asyncio.get_running_loop().call_later(AGAIN_S, self._rendezvous.hang_up, self._held)

    async def post(self) -> None:
        self._unfinished.pop(cast("HTTP1Connection", self.request.connection).stream, None)
        try:
            request = messages.decode(self.request.body, Request)
            if self._places.locked():
                reply = self._rendezvous.join(request)
            else:
                async with self._places:
                    self._held = request
                    reply = await self._rendezvous.join_and_wait(request, HOLD_S)
        except ValueError as error:
            self.finish_text(f"{error}\n", HTTPStatus.BAD_REQUEST)
        except Refused as error:
            self.finish_text(f"{error}\n", HTTPStatus.CONFLICT)
        else:
            self.set_header("Content-Type", "application/json")
            self.finish(messages.encode(reply))
