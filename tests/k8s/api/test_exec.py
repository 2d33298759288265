"""Commands in containers: their output whole and in order, their exit codes, and connections that break."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import websocket

from k8s.api.errors import ApiError
from k8s.api.exec import exec_in_container
from tests.k8s.api.server import CUT, PODS, Answer, Frames, Server, cluster_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.objects import Object

BINARY, CLOSE, PONG = websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_CLOSE, websocket.ABNF.OPCODE_PONG


class Socket:
    """Plays messages, and raises the exceptions among them."""

    def __init__(self, *events: Any) -> None:
        self._events = list(events)
        self.pings, self.closed, self.sent = 0, False, list[bytes]()
        self.accepts = 100  # messages, before the other end closes the connection

    def recv_data_frame(self, *, control_frame: bool) -> tuple[int, Any]:
        """The next."""
        assert control_frame
        event = self._events.pop(0)
        if isinstance(event, Exception):
            raise event
        kind, data = event
        return kind, SimpleNamespace(data=data)

    def ping(self) -> None:
        """Ask whether the other end is there."""
        self.pings += 1

    def send_binary(self, message: bytes) -> None:
        """Take a message."""
        if len(self.sent) == self.accepts:
            raise BrokenPipeError
        self.sent.append(message)

    def shutdown(self) -> None:
        """Close it."""
        self.closed = True


def run(socket: Socket, *stdin: bytes) -> tuple[tuple[int, str], bytes]:
    """Run a command over a socket; returns its result and its output."""
    output = bytearray()
    result = exec_in_container(socket, output.extend, "run a command in pod a", stdin)
    return result, bytes(output)


def status(**fields: Any) -> tuple[int, bytes]:
    """The message with which a command ends."""
    return BINARY, b"\3" + json.dumps(fields).encode()


def ended_with(code: int) -> Object:
    """The Status of a command that ended with a code other than 0."""
    return {"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}


def test_output_and_end() -> None:
    """Standard output arrives byte by byte as written; standard error and the exit code are in the result."""
    everything = bytes(range(256))
    socket = Socket(
        (BINARY, b"\1"),
        (BINARY, b"\1" + everything),
        (PONG, b"late"),
        (BINARY, b"\2no such"),
        (BINARY, b"\1" + everything),
        (BINARY, b"\2 file"),
        (BINARY, b"\xff\1"),
        status(**ended_with(7)),
        (CLOSE, b""),
    )
    assert run(socket) == ((7, "no such file"), everything * 2)
    assert socket.closed


def test_input() -> None:
    """Standard input is sent piece by piece; a command that ends before it has read all of it still says why."""
    socket = Socket(status(status="Success"), (CLOSE, b""))
    run(socket, b"some", b"more")
    assert socket.sent == [b"\0some", b"\0more"]
    socket = Socket((BINARY, b"\2disk full"), status(**ended_with(1)), BrokenPipeError())
    socket.accepts = 1
    assert run(socket, b"some", b"more") == ((1, "disk full"), b"")


def test_silence() -> None:
    """A command may be silent as long as the other end answers."""
    silence = websocket.WebSocketTimeoutException("timed out")
    socket = Socket(silence, (PONG, b""), silence, (PONG, b""), status(status="Success"), (CLOSE, b""))
    assert run(socket) == ((0, ""), b"")
    assert socket.pings == 2


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (
            [websocket.WebSocketTimeoutException("x"), websocket.WebSocketTimeoutException("x")],
            "no answer for 60 s",
        ),
        ([(BINARY, b"\1half"), websocket.WebSocketConnectionClosedException("lost")], "lost"),
        ([(BINARY, b"\1half"), (CLOSE, b"")], "the connection was closed before the command had ended"),
        (
            [status(status="Failure", reason="InternalError", message="dial tcp: no route to host"), (CLOSE, b"")],
            "no route",
        ),
    ],
    ids=["dead", "cut", "closed", "node away"],
)
def test_broken_connections(events: list[Any], said: str) -> None:
    """A connection that breaks is not taken for the end of the command."""
    with pytest.raises(ConnectionError, match=said):
        run(Socket(*events))


def test_a_command_that_cannot_be_started() -> None:
    """That is an error of the API server, and not a broken connection."""
    said = status(status="Failure", reason="InternalError", code=500, message="OCI runtime exec failed: nosuch")
    with pytest.raises(ApiError) as caught:
        run(Socket(said, (CLOSE, b"")))
    assert str(caught.value) == "the API server refused to run a command in pod a: OCI runtime exec failed: nosuch"


def test_a_command_over_a_real_connection(serve: Callable[..., Server]) -> None:
    """The request carries the command and the credentials; its answer is the command's output and exit code."""
    server = serve(Frames(b"\1out", b"\2err", b"\3" + json.dumps(ended_with(3)).encode()))
    output = bytearray()
    result = cluster_at(server.port).run_in("a", "trainer", ["echo", "a b", "&"], output.extend, [b"in"])
    assert (result, bytes(output)) == ((3, "err"), b"out")
    [(method, url, _)] = server.asked
    query = "container=trainer&stdout=true&stderr=true&stdin=true&command=echo&command=a+b&command=%26"
    assert (method, url) == ("GET", f"{PODS}/a/exec?{query}")
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert server.headers[0]["sec-websocket-protocol"] == "v5.channel.k8s.io,v4.channel.k8s.io"


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (
            (403, {"reason": "Forbidden", "message": "pods/exec is forbidden"}),
            ApiError,
            "the API server refused to run a command in pod a: pods/exec is forbidden",
        ),
        ((404, b"gone"), ApiError, "the API server refused to run a command in pod a: HTTP 404: gone"),
        ((503, {"message": "no endpoints"}), ConnectionError, "no endpoints"),
        (CUT, ConnectionError, ""),
    ],
    ids=["forbidden", "gone", "busy", "cut"],
)
def test_refusals(serve: Callable[..., Server], answer: Answer, error: type[Exception], said: str) -> None:
    """A lasting refusal is an error of the API server; a temporary one is a broken connection."""
    with pytest.raises(error, match=f"^{said}") as caught:
        cluster_at(serve(answer).port).run_in("a", "trainer", ["true"], print)
    assert isinstance(caught.value, error)


def test_nobody_at_the_address(serve: Callable[..., Server]) -> None:
    """A command is not run where no connection is made."""
    server = serve()
    server.end()
    with pytest.raises(ConnectionError, match=r"^Connection refused$"):
        cluster_at(server.port).run_in("a", "trainer", ["true"], print)
