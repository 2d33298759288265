"""What the supervisor's port answers, and that no sender harms the supervisor or keeps the workers out."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from prometheus_client import CONTENT_TYPE_LATEST

from job.rendezvous import http, listener
from job.rendezvous.client import ask
from job.rendezvous.listener import Listener, serve
from job.rendezvous.messages import Refused, Request, encode
from job.rendezvous.server import Rendezvous
from tests.job.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 2
REQUEST = Request("r", "u", "5e77", "30de1", WORKERS, 1, "s", 1, "a", "", "10.0.0.1:2222", "waiting", 0)
FIRST = msgspec.structs.replace(REQUEST, rank=0, address="10.0.0.0:2222")
ADDRESSES = ("10.0.0.0:2222", "10.0.0.1:2222")
TEXT = "text/plain; charset=utf-8"
MEMORY_MB = 80
HALF_A_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 8000


class Serving(NamedTuple):
    """Rank 0's server, and its rendezvous."""

    server: Listener
    rendezvous: Rendezvous

    @property
    def address(self) -> str:
        """Its host:port."""
        return f"127.0.0.1:{self.server.port}"

    def connect(self) -> socket.socket:
        """A new connection to it."""
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=60)

    def exchange(self, data: bytes) -> tuple[int, str, bytes]:
        """The status, content type and body of its reply; (0, "", b"") if it closes the connection instead."""
        answer = bytearray()
        with self.connect() as connection, suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
            while chunk := connection.recv(2**16):
                answer += chunk
        if not answer:
            return 0, "", b""
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        fields = dict(line.split(": ") for line in lines)
        return int(status.split()[1]), fields.get("Content-Type", ""), body


@pytest.fixture
def serving(capfd: pytest.CaptureFixture[str]) -> Iterator[Serving]:
    """Rank 0's server. In the end it must still reply, and have printed nothing."""
    rendezvous = Rendezvous("r", "u", "5e77", "30de1", WORKERS)
    with serve("127.0.0.1", 0, lambda: b"metrics\n", rendezvous) as server:
        serving = Serving(server, rendezvous)
        yield serving
        assert serving.exchange(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n") == (200, TEXT, b"ok\n")
    assert capfd.readouterr() == ("", "")


def post(body: bytes, *fields: str, path: str = "/join") -> bytes:
    """A POST of a body with its length, or with other fields."""
    lines = [f"POST {path} HTTP/1.1", "Host: h", *(fields or [f"Content-Length: {len(body)}"])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/healthz", TEXT, b"ok\n"),
        ("/metrics", CONTENT_TYPE_LATEST, b"metrics\n"),
        ("/metrics?x=/join", CONTENT_TYPE_LATEST, b"metrics\n"),
    ],
)
def test_health_and_metrics(serving: Serving, path: str, content_type: str, body: bytes) -> None:
    """Any HTTP client can read them."""
    with urllib.request.urlopen(f"http://{serving.address}{path}", timeout=60) as answer:
        assert (answer.status, answer.headers["Content-Type"], answer.read()) == (200, content_type, body)


