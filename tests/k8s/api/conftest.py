"""Servers that play an API server."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

import k8s.api.cluster
import k8s.api.contexts
import k8s.api.kubeconfig
import k8s.api.requests
from tests.k8s.api.server import (
    Answer,
    Server,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def one_field_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The creator of an object is always `me`."""
    monkeypatch.setattr(k8s.api.cluster, "field_manager", lambda: "me")


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers with prepared answers, and stops them."""
    begun = []

    def start(*answers: Answer, port: int = 0) -> Server:
        begun.append(Server(*answers, port=port))
        begun[-1].begin()
        return begun[-1]

    yield start
    for server in begun:
        server.end()


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a kubeconfig that does not exist, outside of any cluster."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setattr(k8s.api.contexts, "DEFAULT", path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return path


@pytest.fixture
def secured(serve: Callable[..., Server], tmp_path: Path) -> Server:
    """A server with a self-signed certificate, in cert.pem."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return secure(serve(), certificate, key)


def secure(server: Server, certificate: Path, key: Path) -> Server:
    """A server that speaks TLS from now on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


@pytest.fixture
def loosely_secured(serve: Callable[..., Server], tmp_path: Path) -> Server:
    """A server whose certificate, signed by cert.pem, lacks fields of RFC 5280, as those of many clusters do."""
    (tmp_path / "fields").write_text("subjectAltName=IP:127.0.0.1\n")
    new = "req -newkey rsa:2048 -nodes"
    for command in (
        f"{new} -x509 -days 2 -subj /CN=ca -keyout ca.key -out cert.pem",
        f"{new} -subj /CN=127.0.0.1 -keyout key.pem -out request.pem",
        "x509 -req -in request.pem -CA cert.pem -CAkey ca.key -CAcreateserial -days 2 -extfile fields -out server.pem",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, cwd=tmp_path)
    return secure(serve(), tmp_path / "server.pem", tmp_path / "key.pem")
