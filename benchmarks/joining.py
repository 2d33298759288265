"""A thousand simulated supervisors meet a real one: how long it takes, and what it costs rank 0."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.measure import PROJECT
from benchmarks.recovery import cpu_s
from job.config import Config
from job.dataset import fingerprint
from job.must_match import settings_hash, settings_to_match
from job.rendezvous.messages import Reply, Request, decode, encode
from job.rendezvous.peers import ANSWER_S, EVERY_S
from job.system.process import PARENT
from tests.job import processes

FILES = 1024  # rank 0's limit of open files at its start, as in most containers
STEADY_S = 6.0
MOST_MB = 60.0  # of the supervisor's memory


@dataclass(frozen=True)
class Joined:
    """The result for one number of workers.

    all_s is the time from the last worker's start until all have the complete reply of answer_bytes bytes. waiting_cpu
    and training_cpu are the cores that rank 0's supervisor uses while all but one worker wait, and while all train.
    slowest_s is the longest time that a reply took in that second phase. failures counts, of all requests, those
    without a reply.
    """

    workers: int
    all_s: float
    answer_bytes: int
    waiting_cpu: float
    training_cpu: float
    slowest_s: float
    peak_mb: float
    threads: int
    requests: int
    failures: int


def join(data: Path, workers: int) -> Joined:
    """Let workers join; rank 0's supervisor is real, and the others are simulated."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, tensorflow = int(one.getsockname()[1]), int(other.getsockname()[1])
    hosts = [f"10.{rank >> 8}.{rank & 255}.1" for rank in range(1, workers)]  # as long as a cluster's
    addresses = [f"127.0.0.1:{tensorflow}", *(f"{host}:2222" for host in hosts)]
    supervisors = [f"127.0.0.1:{port}", *(f"{host}:9100" for host in hosts)]
    peers = json.dumps(list(zip(addresses, supervisors, strict=True)))
    identity = {"RUN": "bench", "JOB_UID": "u", "WORKERS": str(workers), "JOB_COMPLETION_INDEX": "0", "PEERS": peers}
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    must_match = settings_to_match(Config(data=data), fingerprint.read_fingerprint(data, "mnist"))
    settings, model = settings_hash(must_match), must_match["model"]
    template = Request("bench", "u", settings, model, workers, 0, "", 0, "", "", "", "waiting", 0)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as output:
        command = ["prlimit", f"--nofile={FILES}:", sys.executable, "-m", "job", "train", f"--data={data}"]
        process = subprocess.Popen(
            [*command, f"--output={output}"],
            cwd=PROJECT,
            env={**os.environ, **identity, PARENT: str(os.getpid())},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return asyncio.run(Supervisors(port, template, addresses, process.pid).join())
        finally:
            children = [pid for pid, (parent, _) in processes.processes().items() if parent == process.pid]
            for pid in [process.pid, *children]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


class Supervisors:
    """All supervisors but rank 0's, which send requests like job/rendezvous/client.py.

    Args:
        port: of rank 0's supervisor.
        template: what their requests have in common.
        addresses: of every rank.
        pid: of rank 0's supervisor.
    """

    def __init__(self, port: int, template: Request, addresses: list[str], pid: int) -> None:
        self._port, self._template, self._addresses, self._pid = port, template, addresses, pid
        self._joined_at: dict[int, float] = {}  # by rank, when it had the complete reply
        self._complete, self._round_id = b"", ""  # that reply, the same for all
        self._requests = self._failures = 0
        self._slowest_s = 0.0

    async def join(self) -> Joined:
        """Let them all join, and ask for a while."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                break
            await asyncio.sleep(0.05)
        workers = len(self._addresses)
        last = workers - 1
        asking = [asyncio.create_task(self._ask(rank, rank / workers)) for rank in range(1, last)]
        await asyncio.sleep(2 * EVERY_S)
        waiting_cpu, threads = await self._cores(), self._status("Threads")
        began = time.monotonic()
        asking.append(asyncio.create_task(self._ask(last, 0.0)))
        while len(self._joined_at) < last:
            if time.monotonic() > began + 120:
                raise RuntimeError(f"only {len(self._joined_at)} of {last} have the complete reply after 120 s")
            await asyncio.sleep(0.01)
        self._slowest_s = 0.0
        training_cpu = await self._cores()
        for task in asking:
            task.cancel()
        return Joined(
            workers=workers,
            all_s=max(self._joined_at.values()) - began,
            answer_bytes=len(self._complete),
            waiting_cpu=waiting_cpu,
            training_cpu=training_cpu,
            slowest_s=self._slowest_s,
            peak_mb=self._status("VmHWM") * 1024 / 1e6,
            threads=threads,
            requests=self._requests,
            failures=self._failures,
        )

    async def _ask(self, rank: int, delay_s: float) -> None:
        """Be one of them."""
        attempt, address = os.urandom(16).hex(), self._addresses[rank]
        request = msgspec.structs.replace(self._template, rank=rank, attempt=attempt, address=address)
        await asyncio.sleep(delay_s)
        while True:
            began = time.monotonic()
            self._requests += 1
            try:
                reply = await asyncio.wait_for(self._exchange(encode(request)), ANSWER_S)
            except (OSError, TimeoutError):
                self._failures += 1
            else:
                self._slowest_s = max(self._slowest_s, time.monotonic() - began)
                if not request.round_id and b'"addresses":[]' not in reply:
                    self._check(reply)
                    self._joined_at[rank] = time.monotonic()
                    request = msgspec.structs.replace(request, round_id=self._round_id, phase="training")
            await asyncio.sleep(max(0.0, began + EVERY_S - time.monotonic()))

    def _check(self, reply: bytes) -> None:
        """Check that all get the same complete reply; it is decoded once, which takes longer than to send it."""
        if not self._complete:
            decoded = decode(reply, Reply)
            if list(decoded.addresses[1:]) != self._addresses[1:]:
                raise RuntimeError("rank 0 sent wrong addresses")
            self._complete, self._round_id = reply, decoded.round_id
        if reply != self._complete:
            raise RuntimeError("rank 0 sent different complete replies")

    async def _exchange(self, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"POST /join HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            head, _, reply = (await reader.read(-1)).partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(head[:100])
            return reply
        finally:
            writer.close()

    async def _cores(self) -> float:
        """The cores that rank 0's supervisor uses, measured for a while."""
        before, began = cpu_s(self._pid), time.monotonic()
        await asyncio.sleep(STEADY_S)
        return (cpu_s(self._pid) - before) / (time.monotonic() - began)

    def _status(self, field: str) -> int:
        text = Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8")
        return int(text.partition(f"{field}:")[2].split()[0])