def test_workers_join(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply to a waiting worker comes when the last one joins; a refusal is raised with its reason."""
    monkeypatch.setattr(http, "HOLD_S", 50)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, serving.address, REQUEST, 60)
        wait_until(serving.rendezvous.latest_requests, "a request")
        assert not waiting.done()
        reply = ask(serving.address, FIRST, 60)
        assert waiting.result(60) == reply
    assert reply.addresses == ADDRESSES
    with pytest.raises(Refused, match="has the run 'r', but this worker has 'other'"):
        ask(serving.address, msgspec.structs.replace(REQUEST, run="other"), 60)


def test_the_wait_for_a_reply_is_bounded(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose peers do not come gets a reply that names them."""
    monkeypatch.setattr(http, "HOLD_S", 0.05)
    assert ask(serving.address, REQUEST, 60).missing == (0,)


def test_a_worker_that_ends_while_it_waits_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel closes its connection. One that gets its reply, and one that is refused, do not hang up."""
    monkeypatch.setattr(http, "HOLD_S", 600)
    monkeypatch.setattr(http, "AGAIN_S", 0)
    hung_up: list[Request] = []
    rendezvous = Rendezvous("r", "u", "5e77", "30de1", WORKERS, clock=lambda: 0.0)
    monkeypatch.setattr(rendezvous, "hang_up", hung_up.append)
    body = encode(REQUEST)
    with serve("127.0.0.1", 0, lambda: b"", rendezvous) as server, ThreadPoolExecutor(1) as threads:
        serving = Serving(server, rendezvous)
        with serving.connect() as connection:
            connection.sendall(b"POST /join HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            wait_until(rendezvous.latest_requests, "a request")
            assert not hung_up
        wait_until(lambda: hung_up, "the end of the connection")
        again = msgspec.structs.replace(REQUEST, number=2)
        waiting = threads.submit(ask, serving.address, again, 60)
        wait_until(lambda: rendezvous.latest_requests()[1] == again, "the next request")
        with pytest.raises(Refused):
            ask(serving.address, msgspec.structs.replace(FIRST, settings="0"), 60)
        assert ask(serving.address, FIRST, 60) == waiting.result(60)
        for _ in range(2):  # the server has seen the ends of the connections by now
            assert serving.exchange(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")[0] == 200
    assert hung_up == [REQUEST]


def test_a_waiting_worker_takes_no_place_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """If all places to wait are taken, a worker gets its reply at once."""
    monkeypatch.setattr(listener, "CONNECTIONS", 2)
    monkeypatch.setattr(http, "HOLD_S", 600)
    rendezvous = Rendezvous("r", "u", "5e77", "30de1", 3)
    requests = [msgspec.structs.replace(REQUEST, workers=3, rank=rank) for rank in range(3)]
    with serve("127.0.0.1", 0, lambda: b"", rendezvous) as server, ThreadPoolExecutor(1) as threads:
        address = f"127.0.0.1:{server.port}"
        waiting = threads.submit(ask, address, requests[0], 60)
        wait_until(rendezvous.latest_requests, "a request")
        assert ask(address, requests[1], 60).missing == (2,)
        assert ask(address, requests[2], 60) == waiting.result(60)


def test_join_is_only_at_rank_0() -> None:
    """The other supervisors have no such path, and are not mistaken for rank 0."""
    with serve("127.0.0.1", 0, lambda: b"", None) as server, pytest.raises(OSError, match="404"):
        ask(f"127.0.0.1:{server.port}", REQUEST, 60)


BODY = encode(REQUEST)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        (b"GET /%ff%00?%ff=%00 HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        (b"GET /join HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"PUT /join HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 405),
        (b"__init__ /healthz HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (post(BODY, path="/metrics"), 405),
        (b"GET /healthz HTTP/2.0\r\nHost: h\r\n\r\n", 400),
        (b"GET /healthz HTTP/" + b"9" * 5000 + b".1\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"\xff\xfe\x00 /healthz HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # how TLS starts
        (b"GET /healthz HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 8192, 0),
        (b"x" * 2**20, 0),
        (post(BODY, "Content-Length: -1"), 400),
        (post(BODY, "Content-Length: 10"), 400),
        (post(BODY, "Content-Length: 4097"), 400),
        (post(BODY, f"Content-Length: {'9' * 5000}"), 400),
        (post(b"x" * 2**20), 400),
        (post(b"%x\r\n" % 2**20 + b"x" * 2**20, "Transfer-Encoding: chunked"), 400),
        (post(b"", "Content-Type: multipart/form-data", "Content-Length: 0"), 400),
        (post(b""), 400),
        (post(b"\x00\xff"), 400),
        (post(b"[" * 4096), 400),
        (post(b"{}"), 400),
        (post(BODY.replace(b"waiting", b"a\\nb")), 400),
    ],
    ids=range(26),
)
def test_a_wrong_request_has_no_effect(serving: Serving, data: bytes, status: int) -> None:
    """It gets an error, or its connection is closed."""
    received, _, body = serving.exchange(data)
    # The end of a connection whose request was not read to its end may overtake the reply.
    assert received == status or (received == 0 and len(data) > http.BODY_BYTES)
    assert len(body) < 200
    assert serving.rendezvous.latest_requests() == {}


def test_half_a_request_has_no_effect(serving: Serving) -> None:
    """It may break off at any byte, with the connection closed or reset."""
    whole = post(BODY)
    for cut in range(0, len(whole), 7):
        with serving.connect() as connection:
            connection.sendall(whole[:cut])
            if cut % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert serving.rendezvous.latest_requests() == {}


@pytest.mark.parametrize("start", [b"", post(BODY)[:40], post(BODY)[:-80]], ids=["idle", "header", "body"])
def test_a_slow_request_is_cut_off(serving: Serving, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    """A byte now and then does not keep its connection open."""
    monkeypatch.setattr(http, "RECEIVE_S", 0.3)
    with serve("127.0.0.1", 0, lambda: b"", serving.rendezvous) as server:
        began = time.monotonic()
        with Serving(server, serving.rendezvous).connect() as slow:
            slow.settimeout(0.05)
            with suppress(ConnectionError):
                slow.sendall(start)
                while time.monotonic() < began + 60:
                    with suppress(TimeoutError):
                        if not slow.recv(1):
                            break
                    if start:
                        slow.sendall(b"x")
        assert time.monotonic() < began + 60
    assert serving.rendezvous.latest_requests() == {}


def test_a_flood_of_unfinished_requests_keeps_no_worker_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection closes the oldest one, and one that a worker waits on is not closed."""
    monkeypatch.setattr(listener, "CONNECTIONS", 32)
    rendezvous = Rendezvous("r", "u", "5e77", "30de1", WORKERS)
    with serve("127.0.0.1", 0, lambda: b"", rendezvous) as server, ExitStack() as stack:
        serving = Serving(server, rendezvous)
        threads = stack.enter_context(ThreadPoolExecutor(1))
        monkeypatch.setattr(http, "HOLD_S", 600)
        waiting = threads.submit(ask, serving.address, REQUEST, 60)
        wait_until(rendezvous.latest_requests, "a request")
        flood = [stack.enter_context(serving.connect()) for _ in range(40)]
        assert ask(serving.address, FIRST, 60).addresses == ADDRESSES
        assert waiting.result(60).addresses == ADDRESSES
        for connection in flood[:25]:
            assert connection.recv(1) == b""
        for connection in flood[25:]:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)


