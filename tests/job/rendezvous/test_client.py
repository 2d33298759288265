"""What a request to rank 0 makes of any reply, and of no reply."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from itertools import repeat
from typing import TYPE_CHECKING

import pytest

from job.rendezvous.client import ask
from job.rendezvous.messages import Refused, Reply, Request, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REQUEST = Request("r", "u", "5e77", "30de1", 3, 1, "s", 1, "a", "", "10.0.0.1:2222", "waiting", 0)
REPLY = Reply("g", 3, (), ("a:1", "b:2", "c:3"))
OK = b"HTTP/1.0 200 OK\r\n\r\n"


@contextmanager
def server(chunks: Iterable[bytes]) -> Iterator[str]:
    """The address of a server that reads a request, writes these chunks and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    request = b""
                    while not request.endswith(b"}"):  # closed before that, the connection would be reset
                        request += connection.recv(2**16)
                    for chunk in chunks:
                        connection.sendall(chunk)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_reply_in_pieces_is_put_together() -> None:
    """Even if each has one byte."""
    with server(bytes([byte]) for byte in OK + encode(REPLY)) as address:
        assert ask(address, REQUEST, 60) == REPLY


def test_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers reach each other directly, whatever the environment says."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with server([OK + encode(REPLY)]) as address:
        assert ask(address, REQUEST, 60) == REPLY


def test_a_refusal_is_raised_with_its_reason() -> None:
    """In one line of printable text, whatever was received."""
    answer = b"HTTP/1.0 409 Conflict\r\nX: y\r\n\r\nanother\x1b[2J run\r\n"
    with server([answer]) as address, pytest.raises(Refused) as refused:
        ask(address, REQUEST, 60)
    assert str(refused.value) == "another[2J run"


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [OK[:12]],
        [OK],
        [OK + encode(REPLY)[:-1]],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n" + encode(REPLY)],
        [b"HTTP/1.0 404 Not Found\r\n\r\n" + encode(REPLY)],
        [b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"],
        [b"SSH-2.0-OpenSSH_9.9\r\n"],
        [b"\x00\xff\r\n\r\n"],
        [OK + b"<html>"],
        [OK + encode(Reply("g", 3, (), ("a:1",)))],  # one address of three
        repeat(b"x" * 2**16),
        [OK, *repeat(b"x" * 2**16, 32)],
    ],
    ids=range(13),
)
def test_nonsense_is_an_os_error(chunks: Iterable[bytes], capfd: pytest.CaptureFixture[str]) -> None:
    """A reply that breaks off, is another server's, or does not end."""
    with server(chunks) as address, pytest.raises(OSError, match=r"the process there is not worker 0|reset"):
        ask(address, REQUEST, 60)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("start", [b"", OK], ids=["header", "body"])
def test_the_time_for_a_whole_reply_is_bounded(start: bytes) -> None:
    """A byte now and then does not extend it."""
    stop = threading.Event()

    def drip() -> Iterator[bytes]:
        yield start
        while not stop.wait(0.02):
            yield b"x"

    with server(drip()) as address:
        with pytest.raises(TimeoutError):
            ask(address, REQUEST, 0.3)
        stop.set()


def test_no_server_is_an_os_error() -> None:
    """A port on which nobody listens, a server that does not reply, and a text that is no host's name."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(TimeoutError):
            ask(f"127.0.0.1:{port}", REQUEST, 0.1)
    with pytest.raises(ConnectionRefusedError):
        ask(f"127.0.0.1:{port}", REQUEST, 60)
    with pytest.raises(OSError, match="the process there is not worker 0"):
        ask(f"{'x' * 64}..y:{port}", REQUEST, 60)
