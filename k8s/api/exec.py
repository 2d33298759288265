"""Run a command in a container over a websocket: its input and output as bytes, and its exit code."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import websocket

from k8s.api.errors import refusal
from k8s.api.requests import connect, connection_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# The first byte of each message names its channel, in the protocols v4.channel.k8s.io and v5.
STDIN, STDOUT, STDERR, STATUS = range(4)
PROTOCOLS = "sec-websocket-protocol: v5.channel.k8s.io,v4.channel.k8s.io"
SILENT_S = 30.0  # a connection that has been silent for so long is pinged, and given up on after as much again


def open_exec(client: Any, url: str, headers: Mapping[str, str], action: str) -> Any:
    """Open the websocket of an exec request over the client's own connections, with its proxy and certificates.

    Returns a websocket.WebSocket.

    Args:
        client: a kubernetes.client.ApiClient.
        url: of the exec request, with its query.
        headers: of the request, with the credentials.
        action: what is being done, for the sentence of an error.

    Raises:
        OSError: no connection was made.
        ApiError: the pod is gone, exec is not allowed, or not at the moment.
    """
    # The Kubernetes client's own WSClient sends no other headers than the token's, does not know SOCKS, buffers output
    # that arrives faster than it is read, and loses what arrives together with the end.
    with connection_errors(client.configuration):
        connection = connect(client, url, SILENT_S)
    socket: Any = websocket.WebSocket()
    lines = [f"{name}: {value}" for name, value in headers.items()]
    try:
        # The scheme has an effect only on the Host and Origin headers.
        socket.connect(re.sub("^http", "ws", url), socket=connection, header=[*lines, PROTOCOLS], redirect_limit=0)
    except websocket.WebSocketBadStatusException as error:
        after = (error.resp_headers or {}).get("retry-after", "")
        raise refusal(int(error.status_code), error.resp_body or b"", action, after) from None
    except (websocket.WebSocketException, OSError) as error:
        raise ConnectionError(str(error)) from None
    return socket


def exec_in_container(
    socket: Any, write: Callable[[bytes], Any], action: str, stdin: Iterable[bytes] = ()
) -> tuple[int, str]:
    """Run a command until it ends; returns its exit code and what it wrote to standard error.

    Args:
        socket: of open_exec().
        write: receives standard output, piece by piece.
        action: what is being done, for the sentence of an error.
        stdin: the command's input. It is never closed, so the command must know how much to read.

    Raises:
        ConnectionError: the connection broke. The command may have ended or not.
        ApiError: the command was never started.
    """
    errors, status = bytearray(), bytearray()
    sent_all = False
    try:
        sent_all = _send(socket, stdin)
        for channel, data in _messages(socket):
            if channel == STDOUT:
                write(data)
            elif channel == STDERR:
                errors += data
            elif channel == STATUS:
                status += data
    except ConnectionError:
        # A command that ends before it has read all of its input closes the connection under what is still sent.
        if sent_all or not status:
            raise
    finally:
        socket.shutdown()
    if not status:
        raise ConnectionError("the connection was closed before the command had ended")
    return exit_code_of(bytes(status), action), errors.decode(errors="replace")


def _send(socket: Any, stdin: Iterable[bytes]) -> bool:
    """Send the command's input; returns whether all of it could be sent before the connection was closed."""
    for piece in stdin:
        try:
            socket.send_binary(bytes([STDIN]) + piece)
        except (websocket.WebSocketException, OSError):
            return False
    return True


def _messages(socket: Any) -> Iterator[tuple[int, bytes]]:
    """Each message with its channel, until the other end closes the connection."""
    pinged = False
    try:
        while True:
            try:
                kind, frame = socket.recv_data_frame(control_frame=True)
            except websocket.WebSocketTimeoutException:
                if pinged:
                    raise ConnectionError(f"no answer for {2 * SILENT_S:.0f} s") from None
                pinged = True
                socket.ping()
                continue
            pinged = False
            if kind == websocket.ABNF.OPCODE_CLOSE:
                return
            if kind in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT) and frame.data:
                yield frame.data[0], frame.data[1:]
    except (websocket.WebSocketException, OSError) as error:
        raise ConnectionError(str(error)) from None


def exit_code_of(text: bytes, action: str) -> int:
    """The exit code in the Status object that ends an exec.

    Raises:
        ConnectionError: the connection between the API server and the node broke; the command may have ended or not.
        ApiError: the command was never started.
    """
    status = json.loads(text)
    if status.get("status") == "Success":
        return 0
    for cause in status.get("details", {}).get("causes", []):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    refused = refusal(status.get("code") or 500, text, action)
    if refused.reason == "InternalError" and "OCI runtime" not in refused.message:
        raise ConnectionError(refused.message)
    raise refused
