"""Which workers of a round are new to it, and which of them stay outside because the others cannot train with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from job.rendezvous.messages import Request

RETRY_S = 60.0  # until workers with which the others could not train are taken in again; twice as long each time
MAX_RETRY_S = 900.0  # but never longer than this


class Newcomers:
    """The newcomers of a round: its members that were not in the last round that made a step.

    A round that ends before its first step may have failed because of them. They are then barred: they stay outside
    until RETRY_S later, and twice as long each time. If the other members are too few to train, no member is new.

    Args:
        least: the fewest workers that can train without the others.
        clock: monotonic seconds.

    Attributes:
        barred: the ranks that stay outside.
    """

    def __init__(self, least: int, clock: Callable[[], float]) -> None:
        self._least, self._clock = least, clock
        self._proven: set[str] = set()  # the senders that were in the last round with a step
        self.barred: set[int] = set()
        self._failed_round = ""  # the id of the last round that made no step with its newcomers
        self._retry_at, self._retry_s = 0.0, RETRY_S

    def among(self, members: Mapping[int, Request]) -> set[int]:
        """The ranks of the newcomers among the members of a round, whose requests are given by rank."""
        new = {rank for rank, request in members.items() if request.sender not in self._proven}
        return new if len(members) - len(new) >= self._least else set()

    def prove(self, members: Mapping[int, Request]) -> None:
        """Take note that the members of a round made a step together."""
        if self.among(members):
            self._retry_s = RETRY_S
        self._proven = {request.sender for request in members.values()}

    def bar(self, members: Mapping[int, Request], round_id: str) -> None:
        """Bar the newcomers of a round that ends, if it made no step."""
        if new := self.among(members):
            self.barred |= new
            self._failed_round = round_id
            self._retry_at, self._retry_s = self._clock() + self._retry_s, min(2 * self._retry_s, MAX_RETRY_S)

    def let_in_if_due(self) -> None:
        """Let all barred workers in, if it is time to try again."""
        if self._clock() >= self._retry_at:
            self.barred.clear()

    def failed(self, round_id: str) -> bool:
        """Whether this is the last round whose newcomers were barred."""
        return round_id == self._failed_round
