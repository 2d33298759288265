"""Rank 0's side of the rendezvous: which workers have joined the current round, and what each sent last."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left, insort
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from job.cluster import is_address
from job.must_match import SHORT
from job.rendezvous.messages import Refused, Reply, Request
from job.rendezvous.newcomers import Newcomers
from job.telemetry import HEARTBEAT_S

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

FRESH_S = 5.0  # a worker that sends nothing for longer no longer counts
ALIVE_S = 3.0  # the requests of a live worker are 2 s apart at most, or a little more on a busy machine
# How long a round that has enough workers stays open for the others after the last one joined: the first round, and
# each later one.
FIRST_S, LOSS_S = 30.0, 0.5
ON_THE_WAY_S = 11.0  # from when a round opens until a member of the previous one has stopped its trainer and joins
ENDED = "failed"  # the phase that a worker sends when it ends without a published model
MAX_NAMED = 20  # missing ranks in a reply: with a thousand, every reply to a thousand workers would be long


# The placeholders are the value of the worker that the sentence is about, then that of the worker that reads it.
OTHER_MODEL = "another model: model.py has SHA-256 {} there and {} here; give all workers the same model.py or image"
OTHER_SETTINGS = "other settings: the flags or the dataset differ (hash {} there, {} here)"


class Rendezvous:
    """The rounds of a run, as rank 0 counts them.

    A round is complete when every rank has joined and none has been silent for more than FRESH_S. It is also complete
    when at least `least` workers have joined, rank 0 among them, and no other has joined for a while. A complete round
    does not change: the workers in it are its members. A member that then joins with another attempt opens the next
    round. A worker that is no member waits until take_in() opens the next round. A worker whose trainer is running sees
    the new id, stops its trainer and joins again.

    The newcomers of a round that ends before its first step wait outside until take_in() lets them in again, or until
    they are needed.

    All methods are thread-safe, except that join_and_wait() needs one event loop for all its calls.

    Args:
        run: the run's name. All workers must have the same run, job_uid, settings, model and workers.
        job_uid: the UID of its Job.
        settings: the settings hash.
        model: SHA-256 of model.py, which is part of the settings hash too.
        workers: the number of workers.
        clock: monotonic seconds.
        least: the fewest of them that can train without the others; 0 for all.

    Attributes:
        limit_s: for how many seconds at most a round that has enough workers stays open for the others.
    """

    def __init__(
        self,
        run: str,
        job_uid: str,
        settings: str,
        model: str,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
        least: int = 0,
    ) -> None:
        self._own = {"run": run, "JOB_UID": job_uid, "WORKERS": workers}
        self._settings, self._model, self._workers, self._clock = settings, model, workers, clock
        self._least = least or workers
        self._patience_s, self.limit_s = FIRST_S, float("inf")
        # By rank: when its last request came, and that request. The rank that has been silent for longest is first.
        self._latest: OrderedDict[int, tuple[float, Request]] = OrderedDict()
        self._refused: dict[int, str] = {}  # by rank: why its last request was refused
        self._senders: dict[int, tuple[str, int]] = {}  # by rank: sender and number of the newest request
        self._ended: set[int] = set()  # the ranks that said so, or whose connection closed before the reply
        self._lock = threading.RLock()
        self._round_id = ""
        self._news: asyncio.Event | None = None  # for those whose reply is held back; None if there are none
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the news
        self._addresses: tuple[str, ...] = ()  # set when the round is complete
        self._newcomers = Newcomers(self._least, clock)
        self._open_round()

    def join(self, request: Request) -> Reply:
        """Count a worker in if it waits, and note what it sent; ignore a request that a newer one overtook.

        Raises:
            Refused: it belongs to another run, has other settings, or cannot be one of the workers.
        """
        self._check(request)
        with self._lock:
            self._refused.pop(request.rank, None)
            self._drop_silent()
            if not self._is_late(request):
                self._latest[request.rank] = self._clock(), request
                self._latest.move_to_end(request.rank)
                self._ended.discard(request.rank)
                if request.phase == ENDED:
                    self._note_end(request.rank)
                elif not request.round_id:
                    self._register(request)
            self._close_if_due()
            return self._reply(request)

    async def join_and_wait(self, request: Request, wait_s: float) -> Reply:
        """Like join(), but the reply is held back until there is news, for `wait_s` seconds at most.

        For a waiting worker, the news is that its round is complete. For a worker whose trainer runs, the news is that
        another round is open, and the wait is HEARTBEAT_S at most, because its next request reports its state. A worker
        that ends gets its reply at once. Replying to all waiting workers whenever another one joins would cost N
        replies for each of N workers.

        Args:
            request: what the worker sent.
            wait_s: seconds, less than FRESH_S.

        Raises:
            Refused: as in join().
        """
        import asyncio  # noqa: PLC0415 - 50 ms of CPU, which the event loop's thread has spent already

        with self._lock:  # no news may come between the reply and the wait
            reply = self.join(request)
            if reply.addresses or request.phase == ENDED or request.round_id not in {"", reply.round_id}:
                return reply
            news = self._news = self._news or asyncio.Event()
            self._loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(wait_s, HEARTBEAT_S if request.round_id else self._seconds_to_close())):
                await news.wait()
        with self._lock:
            self._drop_silent()
            self._close_if_due()
            return self._reply(request)

    def hang_up(self, request: Request) -> None:
        """Take note that a request's connection was closed before the reply: its worker has probably ended."""
        with self._lock:
            if self._senders.get(request.rank) == (request.sender, request.number):
                self._note_end(request.rank)

    def take_in(self) -> None:
        """Open another round if the current one is complete and a worker waits that is not in it."""
        with self._lock:
            if self._addresses:
                self._newcomers.let_in_if_due()
                if self._waiting():
                    self._open_round()

    def note_step(self, round_id: str) -> None:
        """Take note that rank 0's trainer made a step in this round: its members can train together."""
        with self._lock:
            if round_id == self._round_id:
                self._newcomers.prove(self._joined)

    def tries_newcomers(self, round_id: str) -> bool:
        """Whether this round has made no step, and could do without those that it has taken in.

        It is the current round, or the last one that ended like this: another member may have opened the next round.
        """
        with self._lock:
            is_tried = round_id == self._round_id and bool(self._newcomers.among(self._joined))
            return is_tried or self._newcomers.failed(round_id)

    def latest_requests(self) -> dict[int, Request]:
        """By rank, the last request of each worker that sent one within FRESH_S."""
        with self._lock:
            since = self._clock() - FRESH_S
            return {rank: request for rank, (when, request) in self._latest.items() if when >= since}

    def longest_silent(self) -> tuple[int, float]:
        """The member of the round that has been silent for longest, and the clock at its last request.

        Without members, rank 0 and now.
        """
        with self._lock:
            members = ((rank, when) for rank, (when, _) in self._latest.items() if rank in self._joined)
            return next(members, (0, self._clock()))

    def members(self) -> int:
        """The number of workers that have joined the current round."""
        with self._lock:
            return len(self._joined)

    def refusal(self) -> str:
        """For rank 0, a sentence that says why it refused a missing worker of this run; empty if it refused none."""
        with self._lock:
            return next((self._refused[rank] for rank in self._missing if rank in self._refused), "")

    def _check(self, request: Request) -> None:
        sent = {"run": request.run, "JOB_UID": request.job_uid, "WORKERS": request.workers}
        for what, own in self._own.items():
            if own != sent[what]:
                raise Refused(f"worker 0 has the {what} {own!r}, but this worker has {sent[what]!r}")
        if request.model != self._model:
            self._refuse(request, OTHER_MODEL, self._model, request.model)
        if request.settings != self._settings:
            self._refuse(request, OTHER_SETTINGS, self._settings, request.settings)
        if request.rank >= self._workers:
            raise Refused(f"a worker's rank must be from 0 to {self._workers - 1}, not {request.rank}")
        if not is_address(request.address):
            raise Refused(f"a worker's address must be host:port, not {request.address!r}")

    def _refuse(self, request: Request, difference: str, own: str, other: str) -> NoReturn:
        own, other = own[:SHORT], other[:SHORT]
        self._refused[request.rank] = f"worker {request.rank} has {difference.format(other, own)}"
        raise Refused(f"worker 0 has {difference.format(own, other)}")

    def _is_late(self, request: Request) -> bool:
        """Whether a newer request overtook this one, which is then out of date: its worker may already train."""
        sender, number = self._senders.get(request.rank, ("", 0))
        if sender == request.sender and number > request.number:
            return True
        self._senders[request.rank] = request.sender, request.number
        return False

    def _note_end(self, rank: int) -> None:
        """A worker has ended: an open round no longer counts it, nor waits for it."""
        self._ended.add(rank)
        if not self._addresses:
            self._remove(rank)
        due_s = self._seconds_to_close()
        if self._loop and due_s < float("inf"):
            self._loop.call_soon_threadsafe(self._loop.call_later, due_s, self._close_if_due)

    def _open_round(self) -> None:
        if self._addresses:
            self._newcomers.bar(self._joined, self._round_id)
        waiting = []
        if self._round_id:
            waiting, self._patience_s = self._waiting(), LOSS_S
        self._round_id, self._opened_at = os.urandom(16).hex(), self._clock()
        self._joined: dict[int, Request] = {}
        self._missing = list(range(self._workers))  # sorted
        self._addresses = ()
        for request in waiting:
            self._add(request)
        self._tell_news()

    def _waiting(self) -> list[Request]:
        """The last requests of the workers that wait outside the round, and may join the next one."""
        inside = self._newcomers.barred | self._joined.keys()
        return [each for rank, (_, each) in self._alive().items() if not (each.round_id or rank in inside)]

    def _alive(self) -> dict[int, tuple[float, Request]]:
        """The latest requests of the workers that have probably not ended."""
        since = self._clock() - ALIVE_S
        latest = self._latest.items()
        return {rank: each for rank, each in latest if each[0] >= since and rank not in self._ended}

    def _tell_news(self) -> None:
        if self._news and self._loop:
            self._loop.call_soon_threadsafe(self._news.set)  # this may be another thread than the loop's
        self._news = None

    def _register(self, request: Request) -> None:
        if self._addresses:
            member = self._joined.get(request.rank)
            if member is None or member.attempt == request.attempt:
                return
            self._open_round()
        if request.rank not in self._newcomers.barred or self._needs_barred():
            self._add(request)

    def _needs_barred(self) -> bool:
        """Whether the others are too few without the workers that stay outside."""
        if self._clock() < self._opened_at + ON_THE_WAY_S:
            return False
        coming = {rank for rank, (_, each) in self._alive().items() if each.round_id}
        return len((self._joined.keys() | coming) - self._newcomers.barred) < self._least

    def _add(self, request: Request) -> None:
        rank = request.rank
        if rank not in self._joined:
            del self._missing[bisect_left(self._missing, rank)]
            self._closes_at = min(self._clock() + self._patience_s, self._opened_at + self.limit_s)
        self._joined[rank] = request

    def _close_if_due(self) -> None:
        """Complete the round if all workers have joined it, or enough of them and it is not to wait for more."""
        with self._lock:
            if not self._addresses and self._seconds_to_close() <= 0:
                joined = (self._joined.get(rank) for rank in range(self._workers))
                self._addresses = tuple(request.address if request else "" for request in joined)
                self._tell_news()

    def _seconds_to_close(self) -> float:
        """How long until the round is complete if nobody else joins; infinite if more workers have to."""
        if not self._missing:
            return 0.0
        if self._addresses or len(self._joined) < self._least or 0 not in self._joined:
            return float("inf")
        alive = self._alive().items()
        latest = [when for rank, (when, each) in alive if each.round_id and rank not in self._joined]
        last = self._opened_at + min(ON_THE_WAY_S, self.limit_s)
        return max(self._closes_at, *(min(when + ALIVE_S, last) for when in latest), 0.0) - self._clock()

    def _drop_silent(self) -> None:
        """Remove the workers that have stopped asking, unless the round is complete."""
        while self._latest and not self._addresses:
            rank, (when, _) = next(iter(self._latest.items()))
            if self._clock() - when <= FRESH_S:
                break
            del self._latest[rank]
            self._remove(rank)

    def _remove(self, rank: int) -> None:
        """Remove a worker from the open round, if it has joined."""
        if self._joined.pop(rank, None):
            insort(self._missing, rank)

    def _reply(self, request: Request) -> Reply:
        joined = self._joined.get(request.rank)
        has_joined = not request.round_id and joined is not None and joined.attempt == request.attempt
        addresses = self._addresses if has_joined else ()
        missing = tuple(self._missing[:MAX_NAMED])
        outside = joined is None and (bool(self._addresses) or request.rank in self._newcomers.barred)
        return Reply(self._round_id, len(self._joined), missing, addresses, outside)
