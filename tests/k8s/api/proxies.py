"""Proxies on this machine, which write down where they are asked to connect to."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import Any


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy that connects everything to one server, whatever it is asked for.

    Args:
        speak: reads the request for a connection and confirms it; returns what was asked for.
        server: the port of the server on this machine.

    Attributes:
        asked: what it was asked for.
    """

    daemon_threads = True

    def __init__(self, speak: Any, server: int) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.speak, self.to, self.asked = speak, server, list[str]()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class Tunnel(socketserver.StreamRequestHandler):
    """One connection."""

    server: Proxy

    def handle(self) -> None:
        """Connect both sides until one of them ends."""
        self.server.asked.append(self.server.speak(self.rfile, self.wfile))
        with socket.create_connection(("127.0.0.1", self.server.to)) as far:

            def answer() -> None:
                while data := far.recv(2**16):
                    self.wfile.write(data)

            back = threading.Thread(target=answer, daemon=True)
            back.start()
            while data := self.rfile.read1():
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)
            back.join()


def http(near: Any, answer: Any) -> str:
    """The CONNECT method of HTTP; returns the host with its port, and the credentials."""
    line, authorization = near.readline().decode().split(" "), ""
    while header := near.readline().decode().strip():
        if header.lower().startswith("proxy-authorization:"):
            authorization = header.partition(": ")[2]
    answer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    return f"{line[0]} {line[1]} {authorization}".strip()


def socks(near: Any, answer: Any) -> str:
    """SOCKS 5 (RFC 1928), with a password (RFC 1929) where the other side offers one; returns what http() does."""
    offered = near.read(near.read(2)[1])
    password = ""
    answer.write(b"\5" + (b"\2" if 2 in offered else b"\0"))
    if 2 in offered:
        near.read(1)
        password = ":".join(near.read(near.read(1)[0]).decode() for _ in range(2))
        answer.write(b"\1\0")
    kind = near.read(4)[3]
    host = near.read(near.read(1)[0]).decode() if kind == 3 else socket.inet_ntoa(near.read(4))
    port = int.from_bytes(near.read(2), "big")
    answer.write(b"\5\0\0\1\0\0\0\0\0\0")
    return f"{'name' if kind == 3 else 'address'} {host}:{port} {password}".strip()
