"""Each request to the API server, and what is made of its response."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from k8s.api.errors import ApiError, Status
from tests.k8s.api.server import (
    CONFLICT,
    CUT,
    EXISTS,
    JOBS,
    PODS,
    Handler,
    Server,
    cluster_at,
    named,
    page,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.api.objects import Object


def test_get(serve: Callable[..., Server]) -> None:
    """The request carries the credentials; an object that does not exist is None."""
    server = serve(named("a"), refused(404, "NotFound", 'jobs.batch "b" not found'))
    cluster = cluster_at(server.port)
    assert (cluster.get("Job", "a"), cluster.get("Job", "b")) == (named("a"), None)
    assert server.asked == [("GET", f"{JOBS}/a", None), ("GET", f"{JOBS}/b", None)]
    assert {headers["authorization"] for headers in server.headers} == {"Bearer secret"}


def test_select_page_by_page(serve: Callable[..., Server]) -> None:
    """A long list is requested in pages, each with the selectors and the token of the page before."""
    server = serve(page(named("a"), more="t1"), page(named("b"), more="t2"), page(named("c")), page())
    cluster = cluster_at(server.port)
    found = cluster.select("Pod", "app=a,b=c", "spec.nodeName=n")
    assert [one["metadata"]["name"] for one in found] == ["a", "b", "c"]
    cluster.select("Pod", everywhere=True)
    query = "?labelSelector=app%3Da%2Cb%3Dc&fieldSelector=spec.nodeName%3Dn&limit=500"
    paths = [f"{PODS}{query}{token}" for token in ("", "&continue=t1", "&continue=t2")]
    assert [path for _, path, _ in server.asked] == [*paths, "/api/v1/pods?limit=500"]


def test_one_page_is_in_memory_at_a_time(serve: Callable[..., Server]) -> None:
    """Ten times as many objects take no more memory, and the next page is requested once this one is used up."""
    text = json.dumps(page(*(named(f"pod-{n}", note="x" * 2000) for n in range(200)), more="t")).encode()
    last = json.dumps(page()).encode()

    def peak(pages: int) -> int:
        server = serve(*([(200, text)] * pages), (200, last))
        cluster = cluster_at(server.port)
        tracemalloc.start()
        try:
            for number, _ in enumerate(cluster.each("Pod", everywhere=True)):
                assert len(server.asked) == number // 200 + 1
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # what is imported and cached at the first request
    assert peak(30) < 1.5 * peak(3)


def test_a_list_that_expires_is_not_counted_twice(serve: Callable[..., Server]) -> None:
    """What was given before is left out where a list can only begin again."""
    server = serve(page(named("a"), more="t"), (410, b""), page(named("a"), named("b")))
    assert [one["metadata"]["name"] for one in cluster_at(server.port).each("Pod")] == ["a", "b"]


def test_what_no_command_reads_is_left_out(serve: Callable[..., Server]) -> None:
    """The managers of fields, and the images on a node."""
    node = {**named("n", "Node", managedFields=[{}]), "status": {"images": [{"names": ["a"]}], "conditions": []}}
    [found] = cluster_at(serve(page(node)).port).select("Node")
    assert found == {**named("n", "Node"), "status": {"conditions": []}}


def test_create(serve: Callable[..., Server]) -> None:
    """An object is sent as it is; a dry run says that it is one."""
    server = serve(named("a", resourceVersion="1"), named("a"))
    cluster = cluster_at(server.port)
    assert cluster.create(named("a")) == named("a", resourceVersion="1")
    cluster.create(named("a"), dry_run=True)
    assert server.asked == [("POST", f"{JOBS}?fieldManager=me", named("a")), ("POST", f"{JOBS}?dryRun=All", named("a"))]


def test_a_group_in_the_version_that_the_cluster_prefers(serve: Callable[..., Server]) -> None:
    """Kueue's objects are requested in the preferred version, which is looked up once; without Kueue there are none."""
    group, of_kueue = "/apis/kueue.x-k8s.io", {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"}}
    nothing = {"items": [], "metadata": {"resourceVersion": "1"}}
    server = serve(of_kueue, named("night"), nothing, nothing, refused(404, "NotFound", "no"))
    cluster = cluster_at(server.port)
    assert cluster.get("LocalQueue", "night") == named("night")
    assert cluster.select("Workload") == []
    assert cluster.select("Workload", everywhere=True) == []
    there = f"{group}/v1beta2/namespaces/here"
    assert [path for _, path, _ in server.asked] == [
        group,
        f"{there}/localqueues/night",
        f"{there}/workloads?limit=500",
        f"{group}/v1beta2/workloads?limit=500",
    ]
    assert cluster_at(server.port).get("LocalQueue", "night") is None


def test_what_was_created_by_a_request_whose_answer_was_lost(serve: Callable[..., Server]) -> None:
    """The second attempt finds the object that the first one created, and that is no error."""
    made = named("a", managedFields=[{"manager": "kube-controller-manager"}, {"manager": "me"}])
    server = serve(CUT, EXISTS, made)
    assert cluster_at(server.port).create(named("a")) == made
    assert [path for _, path, _ in server.asked] == [f"{JOBS}?fieldManager=me"] * 2 + [f"{JOBS}/a"]


@pytest.mark.parametrize("managers", [[{"manager": "another"}], []], ids=["another's", "nobody's"])
def test_what_another_created_while_an_answer_was_lost(serve: Callable[..., Server], managers: list[Object]) -> None:
    """An object of the same name that another client created is an error."""
    server = serve(CUT, EXISTS, named("a", managedFields=managers))
    with pytest.raises(ApiError, match="already exists"):
        cluster_at(server.port).create(named("a"))


def test_a_conflict_is_retried(serve: Callable[..., Server]) -> None:
    """A conflict with others' changes, of a quota's count for example, is retried: nothing was created."""
    server = serve(CONFLICT, CONFLICT, EXISTS)
    with pytest.raises(ApiError, match="already exists"):
        cluster_at(server.port).create(named("a"))
    assert len(server.asked) == 3
    server = serve(CONFLICT)
    cluster = cluster_at(server.port)
    cluster.patience_s = 0
    with pytest.raises(ApiError, match="Operation cannot be fulfilled on resourcequotas") as caught:
        cluster.create(named("a"))
    assert caught.value.status == Status.REFUSED
    server = serve(CONFLICT)
    with pytest.raises(ApiError, match="Operation cannot be fulfilled"):  # of another version than the change is for
        cluster_at(server.port).patch("Job", "a", {"metadata": {"resourceVersion": "1"}})
    assert len(server.asked) == 1


def test_what_was_there_before_is_an_error(serve: Callable[..., Server]) -> None:
    """If no response was lost, an existing object is an error; so it is in a dry run, which creates none."""
    sentence = f'^the API server refused to post {JOBS}: jobs.batch "a" already exists$'
    for dry_run, answers in ((False, [EXISTS]), (True, [CUT, EXISTS])):
        with pytest.raises(ApiError, match=sentence) as caught:
            cluster_at(serve(*answers).port).create(named("a"), dry_run=dry_run)
        assert (caught.value.code, caught.value.reason) == (409, "AlreadyExists")


def test_patch(serve: Callable[..., Server]) -> None:
    """A change of an object is a JSON merge patch."""
    server = serve(named("a"))
    cluster_at(server.port).patch("Job", "a", {"spec": {"suspend": True}})
    assert server.asked == [("PATCH", f"{JOBS}/a", {"spec": {"suspend": True}})]
    assert {headers["content-type"] for headers in server.headers} == {"application/merge-patch+json"}


def test_replace(serve: Callable[..., Server]) -> None:
    """An object replaces the one of the same name; a dry run only asks."""
    server = serve(named("a"), named("a"))
    for dry_run in (True, False):
        assert cluster_at(server.port).replace(named("a"), dry_run=dry_run) == named("a")
    assert server.asked == [("PUT", f"{JOBS}/a?dryRun=All", named("a")), ("PUT", f"{JOBS}/a", named("a"))]


def test_delete(serve: Callable[..., Server]) -> None:
    """An object that is gone, or replaced by another one, counts as deleted; its dependents are deleted or orphaned."""
    conflict = refused(409, "Conflict", "the UID in the precondition is another")
    server = serve({}, refused(404, "NotFound", "no"), conflict, conflict, {})
    cluster = cluster_at(server.port)
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


def test_logs(serve: Callable[..., Server]) -> None:
    """Lines have no line ends, invalid UTF-8 is replaced, and a torn last line is left out while following."""
    text = "one\nz\u00fcrich\n".encode() + b"\xff\n\ntorn"
    server = serve((200, text), (200, text), (200, b""))
    cluster = cluster_at(server.port)
    lines = ["one", "z\u00fcrich", "\ufffd", ""]
    assert list(cluster.logs("p", "trainer")) == [*lines, "torn"]
    assert list(cluster.logs("p", "trainer", follow=True, since_time="t", tail=5, timestamps=True)) == lines
    assert list(cluster.logs("p", "trainer", since_s=90)) == []
    asked = [path for _, path, _ in server.asked]
    assert asked == [
        f"{PODS}/p/log?container=trainer&timestamps=false&follow=false",
        f"{PODS}/p/log?container=trainer&timestamps=true&follow=true&sinceTime=t&tailLines=5",
        f"{PODS}/p/log?container=trainer&timestamps=false&follow=false&sinceSeconds=90",
    ]


def test_last_lines(serve: Callable[..., Server]) -> None:
    """A running container's log may end within a line: a number that is cut would be read as another number."""
    server = serve((200, b"step=100\nstep=200\nstep=3"))
    assert cluster_at(server.port).last_lines("p", "trainer", 3) == ["step=100", "step=200"]
    assert [path for _, path, _ in server.asked] == [f"{PODS}/p/log?container=trainer&follow=false&tailLines=3"]


def test_logs_that_are_not_there(serve: Callable[..., Server]) -> None:
    """A missing pod is an ApiError, a broken connection an OSError."""
    server = serve(refused(404, "NotFound", 'pods "p" not found'), CUT)
    cluster = cluster_at(server.port)
    with pytest.raises(ApiError) as caught:
        list(cluster.logs("p", "trainer", follow=True))
    assert caught.value.code == 404
    with pytest.raises(OSError, match=r"^Remote end closed connection without response$"):
        list(cluster.logs("p", "trainer", follow=True))


def test_version(serve: Callable[..., Server]) -> None:
    """The version is two numbers, without a vendor's suffix; with --emulated-version, that one."""
    assert cluster_at(serve({"major": "1", "minor": "31+"}).port).version() == (1, 31)
    emulating = {"major": "1", "minor": "35", "emulationMajor": "1", "emulationMinor": "32"}
    assert cluster_at(serve(emulating).port).version() == (1, 32)


def test_the_time_is_that_of_the_api_server(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its newest response tells it, and time that has passed since then; a clock that is wrong here does not matter."""
    monkeypatch.setattr(Handler, "date_time_string", lambda _: "Thu, 01 Jan 2026 10:00:00 GMT")
    server = serve({"major": "1", "minor": "35"}, refused(403, "Forbidden", "no"), [])
    cluster = cluster_at(server.port)
    first = cluster.now()
    assert first.isoformat().startswith("2026-01-01T10:0")
    assert cluster.now() > first
    assert [path for _, path, _ in server.asked] == ["/version"]
    monkeypatch.setattr(Handler, "date_time_string", lambda _: "Thu, 01 Jan 2026 12:00:00 GMT")
    with pytest.raises(ApiError):
        cluster.get("Job", "a")
    assert cluster.now().isoformat().startswith("2026-01-01T12:0")


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_response_without_a_time(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    """This machine's clock is used."""
    monkeypatch.setattr(Handler, "date_time_string", lambda _: date)
    cluster = cluster_at(serve({"major": "1", "minor": "35"}).port)
    assert abs(cluster.now() - datetime.now(UTC)) < timedelta(minutes=5)


def test_may(serve: Callable[..., Server]) -> None:
    """The review names the kind's group and, if the kind is namespaced, the namespace."""
    server = serve({"status": {"allowed": True}}, {"status": {"allowed": False}})
    cluster = cluster_at(server.port)
    assert (cluster.may("get", "Pod", "log"), cluster.may("list", "StorageClass")) == (True, False)
    assert [body["spec"]["resourceAttributes"] for _, _, body in server.asked] == [
        {"verb": "get", "resource": "pods", "subresource": "log", "group": "", "namespace": "here"},
        {"verb": "list", "resource": "storageclasses", "subresource": "", "group": "storage.k8s.io"},
    ]
