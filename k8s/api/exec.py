"""A command that runs in a container: its output as it comes, and how it ended, over a websocket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from k8s.api.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

STDOUT, STDERR, STATUS = 1, 2, 3  # the first byte of each message: Kubernetes' v4.channel.k8s.io and v5
SILENT_S = 30.0  # after so much silence the other end is asked whether it is there, and after as much again it is not


class Ended(NamedTuple):
    """How a command in a container ended: its exit code, and what it wrote on standard error."""

    code: int
    errors: str


def run(configuration: Any, url: str, headers: Mapping[str, str], write: Callable[[bytes], Any], what: str) -> Ended:
    """Follow a command to its end, its standard output going to write() as it comes.

    Args:
        configuration: a kubernetes.client.Configuration, for certificates and proxies.
        url: of the exec request, with its query.
        headers: of the request, for the credentials in them.
        write: gets standard output, piece by piece.
        what: what is done, for the error's sentence.

    Raises:
        ConnectionError: the connection broke, or was never made; how the command ended is not known.
        ApiError: the pod is gone, or exec is not allowed.
    """
    errors, status = bytearray(), bytearray()
    for channel, data in _messages(_connected(configuration, url, headers, what)):
        if channel == STDOUT:
            write(data)
        elif channel == STDERR:
            errors += data
        elif channel == STATUS:
            status += data
    if not status:
        raise ConnectionError("the connection was closed before the command had ended")
    return Ended(exit_code(json.loads(status), what), errors.decode(errors="replace"))


def _connected(configuration: Any, url: str, headers: Mapping[str, str], what: str) -> Any:
    """A websocket on which the command runs."""
    import websocket  # noqa: PLC0415 - not needed for a command's --help
    from kubernetes.stream.ws_client import create_websocket  # noqa: PLC0415

    websocket.setdefaulttimeout(SILENT_S)
    # The client's own WSClient keeps what comes faster than it is read, and loses what comes with the end.
    try:
        return create_websocket(configuration, url, headers)
    except websocket.WebSocketBadStatusException as error:
        raise _refusal(int(error.status_code), error.resp_body or b"", what) from None
    except (websocket.WebSocketException, OSError) as error:
        raise ConnectionError(str(error)) from None


def _messages(socket: Any) -> Iterator[tuple[int, bytes]]:
    """The messages that come, each with its channel, until the other end closes; the socket is closed afterwards."""
    import websocket  # noqa: PLC0415

    asked = False
    try:
        while True:
            try:
                kind, frame = socket.recv_data_frame(control_frame=True)
            except websocket.WebSocketTimeoutException:
                if asked:
                    raise ConnectionError(f"nothing was heard for {2 * SILENT_S:.0f} s") from None
                asked = True
                socket.ping()
                continue
            asked = False
            if kind == websocket.ABNF.OPCODE_CLOSE:
                return
            if kind in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT) and frame.data:
                yield frame.data[0], frame.data[1:]
    except (websocket.WebSocketException, OSError) as error:
        raise ConnectionError(str(error)) from None
    finally:
        socket.shutdown()


def exit_code(status: Mapping[str, Any], what: str) -> int:
    """The exit code in the Status with which an exec ends.

    Raises:
        OSError: it did not end, but the connection between API server and node did.
        ApiError: it never began.
    """
    if status.get("status") == "Success":
        return 0
    for cause in status.get("details", {}).get("causes", []):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    message = status.get("message") or "it is not known how the command ended"
    if status.get("reason") == "InternalError" and "OCI runtime" not in message:
        raise ConnectionError(message)
    raise ApiError(status.get("code") or 500, status.get("reason") or "", message, what)


def _refusal(code: int, body: bytes, what: str) -> Exception:
    """What an answer in place of a connection means."""
    try:
        status = json.loads(body)
        reason, message = status.get("reason") or "", status.get("message") or f"HTTP {code}"
    except (ValueError, AttributeError):
        reason, message = "", f"HTTP {code}: {body[:200].decode(errors='replace').strip()}"
    # As where a node cannot be reached at the moment.
    return ConnectionError(message) if code == 429 or code >= 500 else ApiError(code, reason, message, what)
