"""The supervisor's port: listens at once, and answers in a thread as soon as that has imported Tornado."""

from __future__ import annotations

import resource
import socket
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.rendezvous.server import Rendezvous

CONNECTIONS = 2048  # at most: one half is for unfinished requests, the other for workers that wait for their reply


def serve(host: str, port: int, metrics: Callable[[], bytes], rendezvous: Rendezvous | None) -> Listener:
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
    return Listener(listening, metrics, rendezvous)


class Listener(AbstractContextManager["Listener"]):
    """An event loop in a thread, which answers requests until the context ends."""

    def __init__(self, listening: socket.socket, metrics: Callable[[], bytes], rendezvous: Rendezvous | None) -> None:
        self._listening = listening
        self.port: int = listening.getsockname()[1]
        # The other half of the files that this process may open is for the supervisor itself.
        half = min(CONNECTIONS, allow_files(2 * CONNECTIONS) // 2) // 2
        self._settled = threading.Event()  # the loop runs, or has failed
        self._stop: Callable[[], object] | None = None
        self._error: Exception | None = None

        def started(stop: Callable[[], object]) -> None:
            self._stop = stop
            self._settled.set()

        def answer() -> None:
            try:
                # Asyncio and Tornado take 0.1 s of CPU, while the supervisor starts its first process.
                from job.rendezvous import http  # noqa: PLC0415

                http.answer_requests(listening, metrics, rendezvous, half, started)
            except Exception as error:
                if self._stop:  # it had started
                    raise
                self._error = error  # such as no room for more open files; wait_until_ready() raises it
            finally:
                self._settled.set()

        self._thread = threading.Thread(target=answer, name="http", daemon=True)
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Wait until requests are answered.

        Raises:
            OSError: the event loop cannot start.
            ImportError: this installation is damaged.
        """
        self._settled.wait()
        if self._error:
            raise self._error

    def __exit__(self, *_: object) -> None:
        """Free the port and close all connections."""
        self._settled.wait()
        if self._stop:
            self._stop()
        self._thread.join()
        self._listening.close()  # if the loop could not start


def allow_files(wanted: int) -> int:
    """Raise this process's limit of open files to `wanted`, or as far as allowed; returns the limit.

    Containers usually start with 1,024, which is too few for a thousand supervisors that ask at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
