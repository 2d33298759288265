"""A network on this machine with a chosen latency and bandwidth. It needs Linux and root.

Each worker has a network namespace with one TUN device, and a process forwards the packets between them with the given
delay and rate. The kernel's own tool for this, netem, is not in every kernel. The machine's network does not change.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import select
import struct
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from benchmarks.measure import PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PR_SET_TIMERSLACK = 29
MTU = 65_000  # a gradient fits into one packet, so that forwarding costs little


class Network:
    """The network of a number of workers. It is removed at the end of a `with`."""

    def __init__(self, workers: int) -> None:
        self._names = [f"bench-{uuid.uuid4().hex[:6]}-{rank}" for rank in range(workers)]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            devices = [stack.enter_context(os.fdopen(os.open("/dev/net/tun", os.O_RDWR))) for _ in self._names]
            for rank, (name, device) in enumerate(zip(self._names, devices, strict=True)):
                link = self._link(rank)
                fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", link.encode(), IFF_TUN | IFF_NO_PI))
                ip("netns", "add", name)
                stack.callback(ip, "netns", "delete", name)
                ip("link", "set", link, "netns", name)
                ip("-n", name, "address", "add", f"{self.address(rank)}/24", "dev", link)
                ip("-n", name, "link", "set", link, "mtu", str(MTU), "up")
                ip("-n", name, "link", "set", "lo", "up")
            numbers = [device.fileno() for device in devices]
            command = [sys.executable, "-m", "benchmarks.network", *map(str, numbers)]
            self._forwarder = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=numbers, cwd=PROJECT)
            )
            stack.callback(self._forwarder.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def address(self, rank: int) -> str:
        """A worker's IP address."""
        return f"10.77.0.{rank + 1}"

    def wrapper(self, rank: int) -> tuple[str, ...]:
        """The start of a command line that runs the rest of it in a worker's namespace."""
        return ("nsenter", f"--net=/run/netns/{self._names[rank]}")

    def sent(self, rank: int) -> tuple[int, int]:
        """The number of packets and of bytes that a worker has sent."""
        [link] = json.loads(ip("-json", "-stats", "-n", self._names[rank], "link", "show", self._link(rank)))
        return link["stats64"]["tx"]["packets"], link["stats64"]["tx"]["bytes"]

    def _link(self, rank: int) -> str:
        return self._names[rank].removeprefix("bench-")

    def shape(self, delay_s: float, bytes_per_s: float = float("inf")) -> None:
        """From now on delay each packet, and limit what each worker sends."""
        if self._forwarder.stdin:
            self._forwarder.stdin.write(f"{delay_s} {bytes_per_s}\n".encode())
            self._forwarder.stdin.flush()


def ip(*words: str) -> str:
    """Run `ip` of iproute2; returns its output."""
    return subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def forward(devices: Sequence[int]) -> None:
    """Forward packets between TUN devices until standard input ends; its lines set delay and rate."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    delay_s, bytes_per_s = 0.0, float("inf")
    free_at = dict.fromkeys(devices, 0.0)
    in_flight: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        wait_s = max(0.0, in_flight[0][0] - time.monotonic()) if in_flight else None
        ready = select.select([0, *devices], [], [], wait_s)[0]
        for device in ready:
            if device == 0:
                line = os.read(0, 1000)
                if not line:
                    return
                delay_s, bytes_per_s = map(float, line.splitlines()[-1].split())
                continue
            packet = os.read(device, MTU + 100)
            if packet[0] >> 4 != 4:  # IPv6 neighbour discovery
                continue
            free_at[device] = max(time.monotonic(), free_at[device]) + len(packet) / bytes_per_s
            number += 1
            heapq.heappush(in_flight, (free_at[device] + delay_s, number, devices[packet[19] - 1], packet))
        while in_flight and in_flight[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(in_flight)
            os.write(device, packet)


if __name__ == "__main__":
    forward([int(number) for number in sys.argv[1:]])
