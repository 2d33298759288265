"""Requests that are retried or given up, and credentials that change."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from kubernetes import client

import k8s.api.cluster
import k8s.api.kubeconfig
import k8s.api.requests
from k8s.api.cluster import Cluster
from k8s.api.errors import ApiError, LauncherError, Status
from tests.k8s.api.server import (
    AWAY,
    BUSY,
    CUT,
    JOBS,
    UNAUTHORIZED,
    Answer,
    Frames,
    Server,
    cluster_at,
    named,
    page,
    refused,
    tokens_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("temporary", [CUT, BUSY, AWAY, (500, b""), (504, b"")])
def test_a_temporary_error_is_retried(serve: Callable[..., Server], temporary: Answer) -> None:
    """A request without a response, or with a temporary error, is sent again without a message."""
    server, said = serve(temporary, named("a")), list[str]()
    assert cluster_at(server.port, said.append).get("Job", "a") == named("a")
    assert server.asked == [("GET", f"{JOBS}/a", None)] * 2
    assert said == []


def test_an_api_server_that_comes_back(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage that lasts is reported once, and again only after the server has answered."""
    monkeypatch.setattr(k8s.api.requests, "SILENT_S", 0.0)
    first = serve()
    first.end()
    said: list[str] = []

    def say(line: str) -> None:
        if not said:
            serve(CUT, named("a"), CUT, named("b"), port=first.port)
        said.append(line)

    cluster = cluster_at(first.port, say)
    assert [cluster.get("Job", name) for name in "ab"] == [named("a"), named("b")]
    assert said == [
        "the API server has not answered for 0 s (Connection refused); still trying",
        "the API server has not answered for 0 s (Remote end closed connection without response); still trying",
    ]


@pytest.mark.parametrize(
    ("answer", "status", "sentence"),
    [
        (
            CUT,
            Status.UNREACHED,
            (
                "the API server at {host} does not answer: Remote end closed connection without response; "
                "check that the cluster is up, and the server's address in the kubeconfig"
            ),
        ),
        (
            AWAY,
            Status.UNREACHED,
            (
                "the API server at {host} does not answer: HTTP 503: upstream away; "
                "check that the cluster is up, and the server's address in the kubeconfig"
            ),
        ),
        (
            BUSY,
            Status.UNREACHED,
            (
                "the API server at {host} does not answer: too many requests; "
                "check that the cluster is up, and the server's address in the kubeconfig"
            ),
        ),
        (
            refused(500, "InternalError", 'failed calling webhook "guard"'),
            Status.REFUSED,
            'the API server refused to get /api/v1/namespaces/here/pods/a: failed calling webhook "guard"',
        ),
        (
            refused(403, "Forbidden", 'pods "a" is forbidden: User "u" cannot get resource "pods"'),
            Status.REFUSED,
            (
                "the API server refused to get /api/v1/namespaces/here/pods/a: "
                'pods "a" is forbidden: User "u" cannot get resource "pods"'
            ),
        ),
        (
            (200, b"<html>"),
            Status.UNREACHED,
            "{host} does not answer like a Kubernetes API server; check the server's address in the kubeconfig",
        ),
    ],
    ids=["cut", "503", "429", "500", "403", "no API server"],
)
def test_giving_up(serve: Callable[..., Server], answer: Answer, status: Status, sentence: str) -> None:
    """A permanent error, or one that outlasts the patience, is one sentence with its exit status."""
    server = serve(answer)
    cluster = cluster_at(server.port)
    cluster.patience_s = 0
    with pytest.raises(LauncherError) as caught:
        cluster.get("Pod", "a")
    told = sentence.replace("{host}", f"http://127.0.0.1:{server.port}")
    assert (str(caught.value), caught.value.status) == (told, status)


class Clock:
    """A clock that only sleep() moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """The seconds since it was made."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the requests."""
    monkeypatch.setattr(k8s.api.requests, "time", made := Clock())
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "cluster.invalid"])
def test_nobody_at_the_address(serve: Callable[..., Server], clock: Clock, host: str) -> None:
    """The first request is given up soon if no connection is made: the address may be wrong, or the cluster stopped."""
    server = serve()
    server.end()
    settings = client.Configuration()
    settings.host = f"http://{host}:{server.port}"
    cluster = Cluster(lambda: client.ApiClient(settings), "here")
    with pytest.raises(LauncherError, match="does not answer: ") as caught:
        cluster.get("Pod", "a")
    assert caught.value.status == Status.UNREACHED
    assert 1 < clock.now < 5


def test_an_api_server_that_is_away_later(serve: Callable[..., Server], clock: Clock) -> None:
    """One that has answered before is waited for longer; so is one for which the user has given a time."""
    server = serve(named("a"))
    cluster = cluster_at(server.port)
    cluster.get("Job", "a")
    server.end()
    with pytest.raises(LauncherError):
        cluster.get("Job", "a")
    assert clock.now > 29
    settings = client.Configuration()
    settings.host = f"http://127.0.0.1:{server.port}"
    clock.now = 0.0
    with pytest.raises(LauncherError):
        Cluster(lambda: client.ApiClient(settings), "here", patience_s=60).get("Job", "a")
    assert clock.now > 59


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(("header", "least_s", "most_s"), [("7", 7, 8), ("900", 30, 31), ("soon", 0, 1), ("", 0, 1)])
def test_retry_after(
    serve: Callable[..., Server], clock: Clock, code: int, header: str, least_s: float, most_s: float
) -> None:
    """All kinds of requests wait as long as the API server asks, within a limit."""
    refused: Answer = (code, {}, header)
    server = serve(refused, named("a"), refused, (200, b"line\n"), refused, Frames(b'\3{"status": "Success"}'))
    cluster = cluster_at(server.port)
    waits = []

    def waited() -> None:
        waits.append(clock.now)
        clock.now = 0.0
        cluster._api._not_before = 0.0

    assert cluster.get("Job", "a") == named("a")
    waited()
    with pytest.raises(ApiError):
        list(cluster.logs("p", "c"))
    assert list(cluster.logs("p", "c")) == ["line"]
    waited()
    with pytest.raises(ConnectionError):
        cluster.run_in("p", "c", ["true"], print)
    assert cluster.run_in("p", "c", ["true"], print) == (0, "")
    waited()
    assert all(least_s <= wait <= most_s for wait in waits), waits


