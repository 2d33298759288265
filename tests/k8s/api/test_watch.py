"""Watches that end, break or are refused."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from k8s.api.errors import ApiError
from tests.k8s.api.server import (
    CUT,
    PODS,
    Answer,
    Server,
    cluster_at,
    named,
    page,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.objects import Object


class Waits(threading.Event):
    """An event that returns from wait() at once; keeps the requested times."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is set."""
        self.seconds.append(timeout or 0.0)
        return self.is_set()


def test_watch(serve: Callable[..., Server]) -> None:
    """Yields the objects, then again after each change; a watch that ends continues, a broken one starts again."""
    a, b, c, d = (named(name, resourceVersion="6") for name in "abcd")
    gone: Object = {"type": "ERROR", "object": {"kind": "Status", "code": 410}}
    mark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "10"}}}
    newer = named("b", resourceVersion="8")
    server = serve(
        page(a, version="7"),
        [{"type": "ADDED", "object": b}, {"type": "MODIFIED", "object": newer}, {"type": "DELETED", "object": a}, mark],
        [{"type": "ADDED", "object": c}, gone, {"type": "ADDED", "object": d}],
        page(c, version="20"),
        (410, {"kind": "Status", "message": "too old"}),
        page(version="30"),
        (200, b'{"type": "ADDED", "obj'),
        [{"type": "ADDED", "object": d}],
        CUT,
        page(a, version="50"),
    )
    stop = Waits()
    seen: list[dict[str, Object]] = []
    for now in cluster_at(server.port).watch("Pod", "app=a", stop=stop):
        seen.append(now)
        if len(seen) == 9:
            stop.set()
            server.answers = [[]]
    assert seen == [
        {"a-uid": a},
        {"a-uid": a, "b-uid": b},
        {"a-uid": a, "b-uid": newer},
        {"b-uid": newer},
        {"b-uid": newer, "c-uid": c},
        {"c-uid": c},
        {},
        {"d-uid": d},
        {"a-uid": a},
    ]
    watches = [path for _, path, _ in server.asked if "watch=1" in path]
    assert watches[:5] == [
        f"{PODS}?labelSelector=app%3Da&watch=1&resourceVersion={version}&timeoutSeconds=60&allowWatchBookmarks=true"
        for version in (7, 10, 20, 30, 30)
    ]


@pytest.mark.parametrize("broken", [[], CUT, (503, b"away"), (410, b"")])
def test_a_watch_that_brings_nothing_waits_longer_each_time(serve: Callable[..., Server], broken: Answer) -> None:
    """The pause grows up to 5 s, and news resets it. A watch that ends normally needs no new list."""
    lists = 1 if broken == [] else 7
    answers = [page(version="7"), broken] if lists == 1 else []
    answers += [broken] * 5 if lists == 1 else [page(version="7"), broken] * 6
    answers += [] if lists == 1 else [page(version="7")]
    server = serve(*answers, [{"type": "ADDED", "object": named("a", resourceVersion="8")}], [])
    stop = Waits()
    for now in cluster_at(server.port).watch("Pod", stop=stop):
        if now:
            stop.set()
    for found, expected in zip(stop.seconds, (0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.2), strict=True):
        assert 0.75 * expected <= found <= 1.25 * expected
    assert len([path for _, path, _ in server.asked if "limit=" in path]) == lists


def test_what_is_kept_is_listed_once_and_watched_once(serve: Callable[..., Server]) -> None:
    """select() sends no requests for kept objects, and raises the error of a watch that is refused later."""
    old, new = named("a", resourceVersion="6", managedFields=[{}]), named("b", resourceVersion="8")
    other = page(named("c"))
    server = serve(
        page(old, more="t"), page(version="7"), [{"type": "ADDED", "object": new}], refused(403, "Forbidden", "no more")
    )
    cluster = cluster_at(server.port)
    cluster.keep("Pod", "app=a")
    found = cluster.select("Pod", "app=a")
    deadline = time.monotonic() + 60
    while len(found) < 2 and time.monotonic() < deadline:
        found = cluster.select("Pod", "app=a")
    assert [one["metadata"] for one in found] == [
        {"name": "a", "uid": "a-uid", "resourceVersion": "6"},
        new["metadata"],
    ]

    def until_refused() -> None:
        while time.monotonic() < deadline:
            cluster.select("Pod", "app=a")

    with pytest.raises(ApiError, match="no more"):
        until_refused()
    assert len(server.asked) == 4
    server.answers = [other]
    assert cluster.select("Pod", "app=b") == other["items"]


def test_what_may_not_be_watched_is_not_kept(serve: Callable[..., Server]) -> None:
    """keep() raises at once if this user may not list the objects."""
    with pytest.raises(ApiError, match="no listing"):
        cluster_at(serve(refused(403, "Forbidden", "no listing")).port).keep("Pod", "app=a")


def test_watch_that_is_not_allowed(serve: Callable[..., Server]) -> None:
    """A watch that is refused permanently is an error, although the list succeeded."""
    server = serve(page(), refused(403, "Forbidden", "no watching"))
    with pytest.raises(ApiError, match="no watching"):
        list(cluster_at(server.port).watch("Pod"))
