"""Which silences end a trainer, and which do not."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, cast

import pytest

from job.cluster import Cluster
from job.config import Config
from job.errors import JobError
from job.rendezvous.messages import Reply, Request
from job.rendezvous.peers import Peers, ReplyEvent
from job.rendezvous.server import Rendezvous
from job.supervisor.outcome import Outcome
from job.supervisor.restart_policy import RestartPolicy
from job.supervisor.status import WorkerStatus
from job.supervisor.watchdog import GOODBYE_S, JOIN_S, NEWCOMERS_S, SILENT_S, Watchdog
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


class FakeProcess:
    """Stands in for a SupervisedProcess."""

    def __init__(self) -> None:
        self.pulse_at = float("inf")
        self.killed = False
        self.terminated = False

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = True

    def terminate(self) -> None:
        """SIGTERM."""
        self.terminated = True


def request(rank: int, round_id: str = "", phase: str = "") -> Request:
    """What a worker sends to rank 0."""
    return Request("r", "u", "s", "m", WORKERS, rank, "s", 1, "a", round_id, f"a:{rank + 1}", phase, 0)


class Scene:
    """A worker of three whose trainer is watched, second by second."""

    def __init__(self, rank: int, device: str = "cpu") -> None:
        self.rank, self.clock, self.process = rank, Clock(), FakeProcess()
        cluster = Cluster("r", "u", rank, ("a:1",) * WORKERS, ("a:2",) * WORKERS)
        self.rendezvous = Rendezvous("r", "u", "s", "m", WORKERS, self.clock)
        self.round_id = [self.rendezvous.join(request(each)) for each in range(WORKERS)][-1].round_id
        self.peers = Peers(cluster, queue.SimpleQueue())
        self.peers.connect("s", "m")
        if rank == 0:
            self.peers.rendezvous = self.rendezvous
        self.rank_0_answered()
        status = WorkerStatus(cluster, RestartPolicy(), self.peers)
        process = cast("SupervisedProcess", self.process)
        self.watchdog = Watchdog(process, Config(device=device), status, self.peers, self.round_id, self.clock)

    def rank_0_answered(self, seconds_ago: float = 0) -> None:
        """Rank 0 answered this worker."""
        self.peers.answered_at = self.clock() - seconds_ago

    def record(self, phase: str, step: int | None = None) -> None:
        """The trainer sends a record."""
        self.watchdog.take_record(Record(0.0, "r", 0, phase, step=step))

    def requests(self, phase: str, *ranks: int) -> None:
        """These workers send rank 0 their phase; a worker above rank 0 gets an answer."""
        for rank in ranks:
            self.rendezvous.join(request(rank, self.round_id, phase))
        self.rank_0_answered()

    def pass_s(self, seconds: float, *ranks: int, phase: str = "training", steps: bool = False) -> None:
        """Let time pass. Each second these workers send requests, and the trainer a step or only a pulse."""
        for _ in range(round(seconds)):
            self.clock.now += 1
            if self.process.pulse_at < float("inf"):
                self.process.pulse_at = self.clock()
            if ranks:
                self.requests(phase, *ranks)
            if steps:
                self.record("training", round(self.clock()))
            self.watchdog.check()

    @property
    def killed(self) -> tuple[str, str] | None:
        """The reason and the message with which the trainer was killed, None if it was not."""
        forced = self.watchdog.forced
        assert self.process.killed == (forced is not None)
        return (forced.reason, forced.message) if forced else None

    @property
    def reason(self) -> str | None:
        """The reason alone."""
        return self.killed[0] if self.killed else None


@pytest.fixture(params=[0, 1])
def scene(request: pytest.FixtureRequest) -> Scene:
    """Rank 0's, then rank 1's, with a trainer that has joined and trains."""
    scene = Scene(request.param)
    scene.process.pulse_at = scene.clock()
    scene.record("training", 1)
    return scene


def test_a_silent_peer_ends_a_trainer_that_makes_no_steps(scene: Scene) -> None:
    """Rank 0 watches every rank, and the others watch rank 0."""
    scene.pass_s(SILENT_S - 1, 0, 1)
    assert scene.killed is None
    if scene.rank == 0:
        scene.pass_s(1, 0, 1)
    else:
        scene.rank_0_answered(SILENT_S - 1)
        scene.pass_s(1)
    silent = 2 if scene.rank == 0 else 0
    assert scene.killed == ("peer-lost", f"worker {silent} has sent nothing for 10 s")


def test_workers_are_taken_in_after_the_first_checkpoint_of_a_round() -> None:
    """Not before, so that each round makes progress, and not after the last step, which only evaluation follows."""
    scene, taken = Scene(0), []
    scene.peers.take_in = lambda: taken.append(scene.watchdog)  # type: ignore[method-assign]
    for phase, step, checkpoint in [
        ("restoring", 60, 60),
        ("training", 80, 60),
        ("training", 600, 540),
    ]:
        scene.watchdog.take_record(Record(0.0, "r", 0, phase, step=step, steps=600, checkpoint=checkpoint))
        assert not taken
    scene.watchdog.take_record(Record(0.0, "r", 0, "training", step=140, steps=600, checkpoint=120))
    assert taken


def test_the_members_of_a_round_with_a_step_can_train_together() -> None:
    """Rank 0 takes note of the first step of each round, not of the trainer's other records."""
    scene = Scene(0)
    noted: list[str] = []
    scene.peers.note_step = noted.append  # type: ignore[method-assign, assignment]
    for phase in ("joining", "restoring", "compiling"):
        scene.record(phase)
    assert not noted
    scene.record("training", 1)
    assert noted == [scene.round_id]


