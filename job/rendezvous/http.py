"""The supervisor's port: /healthz, /metrics and, at rank 0, /join. Nothing that anybody sends there does it harm."""

from __future__ import annotations

import errno
import re
import resource
import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from job.rendezvous.server import Answer, Request

CONNECTIONS = 1024  # at a time
LIFE_S = 5.0  # of a connection
TICK_S = 0.5
HEAD_BYTES = 8192
BODY_BYTES = 4096
BLANK_LINE = re.compile(rb"\r?\n\r?\n")
LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,4})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
NO_MORE_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def serve(host: str, port: int, metrics: Callable[[], bytes], join: Callable[[Request], Answer] | None) -> Server:
    """Answer at a port, in threads of its own, until the server is closed.

    Args:
        host: an IP address; "" for all interfaces.
        port: 0 for one that is free.
        metrics: what /metrics shows.
        join: what /join does, in a thread of its own for each request; None where this is not rank 0.

    Raises:
        OSError: the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if not host and socket.has_dualstack_ipv6():
        listening = socket.create_server(("", port), family=socket.AF_INET6, backlog=CONNECTIONS, dualstack_ipv6=True)
    else:
        # Here, who starts the workers holds their ports for them, so that nobody takes one while its worker is away.
        shared = host == "::1" or host.startswith("127.")
        listening = socket.create_server((host, port), family=family, backlog=CONNECTIONS, reuse_port=shared)
    return Server(listening, metrics, join)


class Server:
    """Reads all requests in one thread, so that a slow one costs a buffer, and answers each whole one in another.

    A connection lives LIFE_S. Where there are too many, the one that has been sending its request for longest makes
    room: were new ones refused, those who hold idle ones open could keep the workers out.
    """

    def __init__(
        self, listening: socket.socket, metrics: Callable[[], bytes], join: Callable[[Request], Answer] | None
    ) -> None:
        self.port: int = listening.getsockname()[1]
        self._listening, self._metrics, self._join = listening, metrics, join
        self._listening.setblocking(False)
        # The other half of the files that this process may open is for the supervisor's own work.
        self._room = min(CONNECTIONS, allow_files(2 * CONNECTIONS) // 2)
        self._reading: dict[socket.socket, tuple[float, bytearray]] = {}  # when it was accepted; the oldest is first
        self._answering: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._open, self._watched = socket.socketpair()  # to close the one wakes the thread
        self._selector.register(self._watched, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="endpoints", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the port; answers that are under way are still given."""
        self._open.close()
        self._thread.join()

    def _run(self) -> None:
        while self._open.fileno() >= 0:
            for key, _ in self._selector.select(TICK_S if self._reading else None):
                if key.fileobj is self._listening:
                    self._accept()
                elif key.fileobj in self._reading:  # it may just have made room
                    self._read(key.fileobj)
            while self._reading and time.monotonic() - next(iter(self._reading.values()))[0] > LIFE_S:
                self._drop_oldest()
        while self._reading:
            self._drop_oldest()
        self._selector.close()
        self._watched.close()
        self._listening.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            if error.errno in NO_MORE_FILES:
                time.sleep(TICK_S / 10)  # it is still there to accept, at once
            return
        if len(self._reading) + len(self._answering) >= self._room:
            if not self._reading:
                connection.close()
                return
            self._drop_oldest()
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self._reading[connection] = time.monotonic(), bytearray()

    def _read(self, connection: socket.socket) -> None:
        accepted, data = self._reading[connection]
        try:
            chunk = connection.recv(HEAD_BYTES + BODY_BYTES - len(data))
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        data += chunk
        if chunk and not is_whole(data):
            return
        self._forget(connection)
        if not chunk:
            connection.close()
            return
        self._answering.add(connection)
        try:
            threading.Thread(target=self._answer, args=(connection, bytes(data), accepted), daemon=True).start()
        except RuntimeError:  # no more threads
            self._answering.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket, data: bytes, accepted: float) -> None:
        # Only here, for whom nobody asks anything: half of what the supervisor's own modules cost to import.
        from job.rendezvous.exchange import Exchange  # noqa: PLC0415

        try:
            with connection, suppress(OSError):
                answer = Exchange(data, self._metrics, self._join).answer
                connection.settimeout(max(TICK_S, accepted + LIFE_S - time.monotonic()))
                connection.sendall(answer)
        finally:
            self._answering.discard(connection)

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._reading))
        self._forget(oldest)
        oldest.close()

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._reading[connection]


def allow_files(wanted: int) -> int:
    """Let this process open so many files if it may; returns how many of them it can.

    Of a thousand supervisors that ask at once, a container's usual 1,024 would turn half away.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def is_whole(data: bytes | bytearray) -> bool:
    """Whether a request can be answered: it is all there, or too long."""
    blank = BLANK_LINE.search(data)
    if not blank:
        return len(data) >= HEAD_BYTES
    length = LENGTH.search(data, 0, blank.end())
    body = int(length[1]) if length else 0
    return body > BODY_BYTES or len(data) >= min(blank.end() + body, HEAD_BYTES + BODY_BYTES)
