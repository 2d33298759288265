"""The supervisor's port: what it answers, and that nothing which reaches it does harm."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from prometheus_client import CONTENT_TYPE_LATEST

from job.rendezvous import http as endpoints
from job.rendezvous.http import Server, serve
from job.rendezvous.server import Answer, Gathering, Refused, Request, ask, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST = Request("r", "u", "5e77", 2, 1, "a", "", "10.0.0.1:2222", "waiting", 0)
ANSWER = Answer("g", 1, (0,), ())
MEMORY_MB = 60
TEXT = "text/plain; charset=utf-8"


class Serving(NamedTuple):
    """A server, and the requests that have joined."""

    server: Server
    joined: list[Request]

    def connect(self) -> socket.socket:
        """A new connection to it."""
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=60)

    def exchange(self, data: bytes) -> tuple[int, str, bytes]:
        """The status, content type and body that it answers; (0, "", b"") where it closes the connection instead."""
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
        assert status.startswith("HTTP/1.0 ")
        assert int(fields["Content-Length"]) == len(body)
        return int(status.split()[1]), fields["Content-Type"], body


@pytest.fixture
def serving(capfd: pytest.CaptureFixture[str]) -> Iterator[Serving]:
    """A rank 0's server, which writes nothing whatever it is sent, and answers to the end."""
    joined: list[Request] = []

    def join(request: Request) -> Answer:
        joined.append(request)
        if request.run != "r":
            raise Refused("another run")
        return ANSWER

    with serve("127.0.0.1", 0, lambda: b"metrics\n", join) as server:
        serving = Serving(server, joined)
        yield serving
        assert serving.exchange(b"GET /healthz HTTP/1.1\r\n\r\n") == (200, TEXT, b"ok\n")
    assert capfd.readouterr() == ("", "")


