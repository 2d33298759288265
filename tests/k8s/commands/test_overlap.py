"""Runs of a schedule never overlap, in whatever order the cluster's controller and people act."""

from __future__ import annotations

import argparse
import copy
import functools
import json
import random
import re
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from k8s.api.errors import ApiError, LauncherError
from k8s.checks import storage
from k8s.commands import cancel, control, overlap, resume, submit, trigger
from k8s.state.names import APP, NAME_LABEL, QUEUE_LABEL
from k8s.state.run import Run
from tests.k8s.fakes import FakeCluster, job, pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s.api.objects import Object

DUE = "nightly-28000000"  # the run that the controller starts by itself
ORDERS = 200


def cronjob(*active: str) -> Object:
    """The schedule `nightly`, which lists Jobs of these names as active."""
    metadata = {"name": "nightly", "uid": "nightly-uid", "resourceVersion": "0", "labels": {NAME_LABEL: APP}}
    template = {"metadata": {"labels": {NAME_LABEL: APP}}, "spec": {"completions": 2}}
    listed = [{"name": name, "uid": f"{name}-uid"} for name in active]
    return {
        "kind": "CronJob",
        "metadata": metadata,
        "spec": {"schedule": "0 2 * * *", "jobTemplate": template},
        "status": {"active": listed},
    }