def test_a_silent_supervisor_ends_no_trainer_that_makes_steps(scene: Scene) -> None:
    """Each step takes all trainers, so that the silent worker's trainer must be running."""
    scene.pass_s(300, steps=True)
    assert scene.killed is None
    scene.pass_s(SILENT_S)
    assert scene.reason == "peer-lost"


def test_peers_that_send_requests_end_no_trainer_that_waits(scene: Scene) -> None:
    """A trainer may wait for a slow peer's step until --stall-timeout."""
    scene.pass_s(119, 0, 1, 2)
    assert scene.killed is None
    scene.pass_s(1, 0, 1, 2)
    assert scene.killed == ("stalled", "the trainer made no progress in phase training for 120 s")


def test_silence_while_the_supervisor_was_stopped_does_not_count(scene: Scene) -> None:
    """It could not read what came meanwhile. The same silence counts from then on."""
    scene.clock.now += 1000
    scene.watchdog.check()
    assert scene.killed is None
    scene.process.pulse_at = float("inf")
    scene.pass_s(SILENT_S - 1)
    assert scene.killed is None
    scene.pass_s(1)
    assert scene.reason == "peer-lost"


def test_a_stopped_trainer_is_noticed_by_its_missing_pulse(scene: Scene) -> None:
    """Long before --stall-timeout is over."""
    pulse_at = scene.process.pulse_at
    for _ in range(round(SILENT_S)):
        assert scene.killed is None
        scene.pass_s(1, 0, 1, 2)
        scene.process.pulse_at = pulse_at
    scene.watchdog.check()
    assert scene.killed == ("stalled", "the trainer gave no sign of life in phase training for 10 s")


def test_a_publishing_worker_waits_for_no_silent_peer(scene: Scene) -> None:
    """Rank 0 publishes alone, even while the others meet in a new round. The others have to wait for rank 0."""
    scene.record("publishing")
    scene.pass_s(600)
    assert scene.killed is None
    new_round = ReplyEvent(request(1, scene.round_id, "publishing"), Reply("new", 1, (0, 2), ()))
    assert scene.watchdog.must_rejoin(new_round) == (scene.rank != 0)
    scene.record("published")
    assert not scene.watchdog.must_rejoin(new_round)
    scene.pass_s(GOODBYE_S - 1)
    assert scene.killed is None
    scene.pass_s(1)
    assert scene.reason == "stalled"