def test_retry_after_of_a_watch(serve: Callable[..., Server], clock: Clock) -> None:
    """A watch that is refused waits for this time, too."""
    stop = threading.Event()
    server = serve(page(named("a")), (429, {}, 9), page(named("b")))
    watch = cluster_at(server.port).watch("Job", stop=stop)
    assert [next(watch), next(watch)] == [{"a-uid": named("a")}, {"b-uid": named("b")}]
    assert 9 <= clock.now < 10


def logging_in(port: int, *tokens: str | LauncherError) -> Cluster:
    """The cluster at a port of this machine; each time somebody logs in the next token is the one, or the error."""
    left = list(tokens)

    def log_in() -> client.ApiClient:
        token = left.pop(0)
        if isinstance(token, LauncherError):
            raise token
        settings = client.Configuration()
        settings.host, settings.api_key["BearerToken"] = f"http://127.0.0.1:{port}", f"Bearer {token}"
        return client.ApiClient(settings)

    return Cluster(log_in, "here")


def test_credentials_that_are_rotated(serve: Callable[..., Server]) -> None:
    """After a 401, requests, streams and lists are sent again with fresh credentials."""
    server = serve(UNAUTHORIZED, named("a"), named("b"), UNAUTHORIZED, page(named("c")), UNAUTHORIZED, (200, b"line\n"))
    cluster = logging_in(server.port, "one", "two", "three", "four")
    assert [cluster.get("Job", name) for name in "ab"] == [named("a"), named("b")]
    assert cluster.select("Job") == [named("c")]
    assert list(cluster.logs("p", "trainer")) == ["line"]
    assert tokens_of(server) == ["one", "two", "two", "two", "three", "three", "four"]


def test_credentials_that_are_not_accepted_for_a_moment(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After credentials that were accepted, fresh ones are tried repeatedly, even if there are none for a while."""
    monkeypatch.setattr(k8s.api.requests, "LOGIN_EVERY_S", 0.0)
    nobody = LauncherError(Status.UNREACHED, "the plugin fails", "log in")
    server = serve(named("a"), *[UNAUTHORIZED] * 4, page(named("b")))
    cluster = logging_in(server.port, "one", "two", nobody, "three", "four")
    cluster.get("Job", "a")
    stop = threading.Event()
    for found in cluster.watch("Job", stop=stop):
        assert found == {"b-uid": named("b")}
        stop.set()
        server.answers = [[]]
    assert tokens_of(server)[:6] == ["one", "one", "two", "two", "three", "four"]


def test_an_api_server_that_does_not_know_the_roles_yet(serve: Callable[..., Server], clock: Clock) -> None:
    """Just after its start it forbids what it permitted before; a request that stays forbidden is an error."""
    forbidden = refused(403, "Forbidden", "jobs is forbidden")
    server = serve(named("a"), CUT, forbidden, forbidden, named("b"))
    cluster = cluster_at(server.port)
    cluster.get("Job", "a")
    assert cluster.get("Job", "b") == named("b")
    server.answers = [CUT, *[forbidden] * 40]
    with pytest.raises(ApiError):
        cluster.get("Job", "c")
    assert 19 < clock.now < 40
    asked = len(server.asked)
    clock.now += 60
    with pytest.raises(ApiError):
        cluster.get("Job", "c")
    assert len(server.asked) == asked + 1


@pytest.mark.parametrize(
    ("log_in", "sentence"),
    [
        (
            "two",
            "the API server does not accept the credentials (401 Unauthorized); log in to the cluster again",
        ),
        (LauncherError(Status.UNREACHED, "the plugin fails", "log in"), "the plugin fails; log in"),
    ],
)
def test_credentials_that_are_not_accepted(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, log_in: str | LauncherError, sentence: str
) -> None:
    """The error comes after one more attempt; or after a time, if credentials were accepted before."""
    server = serve(*[UNAUTHORIZED] * 2)
    with pytest.raises(LauncherError) as caught:
        logging_in(server.port, "one", log_in).get("Pod", "a")
    assert (str(caught.value), caught.value.status, server.answers) == (sentence, Status.UNREACHED, [])
    monkeypatch.setattr(k8s.api.requests, "LOGIN_S", 0.0)
    server = serve(named("a"), *[UNAUTHORIZED] * 2)
    cluster = logging_in(server.port, "one", log_in)
    cluster.get("Pod", "a")
    cluster.patience_s = float("inf")
    with pytest.raises(LauncherError) as caught:
        cluster.get("Pod", "a")
    assert (str(caught.value), server.answers) == (sentence, [])
