"""Other ways to the API server than the tests' own: with a role's rights alone, or by a connection that breaks."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.lab import Lab


def present() -> dict[str, Any]:
    """The kubeconfig's present context, with all that it refers to."""
    command = ["kubectl", "config", "view", "--raw", "--minify", "--flatten", "--output=json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def log_in(lab: Lab, role: str, path: Path) -> Path:
    """Bind a role of the namespace to a service account of the same name; gives a kubeconfig of it, at a path."""
    lab.kubectl("create", "serviceaccount", role)
    lab.kubectl("create", "rolebinding", role, f"--role={role}", f"--serviceaccount={lab.namespace}:{role}")
    content = present()
    content["users"][0]["user"] = {"token": lab.kubectl("create", "token", role).strip()}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


class Proxy:
    """Stands between a launcher and the API server, and breaks their connections. Closed at the end of a `with`.

    Args:
        path: where the kubeconfig is written by which a launcher goes this way.
        cut_after: the first connection that has brought so many bytes to the launcher is cut; 0: none is.

    Attributes:
        kubeconfig: the path.
        cuts: how many connections were cut.
    """

    def __init__(self, path: Path, cut_after: int = 0) -> None:
        self.kubeconfig, self.cuts, self._cut_after = path, 0, cut_after
        content = present()
        cluster = content["clusters"][0]["cluster"]
        server = urlsplit(cluster["server"])
        self._server = (str(server.hostname), server.port or 443)
        self._ears = socket.create_server(("127.0.0.1", 0))
        cluster["server"] = f"https://127.0.0.1:{self._ears.getsockname()[1]}"
        cluster.setdefault("tls-server-name", server.hostname)  # of which the server's certificate speaks
        path.write_text(json.dumps(content), encoding="utf-8")
        self._lock = threading.Lock()
        self._open: set[tuple[socket.socket, socket.socket]] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._ears.shutdown(socket.SHUT_RDWR)
        self._ears.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections that there are now."""
        with self._lock:
            pairs = list(self._open)
        for pair in pairs:
            self._break(pair)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._ears.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        """Carry one connection, both ways, to its end."""
        with ExitStack() as stack, suppress(OSError):
            stack.enter_context(near)
            far = stack.enter_context(socket.create_connection(self._server, 10))
            far.settimeout(None)
            pair = (near, far)
            with self._lock:
                self._open.add(pair)
            sending = threading.Thread(target=self._carry, args=(near, far), daemon=True)
            sending.start()
            self._carry(far, near, pair)
            sending.join()
            with self._lock:
                self._open.discard(pair)

    def _carry(self, source: socket.socket, target: socket.socket, to_cut: Any = None) -> None:
        """Carry one direction, until either end closes, or enough is carried of what is to be cut."""
        carried = 0
        with suppress(OSError):
            while data := source.recv(2**14):
                target.sendall(data)
                carried += len(data)
                if to_cut and 0 < self._cut_after <= carried:
                    self._cut_after = 0
                    self._break(to_cut)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _break(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self.cuts += 1
        for one in pair:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
