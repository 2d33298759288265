"""The object that talks to the API server, against a small server on this machine that plays its answers."""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, config
from urllib3.exceptions import ProtocolError

import k8s.api.cluster
import k8s.api.kubeconfig
import k8s.api.requests
from k8s.api.cluster import Cluster
from k8s.api.errors import ApiError, LauncherError, Status, in_words
from k8s.api.kubeconfig import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from k8s.api.objects import Object

PODS = "/api/v1/namespaces/here/pods"
JOBS = "/apis/batch/v1/namespaces/here/jobs"
CUT = object()  # in place of an answer: the connection is closed
Answer = Any  # CUT, an object (200), or (status, object); a list of these as the lines of a stream


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives each request the next answer that is laid out for it."""

    server: Server

    def do(self) -> None:
        """Answer, and note what was asked."""
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body))
        self.server.headers.append(dict(self.headers))
        answer = self.server.answers.pop(0)
        if answer is CUT:
            return
        status, content = answer if isinstance(answer, tuple) else (200, answer)
        self.send_response(status)
        self.end_headers()
        if isinstance(content, bytes):
            self.wfile.write(content)
        elif isinstance(content, list):
            self.wfile.write(b"".join(json.dumps(line).encode() + b"\n" for line in content))
        else:
            self.wfile.write(json.dumps(content).encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815 - the base class's names

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """An API server that knows its answers beforehand.

    Attributes:
        answers: the ones to come, in order.
        asked: each request: its method, its path with the query, and its body.
        headers: of each request.
    """

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, *answers: Answer, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def begin(self) -> None:
        """Answer from now on, in a thread."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def end(self) -> None:
        """Answer nobody any more."""
        self.shutdown()
        self.server_close()


