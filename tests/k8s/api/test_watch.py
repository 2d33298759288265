"""Watches that end, break or are refused."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from k8s.api.errors import ApiError, LauncherError
from tests.job.processes import wait_until
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


@pytest.mark.parametrize(
    "line",
    [
        b'{"object": {"metadata": {"uid": "a-uid", "resourceVersion": "8"}}}',
        b'{"type": null, "object": {"metadata": {"uid": "a-uid", "resourceVersion": "8"}}}',
        b'{"type": "SYNC", "object": {"metadata": {"uid": "a-uid", "resourceVersion": "8"}}}',
        b'{"type": "ADDED"}',
        b'{"type": "ADDED", "object": null}',
        b'{"type": "ADDED", "object": {"metadata": {"uid": "a-uid"}}}',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "8"}}}',
        b'{"type": "BOOKMARK", "object": {"metadata": {}}}',
        b'{"type": "ERROR", "object": {"kind": "Status", "code": 500}}',
        b'{"kind": "Status", "code": 403}',
        b"null",
        b"[]",
        b"7",
        b'"type"',
        b"<html>busy</html>",
        b"",
        b"\xff",
    ],
)
def test_a_line_that_is_no_change_starts_the_watch_again(serve: Callable[..., Server], line: bytes) -> None:
    """What a proxy adds to a watch, or an error in it, leads to a new list; the reader is not left waiting."""
    server = serve(page(version="7"), (200, line + b"\n"), page(named("b"), version="9"), [])
    stop = Waits()
    for now in cluster_at(server.port).watch("Pod", stop=stop):
        if now:
            stop.set()
    assert list(now) == ["b-uid"]
    assert "resourceVersion=7" in server.asked[1][1]


@pytest.mark.parametrize("metadata", [{}, {"continue": "from-b"}])
def test_a_watch_whose_list_took_too_long(serve: Callable[..., Server], metadata: dict[str, str]) -> None:
    """It goes on with the objects as they are, and watches from the first page on, so that no change is lost."""
    old, changed = named("a"), named("a", resourceVersion="8")
    rest = page(named("b"), version="9") if metadata else page(changed, named("b"), version="9")
    server = serve(
        page(old, version="7", more="t"),
        (410, {"kind": "Status", "reason": "Expired", "code": 410, "metadata": metadata}),
        rest,
        [{"type": "MODIFIED", "object": changed}],
    )
    stop, seen = Waits(), []
    for now in cluster_at(server.port).watch("Pod", stop=stop):
        seen.append(now)
        if len(seen) == 2:
            stop.set()
    assert seen[0] == {"a-uid": named("a"), "b-uid": named("b")}
    assert seen[1]["a-uid"] == changed
    assert "continue=t" in server.asked[1][1]
    assert ("continue=from-b" in server.asked[2][1]) == bool(metadata)
    assert "resourceVersion=7" in server.asked[3][1]


def test_a_list_that_expires_again_and_again_is_refused(serve: Callable[..., Server]) -> None:
    """If a server never accepts a token, one more request asks for everything at once."""
    gone = (410, {"kind": "Status", "code": 410, "message": "expired", "metadata": {"continue": "t"}})
    server = serve(page(named("a"), more="t"), gone, gone, gone)
    with pytest.raises(ApiError, match="expired"):
        cluster_at(server.port).select("Pod")
    assert "limit" not in server.asked[-1][1]


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"items": []}', b'{"items": [{}], "metadata": {}}', b"<html>"])
def test_a_list_that_no_api_server_gives(serve: Callable[..., Server], content: bytes) -> None:
    """The error names the server, also for a thread that waits for kept objects."""
    cluster = cluster_at(serve((200, content)).port)
    cluster.keep("Pod", "app=a")
    with pytest.raises(LauncherError, match="does not answer like a Kubernetes API server"):
        cluster.select("Pod", "app=a")


def test_a_fault_in_the_thread_that_keeps_objects(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the thread, those that wait for the objects learn of it."""

    def fail(_: str) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("k8s.api.watch.parse_change", fail)
    server = serve(page(named("a")), [{"type": "ADDED", "object": named("b")}])
    cluster = cluster_at(server.port)
    cluster.keep("Pod", "app=a")

    def until_raised() -> None:
        wait_until(lambda: not cluster.select("Pod", "app=a"), "an error")

    with pytest.raises(RuntimeError, match="a fault"):
        until_raised()