def child(name: str, *conditions: str, **more: Any) -> Object:
    """A Job of the schedule."""
    made = job(name, *conditions, **more)
    made["metadata"]["ownerReferences"] = overlap.owned_by(cronjob())
    return made


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two looks."""
    for module in (overlap, control):
        monkeypatch.setattr(module, "POLL_S", 0.0)


class User(threading.Thread):
    """Does something with a cluster, one request at each step.

    Attributes:
        ended: whether it is done.
        refused: why it was refused.
    """

    def __init__(self, do: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._do, self._go, self._paused = do, threading.Semaphore(0), threading.Semaphore(0)
        self.ended, self.refused = False, ""
        self.start()

    def run(self) -> None:
        """Do it, as soon as there is a step."""
        self._go.acquire()
        try:
            self._do()
        except LauncherError as error:
            self.refused = str(error)
        finally:
            self.ended = True
            self._paused.release()

    def step(self) -> None:
        """Go on to the next request, or to the end."""
        self._go.release()
        self._paused.acquire()

    def pause(self) -> None:
        """Wait for the next step."""
        self._paused.release()
        self._go.acquire()


class Turns(FakeCluster):
    """A cluster each request to which waits for its user's next step."""

    def get(self, kind: str, name: str) -> Object | None:
        """An object."""
        wait()
        return super().get(kind, name)

    def select(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> list[Object]:
        """The objects of a kind."""
        assert not everywhere
        wait()
        return super().select(kind, selector, fields)

    def create(self, new: Object, *, dry_run: bool = False) -> Object:
        """Create an object."""
        wait()
        return super().create(new, dry_run=dry_run)

    def patch(self, kind: str, name: str, change: Object, subresource: str = "") -> Object:
        """Change an object."""
        wait()
        return super().patch(kind, name, change, subresource)

    def delete(self, kind: str, name: str, *, grace_s: int | None = None, uid: str = "", orphan: bool = False) -> None:
        """Delete an object."""
        wait()
        super().delete(kind, name, grace_s=grace_s, uid=uid, orphan=orphan)

    def running(self) -> set[str]:
        """The runs that go on."""
        jobs = [one for (kind, _), one in self.objects.items() if kind == "Job" and not one["spec"].get("suspend")]
        return {one["metadata"]["name"] for one in jobs if not Run(one).condition("Complete")}


def wait() -> None:
    """Wait for the next step of the user who asks."""
    if isinstance(user := threading.current_thread(), User):
        user.pause()


def controller(cluster: Turns, chance: random.Random, *, due: bool) -> Iterator[None]:
    """What Kubernetes' CronJob controller does, again and again, a request at each step.

    It goes by a copy of the CronJob that may be old, and writes only over the version that it has copied.

    Args:
        cluster: where it is.
        chance: decides whether it looks for a newer version.
        due: whether a run is due, from the beginning.
    """
    copied = copy.deepcopy(cluster.objects["CronJob", "nightly"])
    while True:
        yield
        if chance.random() < 0.5:
            copied = copy.deepcopy(cluster.objects["CronJob", "nightly"])
        seen = copy.deepcopy(copied)
        listed = [entry for entry in seen["status"]["active"] if goes_on(cluster, entry["name"])]
        starts = due and "lastScheduleTime" not in seen["status"] and not listed
        if starts:
            yield
            if ("Job", DUE) not in cluster.objects:
                cluster.create(child(DUE))
            listed = [{"name": DUE, "uid": cluster.objects["Job", DUE]["metadata"]["uid"]}]
            seen["status"]["lastScheduleTime"] = "now"
        if starts or listed != seen["status"]["active"]:
            yield
            version = {"resourceVersion": seen["metadata"]["resourceVersion"]}
            change = {"metadata": version, "status": {**seen["status"], "active": listed}}
            with suppress(ApiError):  # another version: it looks again
                cluster.patch("CronJob", "nightly", change)


def goes_on(cluster: Turns, name: str) -> bool:
    """Whether there is such a Job, and it has not ended."""
    found = cluster.objects.get(("Job", name))
    return found is not None and not Run(found).condition("Complete")


def triggered(name: str) -> Object:
    """The Job of a run that is triggered."""
    made = child(name)
    del made["metadata"]["uid"], made["status"]
    return made


@pytest.mark.parametrize("due", [True, False])
def test_two_triggers_and_the_controller(*, due: bool) -> None:
    """In any order of their requests one run goes on and never two, and who is refused leaves nothing behind."""
    for seed in range(ORDERS):
        chance = random.Random(seed)  # noqa: S311 - no secret
        cluster = Turns(cronjob())
        jobs = [triggered("nightly-1800000001"), triggered("nightly-1800000002")]
        users = [User(functools.partial(trigger.start, cluster.given(), job)) for job in jobs]
        acting, begun = controller(cluster, chance, due=due), set[str]()
        while not all(user.ended for user in users) or (due and not begun):
            user = chance.choice([*users, None, None])
            if user is None or user.ended:
                next(acting)
            else:
                user.step()
            begun |= cluster.running()
            assert len(begun) <= 1, seed
        for _ in range(50):
            next(acting)
        assert len(begun) == 1, seed
        assert {job["metadata"]["name"] for job, user in zip(jobs, users, strict=True) if not user.refused} == begun - {
            DUE
        }
        assert {name for kind, name in cluster.objects if kind == "Job"} == cluster.running() == begun
        assert {entry["name"] for entry in cluster.objects["CronJob", "nightly"]["status"]["active"]} == begun


def without_marker(cluster: FakeCluster) -> None:
    """The controller looks once, and takes out what is gone."""
    found = cluster.objects["CronJob", "nightly"]
    found["status"]["active"] = [e for e in found["status"]["active"] if ("Job", e["name"]) in cluster.objects]


class Attended(FakeCluster):
    """A cluster whose controller acts whenever the CronJob is asked for."""

    def get(self, kind: str, name: str) -> Object | None:
        """An object."""
        if kind == "CronJob" and (kind, name) in self.objects:
            without_marker(self)
        return super().get(kind, name)


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (child("nightly-28000000"), "nightly-28000000 of the same schedule has not ended, and"),
        (
            child("nightly-28000000", suspend=True),
            "nightly-28000000 of the same schedule has not ended (suspended), and",
        ),
        (child("nightly-28000000", "FailureTarget"), "nightly-28000000 of the same schedule has not ended, and"),
        (child("by-hand"), "by-hand of the same schedule has not ended, and"),
        (child("waits", suspend=True, queue="q"), "waits of the same schedule has not ended (queued), and"),
    ],
    ids=["scheduled", "suspended", "failing", "kubectl create job", "in Kueue's queue"],
)
def test_taken(there: Object, sentence: str) -> None:
    """While another run has not ended, to the last of its pods, none is begun, and nothing is changed."""
    cluster = Attended(cronjob("nightly-28000000"), there)
    with pytest.raises(LauncherError) as refused:
        overlap.refuse_taken(cluster.given(), cluster.objects["CronJob", "nightly"])
    assert str(refused.value).startswith(sentence)
    assert refused.value.status == 2
    assert cluster.asked == []


