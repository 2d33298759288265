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
from job.config import Config, settings_hash, settings_to_match
from job.dataset import fingerprint
from job.rendezvous.client import ANSWER_S, EVERY_S
from job.rendezvous.messages import Reply, Request, decode, encode
from tests.job import processes

FILES = 1024  # that rank 0 may open at first: what containers usually allow
STEADY_S = 6.0
MOST_MB = 60.0  # of the supervisor


@dataclass(frozen=True)
class Joined:
    """What it took.

    all_s is from the last one's coming until every one has the complete answer, which is answer_bytes long. waiting_cpu
    and training_cpu are rank 0's supervisor's cores while all but one wait, and while all have a trainer; slowest_s is
    the longest answer of the latter time, and failures how many requests of all had none.
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
    """Have so many workers join, of which rank 0's supervisor is real."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        supervisor = f"127.0.0.1:{free.getsockname()[1]}"
    # Made up, and as long as a cluster's.
    hosts = [f"10.{rank >> 8}.{rank & 255}.1" for rank in range(1, workers)]
    addresses = ["127.0.0.1:0", *(f"{host}:2222" for host in hosts)]
    peers = list(zip(addresses, [supervisor, *(f"{host}:9100" for host in hosts)], strict=True))
    identity = {"RUN": "bench", "JOB_UID": "u", "WORKERS": str(workers), "JOB_COMPLETION_INDEX": "0"}
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as output:
        command = ["prlimit", f"--nofile={FILES}:", sys.executable, "-m", "job", "train"]
        process = subprocess.Popen(
            [*command, f"--data={data}", f"--output={output}"],
            cwd=PROJECT,
            env={**os.environ, **identity, "PEERS": json.dumps(peers)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            dataset = fingerprint.read_fingerprint(data, "mnist")
            settings = settings_hash(settings_to_match(Config(data=data), dataset))
            first = Request("bench", "u", settings, workers, 0, "", "", "", "waiting", 0)
            return asyncio.run(Crowd(supervisor, first, addresses, process.pid).join())
        finally:
            found = processes.processes().items()
            for pid in [process.pid, *(pid for pid, (parent, _) in found if parent == process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


class Crowd:
    """All supervisors but rank 0's, which ask as job/rendezvous/client.py does.

    Args:
        supervisor: host:port of rank 0's.
        request: what they say, but for what tells one from the other.
        addresses: of every rank.
        pid: rank 0's supervisor's.
    """

    def __init__(self, supervisor: str, request: Request, addresses: list[str], pid: int) -> None:
        self._supervisor, self._request, self._addresses, self._pid = supervisor, request, addresses, pid
        self._have: dict[int, float] = {}  # when a rank had the complete answer
        self._answer_bytes = self._requests = self._failures = 0
        self._slowest_s = 0.0
        self._body, self._round = b"", ""

    async def join(self) -> Joined:
        """Have them all come, and stay a while."""
        host, _, port = self._supervisor.rpartition(":")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((host, int(port)), 1):
                break
            await asyncio.sleep(0.05)
        workers = len(self._addresses)
        last = workers - 1
        asking = [asyncio.create_task(self._ask(rank, rank / workers)) for rank in range(1, last)]
        await asyncio.sleep(2 * EVERY_S)
        waiting_cpu = await self._cores()
        threads = int(self._status("Threads"))
        began = time.monotonic()
        asking.append(asyncio.create_task(self._ask(last, 0.0)))
        while len(self._have) < last:
            if time.monotonic() > began + 120:
                raise RuntimeError(f"only {len(self._have)} of {last} have the answer after 120 s")
            await asyncio.sleep(0.01)
        self._slowest_s = 0.0
        training_cpu = await self._cores()
        for task in asking:
            task.cancel()
        return Joined(
            workers=workers,
            all_s=max(self._have.values()) - began,
            answer_bytes=self._answer_bytes,
            waiting_cpu=waiting_cpu,
            training_cpu=training_cpu,
            slowest_s=self._slowest_s,
            peak_mb=int(self._status("VmHWM")) * 1024 / 1e6,
            threads=threads,
            requests=self._requests,
            failures=self._failures,
        )

    async def _ask(self, rank: int, begin_s: float) -> None:
        """Be one of them."""
        request = msgspec.structs.replace(
            self._request, rank=rank, attempt=os.urandom(16).hex(), address=self._addresses[rank]
        )
        await asyncio.sleep(begin_s)
        while True:
            began = time.monotonic()
            self._requests += 1
            try:
                answer = await asyncio.wait_for(self._exchange(encode(request)), ANSWER_S)
            except (OSError, TimeoutError):
                self._failures += 1
            else:
                self._slowest_s = max(self._slowest_s, time.monotonic() - began)
                if not request.round_id and b'"addresses":[]' not in answer:
                    request = msgspec.structs.replace(request, round_id=self._round_id(answer), phase="training")
                    self._answer_bytes, self._have[rank] = len(answer), time.monotonic()
            await asyncio.sleep(max(0.0, began + EVERY_S - time.monotonic()))

    def _round_id(self, answer: bytes) -> str:
        """The round that the complete reply names, which is the same for all workers, and checked once."""
        body = answer.partition(b"\r\n\r\n")[2]
        if body != self._body:
            reply = decode(body, Reply)
            if self._body or list(reply.addresses[1:]) != self._addresses[1:]:
                raise RuntimeError("a worker got wrong addresses")
            self._body, self._round = body, reply.round_id
        return self._round

    async def _exchange(self, body: bytes) -> bytes:
        host, _, port = self._supervisor.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"POST /join HTTP/1.1\r\nHost: rank-0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            if not (answer := await reader.read(-1)).startswith(b"HTTP/1.1 200"):
                raise ConnectionError(answer[:100])
            return answer
        finally:
            writer.close()

    async def _cores(self) -> float:
        """The cores that rank 0's supervisor takes, for a while."""
        before, began = cpu_s(self._pid), time.monotonic()
        await asyncio.sleep(STEADY_S)
        return (cpu_s(self._pid) - before) / (time.monotonic() - began)

    def _status(self, field: str) -> str:
        text = Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8")
        return text.partition(f"{field}:")[2].split()[0]
