"""Which silences end a trainer, and which do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from job.cluster import Cluster
from job.config import Config
from job.rendezvous.client import Heard, Member
from job.rendezvous.server import Answer, Gathering, Request
from job.supervisor.outcome import Outcome
from job.supervisor.restart_policy import RestartPolicy
from job.supervisor.status import WorkerStatus
from job.supervisor.watchdog import GOODBYE_S, JOIN_S, SILENT_S, Watchdog
from job.telemetry import Record

if TYPE_CHECKING:
    from job.supervisor.supervised_process import SupervisedProcess

WORKERS = 3


class Clock:
    """Monotonic seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """The seconds."""
        return self.now


class Process:
    """In the place of a SupervisedProcess."""

    def __init__(self) -> None:
        self.sign_at = float("inf")
        self.killed = False
        self.terminated = False

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = True

    def terminate(self) -> None:
        """SIGTERM."""
        self.terminated = True


class Scene:
    """A worker of three whose trainer is watched, second by second."""

    def __init__(self, rank: int) -> None:
        self.clock, self.process = Clock(), Process()
        cluster = Cluster("r", "u", rank, ("a:1",) * WORKERS, ("a:2",) * WORKERS)
        self.status = WorkerStatus(cluster, RestartPolicy())
        self.requests = [
            Request("r", "u", "s", WORKERS, each, "a", "", f"a:{each + 1}", "", 0) for each in range(WORKERS)
        ]
        self.gathering = Gathering("r", "u", "s", WORKERS, self.clock)
        self.id = [self.gathering.join(request) for request in self.requests][-1].gathering
        if rank == 0:
            self.status.gathering = self.gathering
        else:
            self.member = self.status.member = Member(cluster, "s", cast("Any", None), None)
            self.member.answered_at = self.clock()
        self.watch = Watchdog(cast("SupervisedProcess", self.process), Config(), self.status, self.id, self.clock)

    def hear(self, phase: str, step: int | None = None) -> None:
        """A record comes from the trainer."""
        self.watch.hear(Record(0.0, "r", 0, phase, step=step))

    def peers(self, phase: str, *ranks: int) -> None:
        """These peers say at rank 0's in which phase they are; above it, rank 0 answers."""
        if self.status.gathering:
            for rank in ranks:
                request = Request("r", "u", "s", WORKERS, rank, "a", self.id, f"a:{rank + 1}", phase, 0)
                self.gathering.join(request)
        else:
            self.member.answered_at = self.clock()

    def pass_s(self, seconds: float, *ranks: int, phase: str = "training", steps: bool = False) -> None:
        """Let time pass, with these peers heard each second, and a step or only a sign of life from the trainer."""
        for _ in range(round(seconds)):
            self.clock.now += 1
            if self.process.sign_at < float("inf"):
                self.process.sign_at = self.clock()
            if ranks:
                self.peers(phase, *ranks)
            if steps:
                self.hear("training", round(self.clock()))
            self.watch.look()

    @property
    def ended_for(self) -> tuple[str, ...] | None:
        """Why the trainer was killed, if it was."""
        ours = self.watch.ours
        assert self.process.killed == (ours is not None)
        return (ours.reason, ours.message) if ours else None

    @property
    def reason(self) -> str | None:
        """That in a word."""
        return self.ended_for[0] if self.ended_for else None


@pytest.fixture(params=[0, 1])
def scene(request: pytest.FixtureRequest) -> Scene:
    """Rank 0's, then rank 1's, its trainer joined and training."""
    scene = Scene(request.param)
    scene.process.sign_at = scene.clock()
    scene.hear("training", 1)
    return scene


def test_a_silent_peer_ends_a_trainer_that_makes_no_steps(scene: Scene) -> None:
    """Rank 0 minds every rank, the others rank 0; the last one that is heard of is not it."""
    scene.pass_s(SILENT_S - 1, 0, 1)
    assert scene.ended_for is None
    rank = 2 if scene.status.gathering else 0
    if rank == 0:
        scene.member.answered_at = scene.clock() - SILENT_S + 1
    scene.pass_s(1, *((0, 1) if rank else ()))
    assert scene.ended_for == ("peer-lost", f"worker {rank} has not been heard of for 10 s")


