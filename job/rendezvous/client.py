"""A worker's side of the rendezvous: sends rank 0 a request once a second, and passes on its replies."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from tornado.httpclient import HTTPClient, HTTPClientError, HTTPRequest
from tornado.iostream import UnsatisfiableReadError
from tornado.netutil import Resolver
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient

from job.errors import Exit, JobError
from job.rendezvous import messages
from job.rendezvous.messages import Refused, Reply, Request

if TYPE_CHECKING:
    import queue

    from job.cluster import Cluster

EVERY_S = 1.0
# Before a DNS name is asked for the first time. A pod that starts together with rank 0's may be earlier than its name,
# and DNS servers remember for 5 s and longer that a name did not exist.
DNS_DELAY_S = 1.5
ANSWER_S = 4.0  # rank 0 holds its reply back for up to 2 s while workers are missing
REPLY_BYTES = 2**20  # three times what a thousand addresses take
REFUSAL_CHARS = 1000


@dataclass(frozen=True)
class ReplyEvent:
    """Rank 0's reply to a request, or one sentence that says why there is none."""

    request: Request
    reply: Reply | str

    def ends_round(self, round_id: str) -> bool:
        """Whether the round in which a trainer was started is over, because a worker has opened another one."""
        is_current = round_id != "" and round_id == self.request.round_id
        return is_current and isinstance(self.reply, Reply) and self.reply.round_id != round_id


class Client:
    """Sends a request to rank 0 once a second, in a thread; rank 0's client does the same.

    Args:
        cluster: this worker and its peers.
        settings: the settings hash.
        events: receives a ReplyEvent for each request.

    Attributes:
        request: what the next request says.
        answered_at: when rank 0 last replied, in seconds of time.monotonic().
    """

    def __init__(self, cluster: Cluster, settings: str, events: queue.SimpleQueue[object]) -> None:
        self._cluster, self._events = cluster, events
        self.answered_at = time.monotonic()
        self._new_attempt = threading.Event()
        run, uid, workers, rank = cluster.run, cluster.job_uid, cluster.workers, cluster.rank
        self.request = Request(run, uid, settings, workers, rank, "", "", "", "starting", 0)
        self._thread = threading.Thread(target=self._ask_repeatedly, name="rendezvous", daemon=True)

    def start_attempt(self) -> None:
        """Try to join a round, with the first request at once."""
        attempt, address = os.urandom(16).hex(), tensorflow_address(self._cluster)
        self.request = msgspec.structs.replace(self.request, attempt=attempt, round_id="", address=address)
        self._new_attempt.set()
        if not self._thread.is_alive():
            self._thread.start()

    def enter_round(self, round_id: str) -> None:
        """Report from now on that this worker's trainer belongs to a round."""
        self.request = msgspec.structs.replace(self.request, round_id=round_id)

    def report(self, phase: str, restarts: int) -> None:
        """Report this worker's phase and restarts with the next request."""
        self.request = msgspec.structs.replace(self.request, phase=phase, restarts=restarts)

    def _ask_repeatedly(self) -> None:
        if self._cluster.rank > 0 and needs_dns(self._cluster.supervisors[0].rpartition(":")[0]):
            time.sleep(DNS_DELAY_S)
        while True:
            asked_at = time.monotonic()
            self._events.put(self._ask())
            # If rank 0 held its reply back, the next request follows at once.
            self._new_attempt.wait(max(0.0, asked_at + EVERY_S - time.monotonic()))
            self._new_attempt.clear()

    def _ask(self) -> ReplyEvent:
        request, leader = self.request, self._cluster.supervisors[0]
        host, _, port = leader.rpartition(":")
        # Rank 0's own name may not be known yet.
        address = f"127.0.0.1:{port}" if self._cluster.rank == 0 and needs_dns(host) else leader
        reply: Reply | str
        try:
            reply = ask(address, request, ANSWER_S)
            self.answered_at = time.monotonic()
        except Refused as error:
            reply = str(error)
        except OSError as error:
            reply = f"worker 0 does not answer at {leader} ({error.strerror or error})"
        return ReplyEvent(request, reply)


def ask(supervisor: str, request: Request, timeout_s: float) -> Reply:
    """Send one request to rank 0.

    Args:
        supervisor: host:port of rank 0's supervisor.
        request: what to send.
        timeout_s: seconds for the connection and the whole reply. The look-up of the host's address is not included.

    Raises:
        OSError: there is no reply, or not one that rank 0 sends.
        Refused: rank 0 there belongs to another run, or has other settings.
    """
    limits = {"max_buffer_size": REPLY_BYTES, "max_body_size": REPLY_BYTES, "max_header_size": 8192}
    http = HTTPRequest(
        f"http://{supervisor}/join",
        "POST",
        body=messages.encode(request),
        connect_timeout=timeout_s,
        request_timeout=timeout_s,
        follow_redirects=False,
        decompress_response=False,
    )
    try:
        with closing(HTTPClient(SimpleAsyncHTTPClient, resolver=_Resolver(), **limits)) as client:
            response = client.fetch(http, raise_error=False)
        if response.code == HTTPStatus.CONFLICT:
            raise Refused(re.sub(r"[^ -~]", "", response.body.decode("latin-1"))[:REFUSAL_CHARS])
        if response.code != HTTPStatus.OK:
            raise OSError(f"no worker 0 is there: HTTP status {response.code}")
        reply = messages.decode(response.body, Reply)
    except HTTPTimeoutError:
        raise TimeoutError(f"no whole reply within {timeout_s:g} s") from None
    except (HTTPClientError, UnsatisfiableReadError, ValueError) as error:  # it breaks off, is too long or is not HTTP
        raise OSError(f"no worker 0 is there: {error}") from None
    if len(reply.addresses) not in (0, request.workers):
        raise OSError(f"no worker 0 is there: {len(reply.addresses)} addresses of {request.workers} workers")
    return reply


class _Resolver(Resolver):
    """Looks up addresses in the calling thread; Tornado's own threads would delay the process's exit if DNS hangs."""

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        """The family and the address of each way to reach a host."""
        return [(found[0], found[4]) for found in socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)]


def tensorflow_address(cluster: Cluster) -> str:
    """The host:port of this worker's TensorFlow server: the IP address if it is known, and a free port for port 0."""
    host, _, port = cluster.tensorflow[cluster.rank].rpartition(":")
    if port == "0":  # the workers of one machine, which may all be in one pod
        with socket.create_server((host, 0)) as free:
            return f"{host}:{free.getsockname()[1]}"
    host = os.environ.get("POD_IP") or host
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def check_distinct(addresses: tuple[str, ...]) -> None:
    """Refuse two workers with the same address, because TensorFlow would wait forever.

    Raises:
        JobError: 75, two workers have the same address.
    """
    for rank, address in enumerate(addresses):
        if (first := addresses.index(address)) < rank:
            message = f"workers {first} and {rank} both have the address {address}"
            raise JobError(Exit.TRY_AGAIN, "same-address", message, "give each a POD_IP or a port of its own")


def needs_dns(host: str) -> bool:
    """Whether a host is known by a DNS name, rather than by an address or as this machine."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host != "localhost"
    return False