def post(body: bytes, *fields: str, path: str = "/join") -> bytes:
    """A POST of a body with its length, or with other fields."""
    lines = [f"POST {path} HTTP/1.1", "Host: h", *(fields or [f"Content-Length: {len(body)}"])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_health_and_metrics(serving: Serving) -> None:
    """To any client of HTTP, as here Python's own; a question behind the path changes nothing."""
    address = f"http://127.0.0.1:{serving.server.port}"
    for path, content_type, body in (
        ("/healthz", TEXT, b"ok\n"),
        ("/metrics", CONTENT_TYPE_LATEST, b"metrics\n"),
        ("/metrics?x=/join", CONTENT_TYPE_LATEST, b"metrics\n"),
    ):
        with urllib.request.urlopen(address + path, timeout=60) as answer:  # noqa: S310 - it is http
            assert (answer.status, answer.headers["Content-Type"], answer.read()) == (200, content_type, body)
    assert serving.exchange(b"GET /healthz HTTP/1.0\n\n") == (200, TEXT, b"ok\n")


def test_join(serving: Serving) -> None:
    """A request comes through whole, the answer too, and so does a refusal."""
    address = f"127.0.0.1:{serving.server.port}"
    assert ask(address, REQUEST, 60) == ANSWER
    assert serving.exchange(post(to_json(REQUEST))) == (200, "application/json", to_json(ANSWER))
    assert serving.joined == [REQUEST] * 2
    other = to_json(REQUEST).replace(b'"r"', b'"other"')
    assert serving.exchange(post(other)) == (409, TEXT, b"another run\n")
    with pytest.raises(Refused, match=r"^another run$"):
        ask(address, Request.from_json(other), 60)


def test_a_request_in_pieces(serving: Serving) -> None:
    """It may come byte by byte."""
    with serving.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(to_json(REQUEST)):
            connection.sendall(bytes([byte]))
        assert connection.recv(2**16).startswith(b"HTTP/1.0 200 OK\r\n")
    assert serving.joined == [REQUEST]


def test_join_is_only_at_rank_0() -> None:
    """Elsewhere there is no such path, and rank 0 is not taken to be there."""
    with serve("127.0.0.1", 0, lambda: b"", None) as server:
        assert Serving(server, []).exchange(post(to_json(REQUEST))) == (404, TEXT, b"Not Found\n")
        with pytest.raises(OSError, match="404"):
            ask(f"127.0.0.1:{server.port}", REQUEST, 60)


BODY = to_json(REQUEST)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /healthz/ HTTP/1.1\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET //metrics?\xff\x00 HTTP/1.1\r\n\r\n", 200),
        (b"GET /join HTTP/1.1\r\n\r\n", 405),
        (b"PUT /join HTTP/1.1\r\n\r\n", 405),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", 405),
        (b"__init__ /healthz HTTP/1.1\r\n\r\n", 405),
        (b"\xff\xfe /healthz HTTP/1.1\r\n\r\n", 405),
        (post(BODY, path="/metrics"), 405),
        (post(BODY, path="/other"), 404),
        (b"GET /healthz HTTP/2.0\r\n\r\n", 400),
        (b"GET /healthz HTTP/x\r\n\r\n", 400),
        (b"GET /healthz HTTP/" + b"9" * 5000 + b".1\r\n\r\n", 400),
        (b"GET /a b c HTTP/1.1\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"\r\n\r\n", 0),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # as TLS begins
        (b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 8192, 431),
        (b"\x00" * 8192, 431),
        (b"x" * 2**20, 431),
        (post(BODY, "X: y"), 411),
        (post(BODY, "Transfer-Encoding: chunked"), 411),
        (post(BODY, "Transfer-Encoding: chunked", f"Content-Length: {len(BODY)}"), 411),
        (post(BODY, "Content-Length: -1"), 400),
        (post(BODY, "Content-Length: many"), 400),
        (post(BODY, "Content-Length: 1e2"), 400),
        (post(BODY, "Content-Length: \xb2"), 400),  # a digit to Python's isdigit
        (post(BODY, "Content-Length:"), 400),
        (post(BODY, f"Content-Length: {len(BODY)}", f"Content-Length: {len(BODY)}"), 400),
        (post(BODY, "Content-Length: 10"), 400),  # less than there is
        (post(BODY, f"Content-Length:\r\n {len(BODY) + 1}"), 400),  # more, in a form that only the parser knows
        (post(BODY, "Content-Length: 4097"), 413),
        (post(BODY, f"Content-Length: {'9' * 5000}"), 413),
        (post(b"x" * 4097), 413),
        (post(b"x" * 2**20), 413),
        (post(b""), 400),
        (post(b"{"), 400),
        (post(b"\x00\xff"), 400),
        (post(b"[" * 4096), 400),
        (post(b"1" * 4096), 400),
        (post(b"null"), 400),
        (post(b"{}"), 400),
        (post(json.dumps({**vars(REQUEST), "more": 1}).encode()), 400),
        (post(json.dumps({**vars(REQUEST), "rank": "1"}).encode()), 400),
        (post(json.dumps({**vars(REQUEST), "phase": "a\nb"}).encode()), 400),
    ],
)
def test_a_wrong_request_has_no_effect(serving: Serving, data: bytes, status: int) -> None:
    """It is answered at once with what is wrong, in one short line."""
    found, content_type, body = serving.exchange(data)
    # The end of a connection whose request was not wholly read may overtake the answer.
    assert found == status or (found == 0 and len(data) > endpoints.BODY_BYTES)
    if found >= 400:
        assert content_type == TEXT
        assert body.endswith(b"\n")
        assert body.count(b"\n") == 1
        assert len(body) < 200
    assert serving.joined == []


def test_half_a_request_has_no_effect(serving: Serving) -> None:
    """One that breaks off at any byte, with the connection closed or reset."""
    whole = post(BODY)
    for cut in range(0, len(whole), 7):
        with serving.connect() as connection:
            connection.sendall(whole[:cut])
            if cut % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert serving.joined == []


def test_a_connection_is_closed_in_time(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether nothing comes, or a byte now and then."""
    monkeypatch.setattr(endpoints, "LIFE_S", 0.3)
    with serving.connect() as idle, serving.connect() as slow:
        slow.settimeout(0.02)
        deadline = time.monotonic() + 60
        with suppress(ConnectionError):
            slow.sendall(post(BODY)[:-1])
            while time.monotonic() < deadline:
                with suppress(TimeoutError):
                    if not slow.recv(1):
                        break
                slow.sendall(b"\n")
        assert time.monotonic() < deadline
        assert idle.recv(1) == b""
    assert serving.joined == []


def test_who_does_not_read_its_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """One so long that it does not fit into the system's buffers."""
    monkeypatch.setattr(endpoints, "LIFE_S", 0.1)
    with serve("127.0.0.1", 0, lambda: b"x" * 2**26, None) as server, Serving(server, []).connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        deadline = time.monotonic() + 60
        while not server._answering and time.monotonic() < deadline:
            time.sleep(0.01)
        while server._answering and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.monotonic() < deadline


def test_the_oldest_makes_room(serving: Serving) -> None:
    """Those who hold connections open cannot keep a worker out."""
    serving.server._room = 16
    with ExitStack() as stack:
        held = [stack.enter_context(serving.connect()) for _ in range(40)]
        assert ask(f"127.0.0.1:{serving.server.port}", REQUEST, 60) == ANSWER
        for connection in held[:25]:
            assert connection.recv(1) == b""
        for connection in held[25:]:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)


