"""Several requests at the same time."""

from __future__ import annotations

from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

T = TypeVar("T")
R = TypeVar("R")

AT_A_TIME = 10


def ask_all(ask: Callable[[T], R], items: Collection[T], most: int = AT_A_TIME) -> list[R]:
    """The results of ask() for all items, in their order; or the exception of the first item that has one.

    After an exception or Ctrl-C, nothing waits for unanswered requests. Python does not wait for these threads when it
    exits, unlike those of concurrent.futures.

    Args:
        ask: called in threads.
        items: its arguments.
        most: threads.
    """
    if not items:
        return []
    with ThreadPool(min(most, len(items))) as pool:
        return list(pool.imap(ask, items))
