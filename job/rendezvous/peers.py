"""The other workers of the run: how this one meets them, what it sends them, and what it knows of them."""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from job.cluster import is_address
from job.config import usage_error
from job.errors import Exit, JobError
from job.rendezvous.messages import Refused, Reply, Request
from job.rendezvous.server import Rendezvous

if TYPE_CHECKING:
    import queue

    from job.cluster import Cluster

EVERY_S = 1.0
# Before a DNS name is asked for the first time. A pod that starts together with rank 0's may be earlier than its name,
# and DNS servers remember for 5 s and longer that a name did not exist.
DNS_DELAY_S = 1.5
ANSWER_S = 4.0  # rank 0 holds its reply back for up to 2 s
# Phases that all workers go through together. A worker's last message is up to a second old, so that a peer in another
# of these phases is not worth showing.
SHARED_PHASES = ("joining", "restoring", "compiling", "training", "evaluating", "publishing", "published")


@dataclass(frozen=True)
class ReplyEvent:
    """Rank 0's reply to a request, or one sentence that says why there is none."""

    request: Request
    reply: Reply | str

    def ends_round(self, round_id: str) -> bool:
        """Whether the round in which a trainer was started is over, because a worker has opened another one."""
        is_current = round_id != "" and round_id == self.request.round_id
        return is_current and isinstance(self.reply, Reply) and self.reply.round_id != round_id


@dataclass(frozen=True)
class Attendance:
    """How many workers have joined, and what the others are waiting for."""

    workers: int
    joined: int = 0
    absent: str = ""  # the workers that rank 0 last named
    unreachable: str = ""  # why rank 0 gives no answer

    @property
    def missing(self) -> str:
        """Why the workers have not met."""
        # Rank 0 may be gone because it gave up first: the workers that it waited for are still the cause.
        return ", and then ".join(filter(None, (self.absent, self.unreachable))) or "worker 0 has not answered"

    def after(self, reply: Reply | str, refusal: str = "") -> Attendance:
        """What is known after rank 0's reply, or after a sentence that says why rank 0 did not reply.

        Args:
            reply: the reply, or the sentence.
            refusal: at rank 0, why it refused a worker that is missing.
        """
        if isinstance(reply, str):
            return replace(self, unreachable=reply)
        ranks = ", ".join(map(str, reply.missing))
        more = self.workers - reply.joined - len(reply.missing)
        others = f" and {more} more" if more > 0 else ""
        absent = f"worker {ranks} has" if len(reply.missing) == 1 else f"workers {ranks}{others} have"
        return Attendance(self.workers, reply.joined, f"{absent} not joined" + (f": {refusal}" if refusal else ""))