def test_a_quiet_watch_ends_before_its_connection_counts_as_dead(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each time without a change would cost a new list. The time to connect is no limit to its silence."""
    monkeypatch.setattr("k8s.api.cluster.WATCH_S", 0.2)
    monkeypatch.setattr("k8s.api.requests.TIMEOUT_S", (0.2, 30.0))

    def quiet(_: object) -> None:
        time.sleep(0.5)

    server = serve(page(version="7"), quiet, page(version="8"), quiet, [])
    stop = Waits()
    threading.Thread(target=lambda: list(cluster_at(server.port).watch("Pod", stop=stop)), daemon=True).start()
    wait_until(lambda: len(server.asked) >= 3, "three requests")
    stop.set()
    assert ["limit=" in path for _, path, _ in server.asked[:3]] == [True, False, False]


def test_what_is_kept_is_listed_once_and_watched_once(serve: Callable[..., Server]) -> None:
    """select() sends no requests for kept objects until the watch is refused; then it requests them each time."""
    old, new = named("a", resourceVersion="6", managedFields=[{}]), named("b", resourceVersion="8")
    other = page(named("c"))
    refusals = [refused(403, "Forbidden", text) for text in ("no more", "nor lists")]
    server = serve(page(old, more="t"), page(version="7"), [{"type": "ADDED", "object": new}], *refusals)
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

    with pytest.raises(ApiError, match="nor lists"):
        until_refused()
    assert len(server.asked) == 5
    server.answers = [other]
    assert cluster.select("Pod", "app=b") == other["items"]


@pytest.mark.parametrize("listed", [True, False])
def test_what_may_not_be_watched_is_not_kept(serve: Callable[..., Server], *, listed: bool) -> None:
    """What this user may list but not watch, or may not list at first, select() requests each time."""
    first = [page(named("old"))] if listed else []
    server = serve(*first, refused(403, "Forbidden", "no watching"), page(named("a")), page(named("b")))
    cluster = cluster_at(server.port)
    cluster.keep("Pod", "app=a")
    wait_until(lambda: cluster.select("Pod", "app=a") == [named("a")], "a list of its own")
    assert cluster.select("Pod", "app=a") == [named("b")]


def test_objects_kept_of_all_namespaces(serve: Callable[..., Server]) -> None:
    """They are listed and watched in all namespaces, and are not used for a request of one namespace."""
    server = serve(page(named("a")), [], page(named("b")))
    cluster = cluster_at(server.port)
    cluster.keep("Pod", "app=a", everywhere=True)
    assert cluster.select("Pod", "app=a", everywhere=True) == [named("a")]
    wait_until(lambda: len(server.asked) == 2, "the watch")
    assert cluster.select("Pod", "app=a") == [named("b")]
    assert [path.split("?")[0] for _, path, _ in server.asked] == ["/api/v1/pods", "/api/v1/pods", PODS]


def test_only_what_is_wanted_is_kept(serve: Callable[..., Server]) -> None:
    """The other objects of the list and of the watch are forgotten; field selectors choose among what is kept."""
    changes = [{"type": "ADDED", "object": named(name, resourceVersion="8")} for name in ("other", "own-2")]
    server = serve(page(named("own-1"), named("other-1"), version="7"), changes, [])
    cluster = cluster_at(server.port)
    cluster.keep("Event", wanted=lambda one: one["metadata"]["name"].startswith("own"))
    wait_until(lambda: len(cluster.select("Event")) == 2, "the event of the watch")
    assert [one["metadata"]["name"] for one in cluster.select("Event")] == ["own-1", "own-2"]
    [one] = cluster.select("Event", fields="metadata.name=own-2,metadata.uid!=own-1-uid")
    assert one["metadata"]["name"] == "own-2"
    assert cluster.select("Event", fields="involvedObject.name=own-2") == []


def test_watch_that_is_not_allowed(serve: Callable[..., Server]) -> None:
    """A watch that is refused permanently is an error, although the list succeeded."""
    server = serve(page(), refused(403, "Forbidden", "no watching"))
    with pytest.raises(ApiError, match="no watching"):
        list(cluster_at(server.port).watch("Pod"))
