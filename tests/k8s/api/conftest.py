"""Servers that play an API server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import k8s.api.cluster
import k8s.api.kubeconfig
import k8s.api.requests
from tests.k8s.api.server import (
    Answer,
    Server,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
