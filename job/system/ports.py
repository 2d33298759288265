"""Hold ports of this machine until other processes of the same user listen on them."""

from __future__ import annotations

import ctypes
import socket
import struct
from contextlib import suppress

LOOPBACK = "127.0.0.1"
# From Linux's asm-generic/socket.h; Python's socket lacks them.
SO_ATTACH_FILTER = 26
SO_ATTACH_REUSEPORT_CBPF = 51
# Programs of the kernel's packet filter, from linux/filter.h: code, jumps if true and if false, value.
# See https://docs.kernel.org/networking/filter.html.
NETWORK_HEADER = 0xFFF00000
DROP = [(0x06, 0, 0, 0)]
SECOND_SOCKET_IF_TO_LOOPBACK = [
    (0x30, 0, 0, NETWORK_HEADER),  # the first byte of the header
    (0x74, 0, 0, 4),  # its upper half, the version
    (0x15, 0, 3, 4),  # IPv4, or else the last line
    (0x30, 0, 0, NETWORK_HEADER + 16),  # the first byte of the destination
    (0x15, 0, 1, 127),  # 127.0.0.0/8, or else the last line
    (0x06, 0, 0, 1),
    (0x06, 0, 0, 0),
]


def hold_port() -> socket.socket:
    """A socket that holds a free port of the loopback interface, and does not listen.

    Nobody else gets the port, but a socket of the same user can listen there if it sets SO_REUSEPORT too.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((LOOPBACK, 0))
    return held


def hold_guarded_port() -> socket.socket:
    """A socket that holds a free port of all interfaces for TensorFlow's server, and lets only this machine reach it.

    TensorFlow always listens on all interfaces, and executes what it receives. On Linux, this socket therefore listens
    on them too. The kernel gives it every connection that is not made to 127.0.0.0/8, and drops that connection.
    TensorFlow's server must be the second socket that listens there, with SO_REUSEPORT. On other systems, the port is
    only held.
    """
    family = socket.AF_INET6 if has_ipv6() else socket.AF_INET  # as gRPC chooses: see its CreateDualStackSocket()
    guard = socket.socket(family)
    try:
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            guard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        _attach(guard, SO_ATTACH_REUSEPORT_CBPF, SECOND_SOCKET_IF_TO_LOOPBACK)
        _attach(guard, SO_ATTACH_FILTER, DROP)
        guard.bind(("", 0))
        guard.listen(1)
    except OSError:  # not Linux, or a sandbox with fewer options
        guard.close()
        return hold_port()
    return guard


def has_ipv6() -> bool:
    """Whether a socket can have the loopback address of IPv6."""
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def _attach(guard: socket.socket, option: int, program: list[tuple[int, int, int, int]]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    guard.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", len(program), ctypes.addressof(code)))