def test_tensorflow_must_connect_the_workers_soon() -> None:
    """Rank 0 counts from when the last trainer starts to join until TensorFlow has connected its own."""
    scene = Scene(0)
    scene.record("joining")
    for _ in range(300):
        scene.requests("data", 2)
        scene.pass_s(1, 0, 1, phase="joining")
    assert scene.killed is None
    scene.pass_s(JOIN_S, 0, 1, 2, phase="joining")
    assert scene.killed is None
    scene.pass_s(1, 0, 1, 2, phase="joining")
    message = "TensorFlow has not connected the workers within 60 s, although all have started"
    assert scene.killed == ("not-joined", message)

    scene = Scene(0)
    scene.record("joining")
    scene.pass_s(JOIN_S - 1, 0, 1, 2, phase="joining")
    scene.process.pulse_at = scene.clock()  # connected; reading the volume may take long
    scene.pass_s(600, 0, 1, 2, phase="joining")
    assert scene.killed is None


def test_workers_that_were_taken_in_must_join_soon() -> None:
    """Rank 0 does not wait for one that reads its data forever, if the others can train without it."""
    scene = Scene(0)
    scene.peers.tries_newcomers = lambda round_id: round_id == scene.round_id  # type: ignore[method-assign]
    scene.record("data")
    scene.pass_s(300, 0, 1, 2, phase="data")
    scene.record("joining")
    for _ in range(round(NEWCOMERS_S)):
        assert scene.killed is None
        scene.requests("data", 2)
        scene.pass_s(1, 0, 1, phase="joining")
    assert scene.killed == ("stalled", "the trainer made no progress in phase joining for 120 s")

    scene = Scene(0)
    scene.peers.tries_newcomers = lambda round_id: round_id == scene.round_id  # type: ignore[method-assign]
    scene.record("joining")
    scene.process.pulse_at = scene.clock()  # connected
    scene.pass_s(600, 0, 1, 2, phase="joining")
    assert scene.killed is None


def test_a_process_that_has_to_exit_is_killed_in_time(scene: Scene) -> None:
    """It is killed at once if it has nothing to save. The first reason counts; rank 0 says what is saved."""
    scene.watchdog.request_exit(5, Outcome(75, "stopped", "first"))
    scene.watchdog.request_exit(9, Outcome(75, "gathering", "second"))
    assert scene.process.terminated
    scene.pass_s(4)
    assert not scene.process.killed
    scene.pass_s(1)
    late = ", and the trainer was killed because it did not end in time; it reported no checkpoint"
    assert scene.killed == ("stopped", "first" + (late if scene.rank == 0 else ""))

    scene = Scene(0)
    scene.record("compiling")
    scene.watchdog.request_exit(5, Outcome(75, "stopped", "first"))
    scene.watchdog.check()
    assert scene.killed == ("stopped", "first")
    assert not scene.process.terminated


@pytest.mark.parametrize(("device", "seconds", "what"), [("cpu", 5, "a volume"), ("gpu", 30, "a volume or the GPU")])
def test_a_killed_process_that_stays_ends_the_worker(device: str, seconds: int, what: str) -> None:
    """A hung volume may keep it, and the driver of a GPU needs time to free what it had there."""
    scene = Scene(1, device)
    scene.record("compiling")
    scene.watchdog.request_exit(5, Outcome(75, "stopped", "first"))
    scene.watchdog.check()
    assert scene.process.killed
    scene.pass_s(seconds - 1)
    message = f"the trainer has not exited {seconds} s after SIGKILL; check whether {what} hangs"
    with pytest.raises(JobError, match=message) as caught:
        scene.pass_s(1)
    assert (caught.value.code, caught.value.reason) == (75, "trainer-hangs")
