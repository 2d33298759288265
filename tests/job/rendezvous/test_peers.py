"""What a worker knows of the others: which have not joined, whether its round is over, which names need DNS."""

from __future__ import annotations

import queue
import threading

import msgspec
import pytest

from job.cluster import Cluster
from job.errors import Exit, JobError
from job.rendezvous import http
from job.rendezvous.listener import serve
from job.rendezvous.messages import Reply, Request
from job.rendezvous.peers import Attendance, Peers, ReplyEvent, check_distinct, needs_dns, tensorflow_address
from job.rendezvous.server import Rendezvous
from tests.job.processes import wait_until

REQUEST = Request("r", "u", "5e77", "30de1", 3, 1, "s", 1, "a", "", "10.0.0.1:2222", "waiting", 0)


def test_the_missing_workers_are_named() -> None:
    """By rank, with a count of those that rank 0 does not list, and with rank 0 if it stops to answer after that."""
    attendance = Attendance(100)
    assert attendance.missing == "worker 0 has not answered"
    attendance = attendance.after("worker 0 does not answer at a:1")
    assert (attendance.joined, attendance.missing) == (0, "worker 0 does not answer at a:1")
    attendance = attendance.after(Reply("id", 97, (2, 7), ()))
    assert (attendance.joined, attendance.missing) == (97, "workers 2, 7 and 1 more have not joined")
    attendance = attendance.after(Reply("id", 99, (2,), ()))
    assert (attendance.joined, attendance.missing) == (99, "worker 2 has not joined")
    attendance = attendance.after("worker 0 does not answer at a:1")
    assert attendance.missing == "worker 2 has not joined, and then worker 0 does not answer at a:1"
    assert attendance.joined == 99
    refused = attendance.after(Reply("id", 99, (2,), ()), "worker 2 has another model")
    assert refused.missing == "worker 2 has not joined: worker 2 has another model"


def test_rank_0_does_not_need_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS may not know it yet. The others report why they get no reply."""
    monkeypatch.setattr(http, "HOLD_S", 0.05)
    replies = []
    with serve("", 0, lambda: b"", Rendezvous("r", "u", "5e77", "30de1", 2)) as listening:
        supervisors = (f"no-such-host.invalid:{listening.port}", "h:1")
        for rank in range(2):
            peers = Peers(Cluster("r", "u", rank, ("h:2222", "i:2222"), supervisors), queue.SimpleQueue())
            replies.append(
                peers._ask(Request("r", "u", "5e77", "30de1", 2, rank, "s", 1, "a", "", "h:2222", "starting", 0))
            )
    assert isinstance(replies[0], Reply)
    assert replies[0].missing == (1,)
    assert str(replies[1]).startswith(f"worker 0 does not answer at {supervisors[0]} (")


def test_a_round_ends_when_rank_0_opens_another() -> None:
    """Only a reply to a request from that round says so."""
    inside = msgspec.structs.replace(REQUEST, round_id="g")
    assert ReplyEvent(inside, Reply("h", 1, (0, 2), ())).ends_round("g")
    assert not ReplyEvent(inside, Reply("g", 3, (), ())).ends_round("g")
    assert not ReplyEvent(REQUEST, Reply("h", 1, (0, 2), ())).ends_round("g")
    assert not ReplyEvent(inside, "worker 0 does not answer").ends_round("g")
    assert not ReplyEvent(REQUEST, Reply("h", 1, (0, 2), ())).ends_round("")


def test_a_worker_that_got_all_addresses_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next request follows at once and says so, even if the supervisor has not read the reply yet.

    A new attempt waits again.
    """
    monkeypatch.setattr("job.rendezvous.peers.EVERY_S", 1e6)
    requests: list[Request] = []

    def ask(request: Request) -> Reply:
        requests.append(request)
        return Reply("g", 2, (), () if request.round_id else ("h:2222", "i:2222"))

    peers = Peers(Cluster("r", "u", 0, ("h:2222", "i:2222"), ("127.0.0.1:1", "127.0.0.1:2")), queue.SimpleQueue())
    monkeypatch.setattr(peers, "_ask", ask)
    peers.connect("5e77", "30de1")
    peers.start_attempt()
    wait_until(lambda: len(requests) == 2, "two requests")
    peers.start_attempt()
    wait_until(lambda: len(requests) == 4, "two requests of the second attempt")
    assert [(request.number, request.round_id) for request in requests] == [(1, ""), (2, "g"), (3, ""), (4, "g")]
    assert [request.attempt == requests[0].attempt for request in requests] == [True, True, False, False]
    assert len({request.sender for request in requests}) == 1