def test_a_silent_supervisor_ends_no_trainer_that_makes_steps(scene: Scene) -> None:
    """Its trainer must be there: each step takes all of them."""
    scene.pass_s(300, steps=True)
    assert scene.ended_for is None
    scene.pass_s(SILENT_S)
    assert scene.reason == "peer-lost"


def test_peers_that_are_heard_end_no_trainer_that_waits(scene: Scene) -> None:
    """As rank 0 may wait for a slow peer's step, until --stall-timeout."""
    scene.pass_s(119, 0, 1, 2)
    assert scene.ended_for is None
    scene.pass_s(1, 0, 1, 2)
    assert scene.ended_for == ("stalled", "the trainer made no progress in phase training for 120 s")


def test_what_was_silent_while_this_process_was_stopped_has_another_chance(scene: Scene) -> None:
    """What came meanwhile could not be read; from then on the same silence counts."""
    scene.clock.now += 1000
    scene.watch.look()
    assert scene.ended_for is None
    scene.process.sign_at = float("inf")
    scene.pass_s(SILENT_S - 1)
    assert scene.ended_for is None
    scene.pass_s(1)
    assert scene.reason == "peer-lost"


def test_a_trainer_that_is_stopped_is_found_by_its_silence(scene: Scene) -> None:
    """Although no --stall-timeout is over."""
    sign_at = scene.process.sign_at
    for _ in range(round(SILENT_S)):
        assert scene.ended_for is None
        scene.pass_s(1, 0, 1, 2)
        scene.process.sign_at = sign_at
    scene.watch.look()
    assert scene.ended_for == ("stalled", "the trainer gave no sign of life in phase training for 10 s")


def test_who_publishes_waits_for_no_silent_peer(scene: Scene) -> None:
    """Rank 0 needs nobody for it, not even a new gathering's; the others can do nothing but wait for rank 0."""
    scene.hear("publishing")
    scene.pass_s(600)
    assert scene.ended_for is None
    anew = Heard(
        Request("r", "u", "s", WORKERS, 1, "a", scene.id, "a:1", "publishing", 0), Answer("new", 1, (0, 2), ())
    )
    assert scene.watch.is_over(anew) == (scene.status.gathering is None)
    scene.hear("published")
    assert not scene.watch.is_over(anew)
    scene.pass_s(GOODBYE_S - 1)
    assert scene.ended_for is None
    scene.pass_s(1)
    assert scene.reason == "stalled"


def test_workers_that_have_come_must_join_soon() -> None:
    """Rank 0 counts from when the last one's trainer joins, until TensorFlow has joined its own."""
    scene = Scene(0)
    scene.hear("joining")
    for _ in range(300):
        scene.peers("data", 2)
        scene.pass_s(1, 0, 1, phase="joining")
    assert scene.ended_for is None
    scene.pass_s(JOIN_S, 0, 1, 2, phase="joining")
    assert scene.ended_for is None
    scene.pass_s(1, 0, 1, 2, phase="joining")
    assert scene.ended_for == ("not-joined", "TensorFlow has not joined the workers in 60 s, though all have come")

    scene = Scene(0)
    scene.hear("joining")
    scene.pass_s(JOIN_S - 1, 0, 1, 2, phase="joining")
    scene.process.sign_at = scene.clock()  # its volume may take long now
    scene.pass_s(600, 0, 1, 2, phase="joining")
    assert scene.ended_for is None


def test_who_is_told_to_leave_is_killed_in_time() -> None:
    """At once where nothing is to be saved; the first reason stands, and no silence is another."""
    scene = Scene(0)
    scene.hear("training", 1)
    scene.watch.leave(5, Outcome(75, "stopped", "first"))
    scene.watch.leave(9, Outcome(75, "gathering", "second"))
    assert scene.process.terminated
    scene.pass_s(4)
    assert not scene.process.killed
    scene.pass_s(1)
    assert scene.ended_for == ("stopped", "first")

    scene = Scene(0)
    scene.hear("compiling")
    scene.watch.leave(5, Outcome(75, "stopped", "first"))
    scene.watch.look()
    assert scene.ended_for == ("stopped", "first")
    assert not scene.process.terminated