@pytest.fixture(autouse=True)
def by_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes an object is `me`."""
    monkeypatch.setattr(k8s.api.cluster, "field_manager", lambda: "me")


@pytest.fixture
def plays() -> Iterator[Callable[..., Server]]:
    """Starts servers that play answers."""
    begun = []

    def start(*answers: Answer, port: int = 0) -> Server:
        begun.append(Server(*answers, port=port))
        begun[-1].begin()
        return begun[-1]

    yield start
    for server in begun:
        server.end()


def at(port: int, say: Callable[[str], None] = lambda _: None) -> Cluster:
    """The cluster at a port of this machine."""
    settings = client.Configuration()
    settings.host = f"http://127.0.0.1:{port}"
    settings.api_key["BearerToken"] = "Bearer secret"
    return Cluster(lambda: client.ApiClient(settings), "here", say)


def named(name: str, kind: str = "Job", **fields: Any) -> Object:
    """An object."""
    return {"kind": kind, "metadata": {"name": name, "uid": f"{name}-uid", **fields}}


def refused(code: int, reason: str, message: str) -> tuple[int, Object]:
    """An answer that is a Status."""
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def page(*items: Object, version: str = "7", more: str = "") -> Object:
    """A page of a list."""
    return {"metadata": {"resourceVersion": version, "continue": more}, "items": list(items)}


BUSY = refused(429, "TooManyRequests", "too many requests")
AWAY = (503, b"upstream away")
CONFLICT = refused(409, "Conflict", 'Operation cannot be fulfilled on resourcequotas "q"')
UNAUTHORIZED = refused(401, "Unauthorized", "Unauthorized")
EXISTS = refused(409, "AlreadyExists", 'jobs.batch "a" already exists')


def test_get(plays: Callable[..., Server]) -> None:
    """An object is asked for with the credentials, and one that is not there is None."""
    server = plays(named("a"), refused(404, "NotFound", 'jobs.batch "b" not found'))
    cluster = at(server.port)
    assert (cluster.get("Job", "a"), cluster.get("Job", "b")) == (named("a"), None)
    assert server.asked == [("GET", f"{JOBS}/a", None), ("GET", f"{JOBS}/b", None)]
    assert {headers["authorization"] for headers in server.headers} == {"Bearer secret"}


def test_select_page_by_page(plays: Callable[..., Server]) -> None:
    """A long list is asked for in pages, each with the selectors and the token of the one before."""
    server = plays(page(named("a"), more="t1"), page(named("b"), more="t2"), page(named("c")), page())
    cluster = at(server.port)
    found = cluster.select("Pod", "app=a,b=c", "spec.nodeName=n")
    assert [one["metadata"]["name"] for one in found] == ["a", "b", "c"]
    cluster.select("Pod", everywhere=True)
    query = "?labelSelector=app%3Da%2Cb%3Dc&fieldSelector=spec.nodeName%3Dn&limit=500"
    paths = [f"{PODS}{query}{token}" for token in ("", "&continue=t1", "&continue=t2")]
    assert [path for _, path, _ in server.asked] == [*paths, "/api/v1/pods?limit=500"]


@pytest.mark.parametrize("hiccup", [CUT, BUSY, AWAY, (500, b""), (504, b"")])
def test_a_hiccup_is_tried_again(plays: Callable[..., Server], hiccup: Answer) -> None:
    """A request without an answer, or with one that will pass, is sent again, and nothing is said of it."""
    server, said = plays(hiccup, named("a")), list[str]()
    assert at(server.port, said.append).get("Job", "a") == named("a")
    assert server.asked == [("GET", f"{JOBS}/a", None)] * 2
    assert said == []


def test_an_api_server_that_comes_back(plays: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """That nobody listens is said once when it lasts, and forgotten once somebody does."""
    monkeypatch.setattr(k8s.api.requests, "SILENT_S", 0.0)
    first = plays()
    first.end()
    said: list[str] = []

    def say(line: str) -> None:
        if not said:
            plays(CUT, named("a"), CUT, named("b"), port=first.port)
        said.append(line)

    cluster = at(first.port, say)
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
def test_giving_up(plays: Callable[..., Server], answer: Answer, status: Status, sentence: str) -> None:
    """What does not pass, or lasts longer than the patience, is one sentence and the exit status of its kind."""
    server = plays(answer)
    cluster = at(server.port)
    cluster.patience_s = 0
    with pytest.raises(LauncherError) as caught:
        cluster.get("Pod", "a")
    told = sentence.replace("{host}", f"http://127.0.0.1:{server.port}")
    assert (str(caught.value), caught.value.status) == (told, status)


def test_create(plays: Callable[..., Server]) -> None:
    """An object is sent as it is; in a dry run the API server is told so."""
    server = plays(named("a", resourceVersion="1"), named("a"))
    cluster = at(server.port)
    assert cluster.create(named("a")) == named("a", resourceVersion="1")
    cluster.create(named("a"), dry_run=True)
    assert server.asked == [("POST", f"{JOBS}?fieldManager=me", named("a")), ("POST", f"{JOBS}?dryRun=All", named("a"))]


def test_a_group_in_the_version_that_the_cluster_prefers(plays: Callable[..., Server]) -> None:
    """Kueue's objects are asked for in the version that is served, found out once; without Kueue there are none."""
    group, of_kueue = "/apis/kueue.x-k8s.io", {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"}}
    server = plays(
        of_kueue, named("night"), {"items": [], "metadata": {"resourceVersion": "1"}}, refused(404, "NotFound", "no")
    )
    cluster = at(server.port)
    assert cluster.get("LocalQueue", "night") == named("night")
    assert cluster.select("Workload") == []
    there = f"{group}/v1beta2/namespaces/here"
    assert [path for _, path, _ in server.asked] == [
        group,
        f"{there}/localqueues/night",
        f"{there}/workloads?limit=500",
    ]
    assert at(server.port).get("LocalQueue", "night") is None


def test_what_was_created_by_a_request_whose_answer_was_lost(plays: Callable[..., Server]) -> None:
    """It is there by the second try, as made by this very request, and that is no error."""
    made = named("a", managedFields=[{"manager": "kube-controller-manager"}, {"manager": "me"}])
    server = plays(CUT, EXISTS, made)
    assert at(server.port).create(named("a")) == made
    assert [path for _, path, _ in server.asked] == [f"{JOBS}?fieldManager=me"] * 2 + [f"{JOBS}/a"]


@pytest.mark.parametrize("managers", [[{"manager": "another"}], []], ids=["another's", "nobody's"])
def test_what_another_created_while_an_answer_was_lost(plays: Callable[..., Server], managers: list[Object]) -> None:
    """An object of that name that this request did not make is not taken for its own."""
    server = plays(CUT, EXISTS, named("a", managedFields=managers))
    with pytest.raises(ApiError, match="already exists"):
        at(server.port).create(named("a"))


def test_a_conflict_is_tried_again(plays: Callable[..., Server]) -> None:
    """What others change at the same time, as a quota's count, is tried again; nothing was made by it."""
    server = plays(CONFLICT, CONFLICT, EXISTS)
    with pytest.raises(ApiError, match="already exists"):
        at(server.port).create(named("a"))
    assert len(server.asked) == 3
    server = plays(CONFLICT)
    cluster = at(server.port)
    cluster.patience_s = 0
    with pytest.raises(ApiError, match="Operation cannot be fulfilled on resourcequotas") as caught:
        cluster.create(named("a"))
    assert caught.value.status == Status.REFUSED
    server = plays(CONFLICT)
    with pytest.raises(ApiError, match="Operation cannot be fulfilled"):  # of another version than the change is for
        at(server.port).patch("Job", "a", {"metadata": {"resourceVersion": "1"}})
    assert len(server.asked) == 1


def test_what_was_there_before_is_an_error(plays: Callable[..., Server]) -> None:
    """Where no answer was lost, an object of that name is another one; a dry run creates none in any case."""
    sentence = f'^the API server refused to post {JOBS}: jobs.batch "a" already exists$'
    for dry_run, answers in ((False, [EXISTS]), (True, [CUT, EXISTS])):
        with pytest.raises(ApiError, match=sentence) as caught:
            at(plays(*answers).port).create(named("a"), dry_run=dry_run)
        assert (caught.value.code, caught.value.reason) == (409, "AlreadyExists")


# Credentials


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


def tokens_of(server: Server) -> list[str]:
    """The tokens that came with the requests."""
    return [headers["authorization"].removeprefix("Bearer ") for headers in server.headers]


def test_credentials_that_are_rotated(plays: Callable[..., Server]) -> None:
    """What is not accepted is asked again with new credentials, requests, streams and lists alike."""
    server = plays(UNAUTHORIZED, named("a"), named("b"), UNAUTHORIZED, page(named("c")), UNAUTHORIZED, (200, b"line\n"))
    cluster = logging_in(server.port, "one", "two", "three", "four")
    assert [cluster.get("Job", name) for name in "ab"] == [named("a"), named("b")]
    assert cluster.select("Job") == [named("c")]
    assert list(cluster.logs("p", "trainer")) == ["line"]
    assert tokens_of(server) == ["one", "two", "two", "two", "three", "three", "four"]


def test_credentials_that_are_not_accepted_for_a_moment(
    plays: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where some were accepted before, new ones are asked for again and again, also where there are none meanwhile."""
    monkeypatch.setattr(k8s.api.requests, "LOGIN_EVERY_S", 0.0)
    nobody = LauncherError(Status.UNREACHED, "the plugin fails", "log in")
    server = plays(named("a"), *[UNAUTHORIZED] * 4, page(named("b")))
    cluster = logging_in(server.port, "one", "two", nobody, "three", "four")
    cluster.get("Job", "a")
    stop = threading.Event()
    for found in cluster.watch("Job", stop=stop):
        assert found == {"b-uid": named("b")}
        stop.set()
        server.answers = [[]]
    assert tokens_of(server)[:6] == ["one", "one", "two", "two", "three", "four"]


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
    plays: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, log_in: str | LauncherError, sentence: str
) -> None:
    """It is said after one more try; after a time, where some were accepted before."""
    server = plays(*[UNAUTHORIZED] * 2)
    with pytest.raises(LauncherError) as caught:
        logging_in(server.port, "one", log_in).get("Pod", "a")
    assert (str(caught.value), caught.value.status, server.answers) == (sentence, Status.UNREACHED, [])
    monkeypatch.setattr(k8s.api.requests, "LOGIN_S", 0.0)
    server = plays(named("a"), *[UNAUTHORIZED] * 2)
    cluster = logging_in(server.port, "one", log_in)
    cluster.get("Pod", "a")
    cluster.patience_s = float("inf")
    with pytest.raises(LauncherError) as caught:
        cluster.get("Pod", "a")
    assert (str(caught.value), server.answers) == (sentence, [])


def test_patch(plays: Callable[..., Server]) -> None:
    """A change, of a status too, is a JSON merge patch."""
    server = plays(named("a"), named("a"))
    at(server.port).patch("Job", "a", {"spec": {"suspend": True}})
    at(server.port).patch("Job", "a", {"status": {"active": 1}}, "status")
    assert server.asked == [
        ("PATCH", f"{JOBS}/a", {"spec": {"suspend": True}}),
        ("PATCH", f"{JOBS}/a/status", {"status": {"active": 1}}),
    ]
    assert {headers["Content-Type"] for headers in server.headers} == {"application/merge-patch+json"}


def test_replace(plays: Callable[..., Server]) -> None:
    """An object takes the place of the one of its name, or would."""
    server = plays(named("a"), named("a"))
    for dry_run in (True, False):
        assert at(server.port).replace(named("a"), dry_run=dry_run) == named("a")
    assert server.asked == [("PUT", f"{JOBS}/a?dryRun=All", named("a")), ("PUT", f"{JOBS}/a", named("a"))]


def test_delete(plays: Callable[..., Server]) -> None:
    """What is gone, or has another in its place, is deleted already; what it owns goes after it, or stays."""
    conflict = refused(409, "Conflict", "the UID in the precondition is another")
    server = plays({}, refused(404, "NotFound", "no"), conflict, conflict, {})
    cluster = at(server.port)
    cluster.delete("Job", "a")
    cluster.delete("Pod", "a", grace_s=0)
    cluster.delete("Job", "a", uid="a-uid")
    with pytest.raises(ApiError):
        cluster.delete("Job", "a")
    cluster.delete("Job", "a", orphan=True)
    options = {"propagationPolicy": "Background"}
    assert server.asked == [
        ("DELETE", f"{JOBS}/a", options),
        ("DELETE", f"{PODS}/a", {**options, "gracePeriodSeconds": 0}),
        ("DELETE", f"{JOBS}/a", {**options, "preconditions": {"uid": "a-uid"}}),
        ("DELETE", f"{JOBS}/a", options),
        ("DELETE", f"{JOBS}/a", {"propagationPolicy": "Orphan"}),
    ]


def test_watch(plays: Callable[..., Server]) -> None:
    """Objects are given as they are, then after each change; a watch that ends goes on, a broken one begins anew."""
    a, b, c, d = (named(name, resourceVersion="6") for name in "abcd")
    gone: Object = {"type": "ERROR", "object": {"kind": "Status", "code": 410}}
    mark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "10"}}}
    newer = named("b", resourceVersion="8")
    server = plays(
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
    for now in at(server.port).watch("Pod", "app=a", stop=stop):
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


class Waits(threading.Event):
    """An event for which nobody waits long; keeps for how long they would."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is set."""
        self.seconds.append(timeout or 0.0)
        return self.is_set()


@pytest.mark.parametrize("broken", [[], CUT, (503, b"away"), (410, b"")])
def test_a_watch_that_brings_nothing_waits_longer_each_time(plays: Callable[..., Server], broken: Answer) -> None:
    """Up to 5 s, whether it ends, breaks off or is refused; news begins anew. What ended in good order lists once."""
    lists = 1 if broken == [] else 7
    answers = [page(version="7"), broken] if lists == 1 else []
    answers += [broken] * 5 if lists == 1 else [page(version="7"), broken] * 6
    answers += [] if lists == 1 else [page(version="7")]
    server = plays(*answers, [{"type": "ADDED", "object": named("a", resourceVersion="8")}], [])
    stop = Waits()
    for now in at(server.port).watch("Pod", stop=stop):
        if now:
            stop.set()
    for found, expected in zip(stop.seconds, (0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.2), strict=True):
        assert 0.75 * expected <= found <= 1.25 * expected
    assert len([path for _, path, _ in server.asked if "limit=" in path]) == lists


def test_what_is_kept_is_listed_once_and_watched_once(plays: Callable[..., Server]) -> None:
    """However often it is selected; other selectors are asked for. A watch that is refused later is told."""
    old, new = named("a", resourceVersion="6", managedFields=[{}]), named("b", resourceVersion="8")
    other = page(named("c"))
    server = plays(
        page(old, more="t"), page(version="7"), [{"type": "ADDED", "object": new}], refused(403, "Forbidden", "no more")
    )
    cluster = at(server.port)
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


def test_what_may_not_be_watched_is_not_kept(plays: Callable[..., Server]) -> None:
    """That it may not be listed is told at once."""
    with pytest.raises(ApiError, match="no listing"):
        at(plays(refused(403, "Forbidden", "no listing")).port).keep("Pod", "app=a")


def test_watch_that_is_not_allowed(plays: Callable[..., Server]) -> None:
    """A watch that is refused for good is an error, whatever the list says."""
    server = plays(page(), refused(403, "Forbidden", "no watching"))
    with pytest.raises(ApiError, match="no watching"):
        list(at(server.port).watch("Pod"))


def test_logs(plays: Callable[..., Server]) -> None:
    """Lines come without their ends, what is no UTF-8 replaced; a torn last one comes only where nothing follows."""
    text = "one\nz\u00fcrich\n".encode() + b"\xff\n\ntorn"
    server = plays((200, text), (200, text))
    cluster = at(server.port)
    lines = ["one", "z\u00fcrich", "\ufffd", ""]
    assert list(cluster.logs("p", "trainer")) == [*lines, "torn"]
    assert list(cluster.logs("p", "trainer", follow=True, since_time="t", tail=5, since_s=3, timestamps=True)) == lines
    asked = [path for _, path, _ in server.asked]
    assert asked == [
        f"{PODS}/p/log?container=trainer&timestamps=false&follow=false",
        f"{PODS}/p/log?container=trainer&timestamps=true&follow=true&sinceTime=t&sinceSeconds=3&tailLines=5",
    ]


def test_logs_that_are_not_there(plays: Callable[..., Server]) -> None:
    """A pod that is gone is an ApiError, and a connection that is cut an OSError: who reads decides."""
    server = plays(refused(404, "NotFound", 'pods "p" not found'), CUT)
    cluster = at(server.port)
    with pytest.raises(ApiError) as caught:
        list(cluster.logs("p", "trainer", follow=True))
    assert caught.value.code == 404
    with pytest.raises(OSError, match=r"^Remote end closed connection without response$"):
        list(cluster.logs("p", "trainer", follow=True))


def test_version(plays: Callable[..., Server]) -> None:
    """A version is two numbers, whatever a vendor appends."""
    assert at(plays({"major": "1", "minor": "31+"}).port).version() == (1, 31)


def test_may(plays: Callable[..., Server]) -> None:
    """What a user may do is asked with the kind's group and, where it lives in one, the namespace."""
    server = plays({"status": {"allowed": True}}, {"status": {"allowed": False}})
    cluster = at(server.port)
    assert (cluster.may("get", "Pod", "log"), cluster.may("list", "StorageClass")) == (True, False)
    assert [body["spec"]["resourceAttributes"] for _, _, body in server.asked] == [
        {"verb": "get", "resource": "pods", "subresource": "log", "group": "", "namespace": "here"},
        {"verb": "list", "resource": "storageclasses", "subresource": "", "group": "storage.k8s.io"},
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ProtocolError("Connection aborted.", ConnectionResetError(104, "Connection reset by peer")), None),
        (ConnectionError("Connection reset by peer"), None),
        (TimeoutError("HTTPSConnectionPool(host='a', port=1): Read timed out. (read timeout=30)"), "Read timed out"),
        (
            OSError("HTTPSConnection(host='a', port=1): Failed to resolve 'a' ([Errno -2] Name or service not known)"),
            "Failed to resolve 'a' (Name or service not known)",
        ),
        (
            ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] verify failed: self-signed (_ssl.c:10)"),
            "verify failed: self-signed",
        ),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_in_words(error: Exception, said: str | None) -> None:
    """A broken connection is told in a few words."""
    assert in_words(error) == (said or "Connection reset by peer")


# The way in


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the place where the kubeconfig would be, which is not there; no cluster around either."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return path


def kubeconfig(server: str) -> Object:
    """A kubeconfig of two contexts."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u"}},
            {"name": "two", "context": {"cluster": "c", "user": "u", "namespace": "there"}},
            {"name": "broken", "context": {"cluster": "x", "user": "u"}},
        ],
    }


def test_kubeconfig(nowhere: Path, plays: Callable[..., Server]) -> None:
    """A context gives the server, the credentials and the namespace; a flag goes before the context's."""
    server = plays({"major": "1", "minor": "35"})
    nowhere.write_text(json.dumps(kubeconfig(f"http://127.0.0.1:{server.port}")))
    wanted = [(None, None), ("two", None), ("two", "mine")]
    reached = [connect(context, namespace, print) for context, namespace in wanted]
    assert [cluster.namespace for cluster in reached] == ["default", "there", "mine"]
    assert reached[1].version() == (1, 35)
    assert server.headers[0]["authorization"] == "Bearer secret"


UNUSABLE = "the kubeconfig cannot be used"
WHERE = r"check --kubeconfig, \$KUBECONFIG or ~/.kube/config"
NO_ADDRESS = "is not the address of an API server; write it as https://HOST:PORT"
NOWHERE = ("", "a:6443", "localhost", "127.0.0.1:6443", "https://a:66666", "https://a b", "ftp://a")


@pytest.mark.parametrize(
    ("content", "context", "sentence"),
    [
        (
            None,
            None,
            (
                "no cluster to connect to: there is no kubeconfig, and this is not a pod "
                r"\(Service host/port is not set\); set KUBECONFIG, or create ~/.kube/config"
            ),
        ),
        ("{", None, f"{UNUSABLE}: .*; {WHERE}"),
        ("words", None, f"{UNUSABLE}: .*; {WHERE}"),
        ("", "two", f"{UNUSABLE}: .*; {WHERE}"),
        (kubeconfig("http://a"), "three", "the kubeconfig has no context 'three'; it has one, two, broken"),
        (kubeconfig("http://a"), "broken", f"{UNUSABLE}: .*; {WHERE}"),
        *((kubeconfig(server), None, f"the kubeconfig's server '{server}' {NO_ADDRESS}") for server in NOWHERE),
    ],
)
def test_no_way_in(nowhere: Path, content: str | Object | None, context: str | None, sentence: str) -> None:
    """What is wrong with the kubeconfig is one sentence, and the exit status of a cluster that was not reached."""
    if content is not None:
        nowhere.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(LauncherError, match=f"^{sentence}$") as caught:
        connect(context, None, print)
    assert "\n" not in str(caught.value)
    assert caught.value.status == Status.UNREACHED


VERSION = "client.authentication.k8s.io/v1"


def credential(status: Object) -> str:
    """What a credential plugin prints."""
    return json.dumps({"apiVersion": VERSION, "kind": "ExecCredential", "status": status})


def by_plugin(server: str, *command: str) -> Object:
    """A kubeconfig whose user's credentials come from a command."""
    content = kubeconfig(server)
    plugin = {"apiVersion": VERSION, "command": command[0], "args": list(command[1:]), "interactiveMode": "Never"}
    content["users"][0]["user"] = {"exec": plugin}
    return content


def test_credential_plugin(nowhere: Path, plays: Callable[..., Server]) -> None:
    """A plugin gives the token, and another one when that is not accepted any more."""
    server = plays(named("a"), UNAUTHORIZED, named("b"))
    token = nowhere.with_name("token")
    nowhere.write_text(json.dumps(by_plugin(f"http://127.0.0.1:{server.port}", "cat", str(token))))
    token.write_text(credential({"token": "one", "expirationTimestamp": "2020-01-01T00:00:00Z"}))
    cluster = connect(None, None, print)
    token.write_text(credential({"token": "two"}))
    assert [cluster.get("Job", name) for name in "ab"] == [named("a"), named("b")]
    assert tokens_of(server) == ["one", "one", "two"]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["no-such-plugin"], "No such file or directory: 'no-such-plugin'"),
        (["sh", "-c", "echo expired. >&2; exit 3"], "process returned 3. expired"),
        (["true"], "it prints no ExecCredential"),
        (["echo", "{}"], "malformed response. missing key 'apiVersion'"),
        (["echo", credential({})], "missing token or clientCertificateData field in plugin output"),
    ],
)
def test_a_credential_plugin_that_fails(
    nowhere: Path, capfd: pytest.CaptureFixture[str], command: list[str], why: str
) -> None:
    """It is told at once, in a sentence and with nothing beside it, instead of going on without credentials."""
    nowhere.write_text(json.dumps(by_plugin("http://127.0.0.1:1", *command)))
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print)
    remedy = "check that it is installed, and log in to the cluster again"
    assert str(caught.value) == f"the kubeconfig's credential plugin (exec) failed: {why}; {remedy}"
    assert caught.value.status == Status.UNREACHED
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def secured(plays: Callable[..., Server], tmp_path: Path) -> Server:
    """A server with a certificate of its own making, which is in cert.pem."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = plays()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def test_in_a_pod(nowhere: Path, secured: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kubeconfig, a pod's ServiceAccount is the way in, and its namespace the one."""
    folder = nowhere.parent
    (folder / "token").write_text("pod-secret")
    (folder / "namespace").write_text("around\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(secured.port))
    monkeypatch.setattr(config.incluster_config, "SERVICE_TOKEN_FILENAME", str(folder / "token"))
    monkeypatch.setattr(config.incluster_config, "SERVICE_CERT_FILENAME", str(folder / "cert.pem"))
    monkeypatch.setattr(k8s.api.kubeconfig, "POD_NAMESPACE", folder / "namespace")
    secured.answers += [named("a")]
    cluster = connect(None, None, print)
    assert cluster.get("Job", "a") == named("a")
    assert cluster.namespace == "around"
    assert secured.asked == [("GET", "/apis/batch/v1/namespaces/around/jobs/a", None)]
    assert secured.headers[0]["authorization"].lower() == "bearer pod-secret"


def test_a_server_that_is_not_to_be_trusted(nowhere: Path, secured: Server) -> None:
    """A certificate that nobody vouches for is told at once: trying again does not mend it."""
    nowhere.write_text(json.dumps(kubeconfig(f"https://127.0.0.1:{secured.port}")))
    with pytest.raises(LauncherError) as caught:
        connect(None, None, print).version()
    assert str(caught.value) == (
        f"certificate verification failed for the API server at https://127.0.0.1:{secured.port}: "
        "self-signed certificate; check the certificates in the kubeconfig"
    )
    assert caught.value.status == Status.UNREACHED