def test_a_flood_costs_little_memory() -> None:
    """A process of its own gets as many long, unfinished requests as it accepts."""
    code = (
        "from job.rendezvous.listener import serve; from job.supervisor.metrics import Metrics; import sys\n"
        "with serve('127.0.0.1', 0, Metrics('r', 0, 1).text, None) as server:\n"
        "    print(server.port, flush=True); sys.stdin.read()"
    )
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process, ExitStack() as stack:
        assert process.stdin
        assert process.stdout
        port = int(process.stdout.readline())
        for _ in range(min(1200, soft // 2)):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            with suppress(ConnectionError):  # it is among the oldest ones already
                connection.sendall(HALF_A_REQUEST)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as answer:
            assert answer.read() == b"ok\n"
        status = Path(f"/proc/{process.pid}/status")
        if not status.exists():
            pytest.skip("the system does not say how much memory a process has")
        peak = int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) * 1024 / 1e6
        assert peak < MEMORY_MB
        process.stdin.close()
    assert process.returncode == 0


def test_the_limit_of_open_files_is_raised() -> None:
    """Shells and containers allow 1,024 at first, and a process may raise that up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2000 if hard == resource.RLIM_INFINITY else min(2000, hard)
    try:
        for before, after in ((most - 1, most), (most, most), (hard, hard)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
            assert listener.allow_files(2000) == most
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (after, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_port_in_use_is_an_error() -> None:
    """It may be another program's, or another supervisor's that listens on all interfaces."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve("127.0.0.1", taken.getsockname()[1], lambda: b"", None)
    with serve("", 0, lambda: b"", None) as server, pytest.raises(OSError, match="in use"):
        serve("", server.port, lambda: b"", None)
    with serve("", server.port, lambda: b"", None) as again:  # free again as soon as the server is closed
        assert again.port == server.port


def test_an_event_loop_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it forever."""

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken, serve("127.0.0.1", 0, lambda: b"", None) as working:
        working.wait_until_ready()
        broken.setattr(http._BoundedServer, "add_socket", fail)
        with serve("127.0.0.1", 0, lambda: b"", None) as server, pytest.raises(OSError, match="Too many open files"):
            server.wait_until_ready()
    monkeypatch.setitem(sys.modules, "job.rendezvous.http", None)
    monkeypatch.delattr("job.rendezvous.http")
    with serve("127.0.0.1", 0, lambda: b"", None) as server, pytest.raises(ImportError):
        server.wait_until_ready()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_the_launcher_holds_can_be_used(host: str) -> None:
    """One supervisor after the other can listen on it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind((host, 0))
        except OSError as error:
            pytest.skip(f"this machine has no {host}: {error}")
        port = held.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for _ in range(2):
            alone = Rendezvous("r", "u", "5e77", "30de1", 1)
            with serve(host, port, lambda: b"", alone):
                assert ask(address, msgspec.structs.replace(FIRST, workers=1), 60).addresses
            with pytest.raises(ConnectionRefusedError):
                ask(address, REQUEST, 60)


def test_all_interfaces() -> None:
    """IPv4 and, if the machine has it, IPv6."""
    with serve("", 0, lambda: b"", None) as server:
        for host in ("127.0.0.1", "[::1]") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
            with urllib.request.urlopen(f"http://{host}:{server.port}/healthz", timeout=60) as answer:
                assert answer.read() == b"ok\n"


def test_a_closed_server_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    """No thread and no open file, even if it is closed while a worker waits and another sends."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not say which files are open")

    def count() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    rendezvous = Rendezvous("r", "u", "5e77", "30de1", WORKERS)
    with serve("127.0.0.1", 0, lambda: b"", rendezvous) as server:
        serving = Serving(server, rendezvous)
        for data in (post(b"{"), HALF_A_REQUEST[:20], b"x" * 9000, post(BODY)):
            with serving.connect() as connection:
                connection.sendall(data)
        waits, sends = serving.connect(), serving.connect()
        waits.sendall(post(BODY))
        sends.sendall(HALF_A_REQUEST)
        wait_until(rendezvous.latest_requests, "a request")
    waits.close()
    sends.close()
    wait_until(lambda: count() <= before, "the end of what was started")
    assert capfd.readouterr() == ("", "")