def test_a_worker_says_that_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the phase that it last had, in a request that is newer than the one that is on its way."""
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
    answered = threading.Event()

    def ask(request: Request) -> str:
        requests.put(request)
        answered.wait(60)
        return "worker 0 does not answer"

    peers = Peers(Cluster("r", "u", 1, ("h:2222", "i:2222"), ("127.0.0.1:1", "127.0.0.1:2")), queue.SimpleQueue())
    monkeypatch.setattr(peers, "_ask", ask)
    peers.connect("5e77", "30de1")
    peers.start_attempt()
    first = requests.get(timeout=60)
    peers.send_status("failed", 2)
    said = peers.say_end()
    assert said
    last = requests.get(timeout=60)
    assert last == msgspec.structs.replace(first, number=first.number + 1, phase="failed", restarts=2)
    peers.stop()
    answered.set()
    said.join(60)
    assert not said.is_alive()


@pytest.mark.parametrize(("rank", "joins"), [(0, True), (1, False)])
def test_nobody_hears_of_these_ends(rank: int, joins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0's server ends before rank 0 does; a worker that has not tried to join is in no round."""
    peers = Peers(Cluster("r", "u", rank, ("h:2222", "i:2222"), ("127.0.0.1:1", "127.0.0.1:2")), queue.SimpleQueue())
    monkeypatch.setattr(peers, "_ask", lambda _: "worker 0 does not answer")
    peers.connect("5e77", "30de1")
    if joins:
        peers.start_attempt()
    assert peers.say_end() is None
    peers.stop()


def test_two_workers_with_one_address_are_refused() -> None:
    """The error names both."""
    check_distinct(("a:1", "a:2", "b:1"))
    with pytest.raises(JobError, match="workers 0 and 2 both have the address a:1") as error:
        check_distinct(("a:1", "b:1", "a:1"))
    assert error.value.code == Exit.TRY_AGAIN


@pytest.mark.parametrize(
    ("host", "named"),
    [("run-0.mnist-job", True), ("localhost", False), ("127.0.0.1", False), ("10.0.0.7", False), ("[fd00::1]", False)],
)
def test_which_hosts_dns_has_to_find(host: str, named: bool) -> None:
    """Names, but not addresses and not this machine."""
    assert needs_dns(host) is named


@pytest.mark.parametrize(
    ("pod_ip", "address"), [("", "w:5"), ("10.0.0.1", "10.0.0.1:5"), ("::1", "[::1]:5"), ("[::1]", "[::1]:5")]
)
def test_the_pods_address_is_used_if_it_is_known(pod_ip: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 is put in brackets."""
    monkeypatch.setenv("POD_IP", pod_ip)
    assert tensorflow_address(Cluster("r", "u", 0, ("w:5",), ("w:6",))) == address


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7", "[fd00::1]", "localhost"])
def test_an_address_is_not_replaced_by_the_pods(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of one machine may all be in one pod, as in a notebook, and use the loopback interface."""
    monkeypatch.setenv("POD_IP", "10.0.0.1")
    assert tensorflow_address(Cluster("r", "u", 0, (f"{host}:5",), ("w:6",))) == f"{host}:5"


@pytest.mark.parametrize("pod_ip", [" 10.0.0.1", "http://10.0.0.1", "10.0.0"])
def test_a_wrong_address_of_the_pod_is_refused(pod_ip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, rank 0 would refuse it until --join-timeout."""
    monkeypatch.setenv("POD_IP", pod_ip)
    with pytest.raises(JobError, match=f"POD_IP must be an IP address, not {pod_ip!r}") as caught:
        tensorflow_address(Cluster("r", "u", 0, ("w:5",), ("w:6",)))
    assert caught.value.code == Exit.USAGE
