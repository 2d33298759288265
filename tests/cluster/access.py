"""Restricted access to the API server: with the rights of one role, or over connections that break."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.namespace import Namespace


def current_kubeconfig() -> dict[str, Any]:
    """The kubeconfig, reduced to its current context."""
    command = ["kubectl", "config", "view", "--raw", "--minify", "--flatten", "--output=json"]
    config: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return config


def current_context() -> str:
    """The name of the current context."""
    [context] = current_kubeconfig()["contexts"]
    return str(context["name"])


def kind_name() -> str | None:
    """The name of the kind cluster that is the current context; None if that is another cluster."""
    context = current_context()
    return context.removeprefix("kind-") if context.startswith("kind-") else None


def kind_cluster(*programs: str) -> str:
    """The name of the kind cluster that is the current context. Skips the test without one, or without a program."""
    name = kind_name()
    if not name:
        pytest.skip(f"the current context, {current_context()}, is not a kind cluster")
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    return name


def log_in(namespace: Namespace, role: str, path: Path) -> Path:
    """Bind a role of the namespace to a service account of the same name, and write its kubeconfig to a path."""
    namespace.kubectl("create", "serviceaccount", role)
    namespace.kubectl("create", "rolebinding", role, f"--role={role}", f"--serviceaccount={namespace.name}:{role}")
    content = current_kubeconfig()
    content["users"][0]["user"] = {"token": namespace.kubectl("create", "token", role).strip()}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


class Proxy:
    """A proxy between a launcher and the API server that breaks connections. Closed at the end of a `with`.

    Args:
        path: where to write a kubeconfig that leads to the proxy.
        cut_after: break the first connection that has carried so many bytes to the launcher; 0: break none.

    Attributes:
        kubeconfig: the path.
        cuts: the number of broken connections.
    """

    def __init__(self, path: Path, cut_after: int = 0) -> None:
        self.kubeconfig, self.cuts, self._cut_after = path, 0, cut_after
        content = current_kubeconfig()
        cluster = content["clusters"][0]["cluster"]
        server = urlsplit(cluster["server"])
        self._server = (str(server.hostname), server.port or 443)
        self._listener = socket.create_server(("127.0.0.1", 0))
        cluster["server"] = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        cluster.setdefault("tls-server-name", server.hostname)  # the name in the server's certificate
        path.write_text(json.dumps(content), encoding="utf-8")
        self._lock = threading.Lock()
        self._open: set[tuple[socket.socket, socket.socket]] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break all open connections."""
        with self._lock:
            pairs = list(self._open)
        for pair in pairs:
            self._break(pair)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        """Forward one connection in both directions until it ends."""
        with ExitStack() as stack, suppress(OSError):
            stack.enter_context(near)
            far = stack.enter_context(socket.create_connection(self._server, 10))
            far.settimeout(None)
            pair = (near, far)
            with self._lock:
                self._open.add(pair)
            sending = threading.Thread(target=self._forward, args=(near, far), daemon=True)
            sending.start()
            self._forward(far, near, pair)
            sending.join()
            with self._lock:
                self._open.discard(pair)

    def _forward(self, source: socket.socket, target: socket.socket, to_cut: Any = None) -> None:
        """Forward one direction until either end closes, and break the pair `to_cut` after so many bytes."""
        forwarded = 0
        with suppress(OSError):
            while data := source.recv(2**14):
                target.sendall(data)
                forwarded += len(data)
                if to_cut and 0 < self._cut_after <= forwarded:
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