@pytest.mark.parametrize(
    "there",
    [child("nightly-28000000", "Complete"), child("nightly-28000000", "Failed"), job("another")],
    ids=["published", "failed", "no run of the schedule"],
)
def test_not_taken(there: Object) -> None:
    """What has ended is in nobody's way, though the CronJob may still list it."""
    cluster = Attended(cronjob("nightly-28000000"), there)
    overlap.enter(cluster.given(), Run(child("nightly-1800000001", suspend=True)))
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [("patch", "CronJob/status")]


def test_in_a_queue() -> None:
    """A triggered run that is to wait in Kueue's queue gets there only once no other can begin."""
    made = triggered("nightly-1800000001")
    made["metadata"]["labels"][QUEUE_LABEL] = "night"
    cluster = Attended(cronjob())
    after = trigger.start(cluster.given(), made)
    created = next(new for verb, kind, new in cluster.asked if (verb, kind) == ("create", "Job"))
    assert (created["metadata"]["labels"], created["spec"]["suspend"]) == ({NAME_LABEL: APP}, True)
    assert (after["metadata"]["labels"][QUEUE_LABEL], after["spec"]["suspend"]) == ("night", True)


def test_no_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the controller does nothing, that is said, and the Job is deleted again."""
    monkeypatch.setattr(overlap, "SEEN_S", 0.0)
    cluster = FakeCluster(cronjob())
    with pytest.raises(LauncherError) as refused:
        trigger.start(cluster.given(), triggered("nightly-1800000001"))
    sentence = "the cluster's CronJob controller has done nothing for 0 s; see whether the kube-controller-manager runs"
    assert str(refused.value) == sentence
    assert [key for key in cluster.objects if key[0] == "Job"] == []


def test_who_may_not() -> None:
    """Without the right to change the list nothing is begun, and the sentence names the role."""
    cluster = FakeCluster(cronjob())
    cluster.forbidden = {("patch", "CronJob", "status")}
    with pytest.raises(LauncherError) as refused:
        trigger.run(argparse.Namespace(name="nightly", output="text"), cluster.given)
    assert str(refused.value) == (
        "this user may not patch CronJob/status in namespace here; bind the role mnist-job-runner of k8s/manifests/rbac"
    )
    assert cluster.asked == []


def test_triggered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The Job is the template's, checked first, belongs to the CronJob, and has the second in its name."""
    cluster = Attended(cronjob())
    monkeypatch.setattr(submit, "check", lambda _, job, *__: cluster.asked.append(("checked", "Job", job)))
    monkeypatch.setattr(submit, "create_setup", lambda *_: None)
    monkeypatch.setattr(storage, "output_claim", lambda *_: None)
    assert trigger.run(argparse.Namespace(name="nightly", output="json"), cluster.given) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [
        ("checked", "Job"),
        ("create", "Job"),
        ("patch", "CronJob/status"),
        ("patch", "Job"),
    ]
    assert cluster.asked[0][2]["metadata"]["name"] == "nightly-0000000000"
    made = cluster.objects["Job", told["name"]]
    assert re.fullmatch(r"nightly-\d{10}", told.pop("name"))
    assert told == {"namespace": "here", "uid": made["metadata"]["uid"], "schedule": "nightly"}
    assert made["spec"] == {"completions": 2, "suspend": False}
    assert made["metadata"]["ownerReferences"] == overlap.owned_by(cronjob())
    assert made["metadata"]["annotations"] == {"cronjob.kubernetes.io/instantiate": "manual"}


