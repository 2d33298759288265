"""Tests of ports that are held for other processes, and of who can connect to them."""

from __future__ import annotations

import itertools
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from job.system import ports

if TYPE_CHECKING:
    from collections.abc import Callable

FAMILIES = [
    pytest.param(socket.AF_INET, id="IPv4"),
    pytest.param(
        socket.AF_INET6, id="IPv6", marks=pytest.mark.skipif(not ports.has_ipv6(), reason="this machine has no IPv6")
    ),
]
CONNECTIONS = 100


def listen_everywhere(family: socket.AddressFamily, port: int) -> socket.socket:
    """Listen on all interfaces as TensorFlow's server does with TF_GRPC_REUSE_PORT."""
    dual = family == socket.AF_INET6
    return socket.create_server(("", port), family=family, reuse_port=True, dualstack_ipv6=dual)


def is_reached(address: str, port: int) -> bool:
    """Whether something accepts a connection."""
    try:
        socket.create_connection((address, port), timeout=0.5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_a_guarded_server_is_reached_from_this_machine_alone(
    family: socket.AddressFamily, own_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets every connection to the loopback interface and no other, also after it was replaced."""
    monkeypatch.setattr(ports, "has_ipv6", lambda: family == socket.AF_INET6)
    with ports.hold_guarded_port() as held:
        port = held.getsockname()[1]
        assert not is_reached("127.0.0.1", port)
        for _ in range(2):
            with listen_everywhere(family, port) as server, ExitStack() as stack:
                server.settimeout(10)
                for _ in range(CONNECTIONS):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
                    stack.enter_context(server.accept()[0])
                assert not is_reached(own_address, port)
                if family == socket.AF_INET6:
                    assert not is_reached("::1", port)


def test_a_supervisor_listens_on_the_port_that_is_held_for_it() -> None:
    """Connections fail before and after."""
    with ports.hold_port() as held:
        port = held.getsockname()[1]
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port), reuse_port=True):
                socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize("hold", [ports.hold_port, ports.hold_guarded_port])
def test_nobody_else_gets_a_held_port(hold: Callable[[], socket.socket]) -> None:
    """No other socket gets it, whether it asks for this port or any port, even with SO_REUSEPORT."""
    with hold() as held:
        port = held.getsockname()[1]
        for address in ("127.0.0.1", ""):
            with pytest.raises(OSError, match="in use"):
                socket.create_server((address, port))
        for reuse_port, _ in itertools.product((False, True), range(1000)):
            with socket.create_server(("127.0.0.1", 0), reuse_port=reuse_port) as other:
                assert other.getsockname()[1] != port


def test_a_system_without_the_packet_filter_holds_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's server can listen there, and gets every connection."""
    monkeypatch.setattr(ports, "SO_ATTACH_REUSEPORT_CBPF", 9999)  # no such option
    with ports.hold_guarded_port() as held:
        port = held.getsockname()[1]
        assert held.getsockname()[0] == "127.0.0.1"
        with listen_everywhere(socket.AF_INET, port) as server:
            for _ in range(CONNECTIONS):
                with socket.create_connection(("127.0.0.1", port), timeout=10), server.accept()[0]:
                    pass
