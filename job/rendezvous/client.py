"""This worker's side of the gathering: tells rank 0 once a second how it is, and hears whether all are there."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.errors import Exit, JobError
from job.rendezvous.server import Answer, Refused, Request, ask

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable

    from job.cluster import Cluster

EVERY_S = 1.0
# Before a name is asked for the first time. A pod that starts beside rank 0's is there before DNS knows that one, and
# DNS keeps its answer that there is no such name for 5 s and more.
NAME_S = 1.5
ANSWER_S = 3.0  # an answer takes up to EVERY_S while others are waited for


@dataclass(frozen=True)
class Heard:
    """What rank 0 answered to a request, or a sentence that says why there is no answer."""

    request: Request
    answer: Answer | str

    def is_over(self, gathering: str) -> bool:
        """Whether the workers gather anew, in place of the gathering in which a trainer was started."""
        asked_in = self.request.gathering
        return isinstance(self.answer, Answer) and gathering != "" and gathering == asked_in != self.answer.gathering


class Member:
    """Asks rank 0 in a thread of its own; what it hears is put into the queue.

    Args:
        cluster: this worker and its peers.
        settings: the settings hash.
        events: where each Heard goes.
        join: how rank 0 itself asks; the others ask over the network.

    Attributes:
        request: what rank 0 is told next.
        answered_at: when rank 0 last answered, in seconds of time.monotonic().
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: str,
        events: queue.SimpleQueue[object],
        join: Callable[[Request], Answer] | None,
    ) -> None:
        self._cluster, self._events, self._join = cluster, events, join
        self.answered_at = time.monotonic()
        self._changed = threading.Event()
        run, uid, workers, rank = cluster.run, cluster.job_uid, cluster.workers, cluster.rank
        self.request = Request(run, uid, settings, workers, rank, "", "", "", "starting", 0)
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def wait(self) -> None:
        """Begin an attempt to join."""
        attempt, address = os.urandom(16).hex(), own_address(self._cluster)
        self.request = dataclasses.replace(self.request, attempt=attempt, gathering="", address=address)
        self._changed.set()
        if not self._thread.is_alive():
            self._thread.start()

    def joined(self, gathering: str) -> None:
        """Say from now on that this worker's trainer runs in that gathering."""
        self.request = dataclasses.replace(self.request, gathering=gathering)

    def tell(self, phase: str, restarts: int) -> None:
        """Say with the next request how this worker is."""
        self.request = dataclasses.replace(self.request, phase=phase, restarts=restarts)

    def _ask(self) -> None:
        leader = self._cluster.supervisors[0]
        if self._join is None and is_name(leader.rpartition(":")[0]):
            time.sleep(NAME_S)
        while True:
            request, asked_at = self.request, time.monotonic()
            answer: Answer | str
            try:
                answer = self._join(request) if self._join else ask(leader, request, ANSWER_S)
                self.answered_at = time.monotonic()
            except Refused as error:
                answer = str(error)
            except OSError as error:
                answer = f"worker 0 does not answer at {leader} ({error.strerror or error})"
            self._events.put(Heard(request, answer))
            # Rank 0 holds its answer back as long as not all have come; then it is asked again at once.
            self._changed.wait(max(0.0, asked_at + EVERY_S - time.monotonic()))
            self._changed.clear()


def own_address(cluster: Cluster) -> str:
    """Where the others reach this worker's TensorFlow: by IP where it is known, on a free port where none is set."""
    host, _, port = cluster.tensorflow[cluster.rank].rpartition(":")
    if port == "0":  # local.py's workers, whatever pod they may all be in
        with socket.create_server((host, 0)) as free:
            return f"{host}:{free.getsockname()[1]}"
    host = os.environ.get("POD_IP") or host
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def check_apart(addresses: tuple[str, ...]) -> None:
    """Refuse two workers at one address: TensorFlow would wait for ever."""
    for rank, address in enumerate(addresses):
        if (first := addresses.index(address)) < rank:
            message = f"workers {first} and {rank} both gave the address {address}"
            raise JobError(Exit.TRY_AGAIN, "same-address", message, "give each a POD_IP or a port of its own")


def is_name(host: str) -> bool:
    """Whether a host has to be found by DNS."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host != "localhost"
    return False