def test_there_is_room_where_few_files_are_allowed() -> None:
    """As a shell or a container allows 1,024: a process may allow itself more, and does so only then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2 * endpoints.CONNECTIONS if hard == resource.RLIM_INFINITY else min(2 * endpoints.CONNECTIONS, hard)
    try:
        for before, after in ((most - 1, most), (most, most), (hard, hard)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
            with serve("127.0.0.1", 0, lambda: b"", None) as server:
                assert server._room == most // 2
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (after, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_workers_that_wait_take_no_room_from_others() -> None:
    """While they fill it, one more is sent away, and none of them."""
    gathering = Gathering("r", "u", "5e77", 2)
    join = partial(gathering.join, wait_s=4)
    with serve("127.0.0.1", 0, lambda: b"", join) as server, ThreadPoolExecutor(2) as threads:
        server._room = 2
        address = f"127.0.0.1:{server.port}"
        waits = threads.submit(ask, address, REQUEST, 60)
        deadline = time.monotonic() + 60
        while not gathering.heard() and time.monotonic() < deadline:
            time.sleep(0.01)
        with Serving(server, []).connect() as idle:
            assert ask(address, Request("r", "u", "5e77", 2, 0, "b", "", "h:1", "waiting", 0), 60).addresses
            assert idle.recv(1) == b""
        assert waits.result(60).addresses == ("h:1", "10.0.0.1:2222")


def test_a_flood_costs_little_memory() -> None:
    """As many half requests as there is room for, of the greatest length, in a process of their own."""
    code = (
        "from job.rendezvous.http import serve; from job.supervisor.metrics import Gauges; import sys\n"
        "with serve('127.0.0.1', 0, Gauges('r', 0, 1).text, None) as server:\n"
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
            with suppress(ConnectionError):  # it made room already
                connection.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 8000)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as answer:
            assert answer.read() == b"ok\n"
        status = Path(f"/proc/{process.pid}/status")
        if not status.exists():
            pytest.skip("the system does not tell how much memory a process has")
        peak = int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) * 1024 / 1e6
        assert peak < MEMORY_MB
        process.stdin.close()
    assert process.returncode == 0


def test_a_port_that_is_taken_is_an_error() -> None:
    """By another program here, and by another supervisor where it listens for all the network."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve("127.0.0.1", taken.getsockname()[1], lambda: b"", None)
    with serve("", 0, lambda: b"", None) as server, pytest.raises(OSError, match="in use"):
        serve("", server.port, lambda: b"", None)
    with serve("", server.port, lambda: b"", None) as again:  # at once when it is free
        assert again.port == server.port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_held_for_it_can_be_used(host: str) -> None:
    """On this machine, again and again; what is sent there goes to the one that listens."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind((host, 0))
        except OSError as error:
            pytest.skip(f"there is no {host} here: {error}")
        port = held.getsockname()[1]
        for _ in range(2):
            with serve(host, port, lambda: b"", lambda _: ANSWER):
                assert ask(f"[{host}]:{port}", REQUEST, 60) == ANSWER
            with pytest.raises(ConnectionRefusedError):
                ask(f"[{host}]:{port}", REQUEST, 60)


def test_all_interfaces() -> None:
    """IPv4 and, where the machine has it, IPv6."""
    with serve("", 0, lambda: b"", lambda _: ANSWER) as server:
        assert ask(f"127.0.0.1:{server.port}", REQUEST, 60) == ANSWER
        if not socket.has_dualstack_ipv6():
            pytest.skip("this machine has no IPv6")
        assert ask(f"[::1]:{server.port}", REQUEST, 60) == ANSWER


def test_no_file_is_left_open(serving: Serving) -> None:
    """After good requests, wrong ones and broken ones."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not tell which files are open")

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    for _ in range(20):
        serving.exchange(post(BODY))
        serving.exchange(post(b"{"))
        serving.connect().close()
    deadline = time.monotonic() + 60
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count() <= before