class Peers:
    """The other workers. A thread sends rank 0 requests, also at rank 0; its replies are ReplyEvents.

    Rank 0 holds each reply back until it has news, so that a request a second is enough.

    Attributes:
        rank: this worker's.
        rendezvous: the rounds, as rank 0 counts them; None above rank 0 and before connect().
        answered_at: when rank 0 last replied, in seconds of time.monotonic().
    """

    def __init__(self, cluster: Cluster, events: queue.SimpleQueue[object]) -> None:
        self._cluster, self._events, self.rank = cluster, events, cluster.rank
        self.rendezvous: Rendezvous | None = None
        self.answered_at = float("inf")
        self._request: Request | None = None  # the next one; None before connect(), and without other workers
        self._lock = threading.Lock()  # for changes of the request
        self._stopped = threading.Event()

    def connect(self, settings: str, model: str, least: int = 0, limit_s: float = float("inf")) -> None:
        """Prepare to meet the other workers, if there are any; their hash of settings and model must be these.

        Args:
            settings: the settings hash.
            model: SHA-256 of model.py.
            least: the fewest workers that can train without the others; 0 for all.
            limit_s: for how many seconds at most they wait for the others.
        """
        run, uid, workers, rank = self._cluster.run, self._cluster.job_uid, self._cluster.workers, self.rank
        if workers > 1:
            if rank == 0:
                self.rendezvous = Rendezvous(run, uid, settings, model, workers, least=least)
                self.rendezvous.limit_s = limit_s
            self.answered_at = time.monotonic()
            self._request = Request(
                run, uid, settings, model, workers, rank, os.urandom(16).hex(), 0, "", "", "", "starting", 0
            )

    def start_attempt(self) -> str:
        """Try to join a round, with the first request at once; returns the id of this attempt."""
        attempt = os.urandom(16).hex()
        self._change_request(attempt=attempt, round_id="", address=tensorflow_address(self._cluster))
        # A thread for each attempt: rank 0 may hold back its reply to the last request of the attempt before.
        threading.Thread(target=self._ask_repeatedly, args=(attempt,), name="rendezvous", daemon=True).start()
        return attempt

    def say_end(self) -> threading.Thread | None:
        """Above rank 0, tell rank 0 in a last request that this worker ends, with the phase of the last send_status().

        Returns the thread that sends it; None if this worker has not tried to join, or there is no room for a thread.
        """
        attempt = self._request.attempt if self._request and self.rank > 0 else ""
        request = self._next_request(attempt) if attempt else None
        if request:
            thread = threading.Thread(target=self._ask, args=(request,), name="rendezvous-end", daemon=True)
            with suppress(RuntimeError):
                thread.start()
                return thread
        return None

    def stop(self) -> None:
        """Send no further requests."""
        self._stopped.set()

    @property
    def refusal(self) -> str:
        """At rank 0, why it refused a worker that is missing; else empty."""
        return self.rendezvous.refusal() if self.rendezvous else ""

    def send_status(self, phase: str, restarts: int) -> None:
        """Send the others, with the next request, how this worker is."""
        self._change_request(phase=phase, restarts=restarts)

    def deviations(self, phase: str) -> dict[str, Any]:
        """The phase and the restarts of each worker that is not in this phase, or was restarted; only rank 0 knows."""
        if not self.rendezvous:
            return {}
        return {
            str(rank): {"phase": other.phase, "restarts": other.restarts}
            for rank, other in sorted(self.rendezvous.latest_requests().items())
            if rank != self.rank and (other.restarts or other.phase not in {phase, *SHARED_PHASES})
        }

    def longest_silent(self) -> tuple[int, float]:
        """The peer that is silent for longest, above rank 0 always rank 0, and when it last sent something."""
        return self.rendezvous.longest_silent() if self.rendezvous else (0, self.answered_at)

    def all_started(self, round_id: str) -> bool:
        """Whether the trainers of all workers are at least joining in this round; only rank 0 knows."""
        requests = self.rendezvous.latest_requests().values() if self.rendezvous else ()
        started = sum(request.round_id == round_id and request.phase in SHARED_PHASES for request in requests)
        return self.rendezvous is not None and started == self.rendezvous.members()

    def take_in(self) -> None:
        """At rank 0, open another round if workers wait outside the current one: all trainers stop, and all meet."""
        if self.rendezvous:
            self.rendezvous.take_in()

    def note_step(self, round_id: str) -> None:
        """At rank 0, take note that the trainers made a step in this round."""
        if self.rendezvous:
            self.rendezvous.note_step(round_id)

    def tries_newcomers(self, round_id: str) -> bool:
        """Whether this round has made no step, and may have failed because of workers that it has taken in.

        Only rank 0 knows.
        """
        return self.rendezvous is not None and self.rendezvous.tries_newcomers(round_id)

    def _change_request(self, **fields: Any) -> None:
        with self._lock:
            if self._request:
                self._request = msgspec.structs.replace(self._request, **fields)

    def _ask_repeatedly(self, attempt: str) -> None:
        is_first = self._request is not None and self._request.number == 0
        if is_first and self.rank > 0 and needs_dns(self._cluster.supervisors[0].rpartition(":")[0]):
            self._stopped.wait(DNS_DELAY_S)
        while request := self._next_request(attempt):
            asked_at = time.monotonic()
            reply = self._ask(request)
            self._enter_round(request, reply)
            self._events.put(ReplyEvent(request, reply))
            # If rank 0 held its reply back, the next request follows at once. So does the first one in a round: rank 0
            # would leave this worker out of another round that began within a second.
            if not (isinstance(reply, Reply) and reply.addresses):
                self._stopped.wait(max(0.0, asked_at + EVERY_S - time.monotonic()))

    def _next_request(self, attempt: str) -> Request | None:
        """The next request of an attempt, with a new number; None if there is another attempt, or after stop()."""
        with self._lock:
            if self._request is None or self._request.attempt != attempt or self._stopped.is_set():
                return None
            self._request = msgspec.structs.replace(self._request, number=self._request.number + 1)
            return self._request

    def _enter_round(self, request: Request, reply: Reply | str) -> None:
        """If a reply has all addresses, name its round in the next request.

        The supervisor may not have read the reply yet. If the next request still said that this worker waits, it could
        complete another round while the trainer starts in this one.
        """
        with self._lock:
            current = self._request and self._request.attempt == request.attempt
            if self._request and current and isinstance(reply, Reply) and reply.addresses:
                self._request = msgspec.structs.replace(self._request, round_id=reply.round_id)

    def _ask(self, request: Request) -> Reply | str:
        from job.rendezvous.client import ask  # noqa: PLC0415 - Tornado takes 0.1 s of CPU, and this thread can wait

        leader = self._cluster.supervisors[0]
        host, _, port = leader.rpartition(":")
        # Rank 0's own name may not be known yet.
        address = f"127.0.0.1:{port}" if self.rank == 0 and needs_dns(host) else leader
        try:
            reply = ask(address, request, ANSWER_S)
        except Refused as error:
            return str(error)
        except OSError as error:
            return f"worker 0 does not answer at {leader} ({error.strerror or error})"
        self.answered_at = time.monotonic()
        return reply


def tensorflow_address(cluster: Cluster) -> str:
    """The host:port of this worker's TensorFlow server: POD_IP, if that is set, in place of a name for DNS.

    Raises:
        JobError: 64, POD_IP is not an address.
    """
    host, _, port = cluster.tensorflow[cluster.rank].rpartition(":")
    if needs_dns(host):
        host = os.environ.get("POD_IP") or host
    address = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
    if not is_address(address):
        raise usage_error(f"POD_IP must be an IP address, not {host!r}")
    return address


def check_distinct(addresses: tuple[str, ...]) -> None:
    """Refuse, with 75, two workers with the same address, because TensorFlow would wait forever."""
    for rank, address in enumerate(addresses):
        if address and (first := addresses.index(address)) < rank:
            message = f"workers {first} and {rank} both have the address {address}"
            raise JobError(Exit.TRY_AGAIN, "same-address", message, "give each a POD_IP or a port of its own")


def needs_dns(host: str) -> bool:
    """Whether a host is known by a DNS name, rather than by an address or as this machine."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host != "localhost"
    return False