def test_two_in_a_second() -> None:
    """The second has the first one's name, and is told of it; the first stays."""
    cluster = Attended(cronjob(), child("nightly-1800000001"))
    with pytest.raises(LauncherError) as refused:
        trigger.start(cluster.given(), triggered("nightly-1800000001"))
    assert str(refused.value) == (
        "nightly-1800000001 of the same schedule was triggered in this very second, and no two of its runs may "
        "overlap; `mnist-job status` shows it"
    )
    assert ("Job", "nightly-1800000001") in cluster.objects


def test_no_such_schedule() -> None:
    """It is said, and where to find those that are."""
    with pytest.raises(LauncherError) as refused:
        trigger.run(argparse.Namespace(name="nightly", output="text"), FakeCluster(job("nightly")).given)
    assert str(refused.value) == (
        "there is no schedule nightly in namespace here; `mnist-job status` lists the schedules"
    )


def test_a_cancelled_run_makes_way(capsys: pytest.CaptureFixture[str]) -> None:
    """Cancelled, it is taken off the list as soon as its pods have ended, also where that was not done before."""
    cluster = Attended(cronjob("nightly-28000000"), child("nightly-28000000"), child("other", "Complete"))
    cluster.objects["Job", "nightly-28000000"]["status"] = {"conditions": [{"type": "Suspended", "status": "True"}]}
    for changes in (2, 0):
        cluster.asked.clear()
        cancel.run(argparse.Namespace(name="nightly-28000000", output="text"), cluster.given)
        assert len(cluster.asked) == changes
        assert cluster.objects["CronJob", "nightly"]["status"]["active"] == []
    assert capsys.readouterr().out.startswith("nightly-28000000 is cancelled: its workers write a checkpoint")


def test_a_cancelled_run_is_in_the_way_until_its_pods_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one of them may still write, the schedule is held up, and the sentence names it."""
    monkeypatch.setattr(control, "GONE_S", 0.0)
    left = pod("nightly-28000000-0-x", 0)
    left["metadata"]["labels"]["batch.kubernetes.io/job-name"] = "nightly-28000000"
    left["spec"] = {"nodeName": "n1"}
    held = child("nightly-28000000", suspend=True)
    held["status"] = {"conditions": [{"type": "Suspended", "status": "True"}]}
    cluster = Attended(cronjob("nightly-28000000"), held, left)
    sentence = (
        "nightly-28000000 is cancelled, and holds nightly up still: pod nightly-28000000-0-x has not ended within"
    )
    with pytest.raises(LauncherError, match=sentence):
        overlap.leave(cluster.given(), Run(held))
    assert cluster.asked == []


def test_who_may_not_cancel() -> None:
    """Without the right to take a run off the list it is not cancelled; one that is not in it is."""
    arguments = argparse.Namespace(name="nightly-28000000", output="text")
    cluster = Attended(cronjob("nightly-28000000"), child("nightly-28000000"))
    cluster.forbidden = {("patch", "CronJob", "status")}
    with pytest.raises(LauncherError, match="this user may not patch CronJob/status"):
        cancel.run(arguments, cluster.given)
    assert cluster.asked == []
    cluster.objects["CronJob", "nightly"] = cronjob()
    cancel.run(arguments, cluster.given)
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [("patch", "Job")]


def test_a_resumed_run_enters_first() -> None:
    """One that is on no list, as where a trigger broke off, is entered before it goes on."""
    cluster = Attended(cronjob(), child("nightly-1800000001", suspend=True))
    resume.run(argparse.Namespace(name="nightly-1800000001", output="text"), cluster.given)
    assert [(verb, kind) for verb, kind, _ in cluster.asked] == [("patch", "CronJob/status"), ("patch", "Job")]
    assert cluster.objects["CronJob", "nightly"]["status"]["active"][0]["name"] == "nightly-1800000001"
