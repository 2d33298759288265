"""Workers that are killed, stopped, told to leave, late or strangers, and a clock that jumps: the run goes on.

'The same' is assert_same() with the run that nothing happened to.
"""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job.errors import Exit
from tests.faults.team import RUN, STEPS, Team, assert_same
from tests.job.processes import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.team import Worker

    Quiet = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.faults

SHORT = ("--epochs=2",)  # where nothing is to happen in training
MIDDLE = STEPS // 2


def noticed(worker: Worker, began: float, seconds: float, after: int) -> None:
    """Its trainer is given up so soon after something happened."""
    worker.until_phase("restarting", after)
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("rank", [0, 1])
def test_a_trainer_killed_in_training(digits: Path, tmp_path: Path, quiet: Quiet, rank: int, step: int) -> None:
    """Either rank's, by SIGKILL at 3 points: the other notices within 5 s, and counts no restart; the same."""
    with Team(digits, tmp_path).start() as team:
        other = team[1 - rank]
        place = other.until_step(step)
        began = time.monotonic()
        team[rank].kill_trainer()
        noticed(other, began, 5, place)
        assert_same(team, quiet())
        assert team[rank].reasons() == ["killed"]
        assert team[rank].records[-1].restarts == 1
        assert other.records[-1].restarts == 0
        for record in other.records:
            assert record.reason != "peer-lost" or "Graph execution error" not in (record.message or "")


def test_the_chief_killed_with_its_supervisor(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """Rank 0, both processes by SIGKILL in the middle of training, and replaced: rank 1 stays; the same."""
    with Team(digits, tmp_path).start() as team:
        place = team[1].until_step(MIDDLE)
        team[0].kill()
        assert team[0].code() == -signal.SIGKILL
        team[1].until_phase("restarting", place)
        team.start(0)
        team[0].until(lambda record: record.reason == "resumed")
        assert_same(team, quiet())
        assert team[1].records[-1].restarts == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_trainer_stopped_in_training(digits: Path, tmp_path: Path, quiet: Quiet, rank: int) -> None:
    """Either rank's, by SIGSTOP in the middle of training: the other notices within 20 s; the same."""
    with Team(digits, tmp_path).start() as team:
        other = team[1 - rank]
        place = other.until_step(MIDDLE)
        began = time.monotonic()
        team[rank].kill_trainer(signal.SIGSTOP)
        noticed(other, began, 20, place)
        assert_same(team, quiet())
        assert other.records[-1].restarts == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_stopped_as_a_whole(digits: Path, tmp_path: Path, quiet: Quiet, rank: int) -> None:
    """Either rank, both processes by SIGSTOP in training, until the other has noticed, within 20 s; the same.

    As where a node is cut off, no connection breaks: the other's trainer hangs in an all-reduce. It is the rank's
    supervisor whose silence tells. Once it goes on, it follows.
    """
    with Team(digits, tmp_path).start() as team:
        other = team[1 - rank]
        place = other.until_step(MIDDLE)
        began = time.monotonic()
        os.killpg(team[rank].process.pid, signal.SIGSTOP)
        noticed(other, began, 20, place)
        assert other.reasons() == ["peer-lost"]
        os.killpg(team[rank].process.pid, signal.SIGCONT)
        assert_same(team, quiet())
        assert {worker.records[-1].restarts for worker in team.workers.values()} == {0}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_told_to_leave_in_training(digits: Path, tmp_path: Path, quiet: Quiet, rank: int, step: int) -> None:
    """Either rank, by SIGTERM to its supervisor at 3 points: it leaves with 75 within 5 s, the other stays; the same.

    It is started again only when the other's trainer has ended.
    """
    with Team(digits, tmp_path).start() as team:
        other = team[1 - rank]
        place = other.until_step(step)
        team[rank].terminate()
        assert team[rank].code(5) == Exit.TRY_AGAIN
        assert team[rank].reasons("failed") == ["stopped"]
        other.until_phase("restarting", place)
        team.start(rank)
        team[0].until(lambda record: record.reason == "resumed", place if rank else 0)
        assert_same(team, quiet())
        assert other.records[-1].restarts == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_told_to_leave_while_it_waits(digits: Path, tmp_path: Path, rank: int) -> None:
    """Either rank, alone and waiting for the other, by SIGTERM to its supervisor: it leaves with 75 within 2 s."""
    with Team(digits, tmp_path).start(rank) as team:
        until_waiting(team, rank)
        leaves_at_once(team[rank])


def until_waiting(team: Team, rank: int) -> None:
    """Wait until a worker that is alone waits for the others."""
    if rank == 0:
        team[0].until_phase("waiting")
        return
    # It has nothing to tell as long as rank 0 does not answer, but it serves its own port by then.
    host, _, port = team.peers[rank][1].rpartition(":")
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except ConnectionRefusedError:
            assert team[rank].process.poll() is None, team[rank].errors
            assert time.monotonic() < deadline
            os.sched_yield()
        else:
            return


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_told_to_leave_while_it_starts(digits: Path, tmp_path: Path, quiet: Quiet, rank: int) -> None:
    """Either rank, by SIGTERM to its supervisor in each phase of the start-up: it leaves with 75 within 2 s.

    The other one stays through all of it, and once nobody is told to leave any more the run ends; the same.
    """
    with Team(digits, tmp_path, flags=SHORT).start(1 - rank) as team:
        for phase in ("data", "joining", "compiling"):
            team.start(rank)
            team[rank].until_phase(phase)
            leaves_at_once(team[rank])
        team.start(rank)
        assert_same(team, quiet(flags=SHORT))
        assert team[1 - rank].records[-1].restarts == 0


def leaves_at_once(worker: Worker) -> None:
    """A worker that is told to leave ends with 75 within 2 s, and says that it was told."""
    worker.terminate()
    assert worker.code(2) == Exit.TRY_AGAIN
    assert worker.reasons("failed") == ["stopped"]


@pytest.mark.parametrize(("phase", "rank"), [("data", 0), ("joining", 1), ("compiling", 0), ("compiling", 1)])
def test_kills_while_the_cluster_forms(digits: Path, tmp_path: Path, quiet: Quiet, phase: str, rank: int) -> None:
    """By SIGKILL in a phase of the start-up: a rank's trainer, then the other rank's supervisor; the same.

    The supervisor is replaced; its trainer, which nobody kills, ends with it.
    """
    with Team(digits, tmp_path, flags=SHORT).start() as team:
        killed, other = team[rank], team[1 - rank]
        killed.until_phase(phase)
        killed.kill_trainer()
        place = killed.until_phase("restarting")
        assert killed.reasons() == ["killed"]
        killed.until_phase("data", place)
        places = len(other.records)
        other.until_phase(phase, places - 1)
        other.process.kill()
        assert other.code() == -signal.SIGKILL
        team.start(1 - rank)
        assert_same(team, quiet(flags=SHORT))


def test_kills_while_the_workers_wait(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """Rank 0's and rank 1's supervisor by SIGKILL, each while it waits for the other, and replaced; the same."""
    with Team(digits, tmp_path, flags=SHORT) as team:
        for rank in (0, 1):
            team.start(rank)
            until_waiting(team, rank)
            team[rank].process.kill()
            assert team[rank].code() == -signal.SIGKILL
        team.start()
        assert_same(team, quiet(flags=SHORT))


def metrics(team: Team, rank: int) -> str:
    """What Prometheus would be told of a worker."""
    with urllib.request.urlopen(f"http://{team.peers[rank][1]}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def gave_up_waiting(worker: Worker, missing: str) -> None:
    """It left with 75, and its last word names who is missing."""
    assert worker.code() == Exit.TRY_AGAIN
    last = worker.records[-1]
    assert (last.phase, last.code, last.reason) == ("failed", Exit.TRY_AGAIN, "peers-missing")
    assert missing in (last.message or ""), last.message


def test_a_peer_that_never_comes(digits: Path, tmp_path: Path) -> None:
    """Rank 2 of 3, from the start: the others show that they wait for it, and leave with 75 after --join-timeout."""
    with Team(digits, tmp_path, 3, ("--join-timeout=4",)).start(0, 1) as team:
        for rank in (0, 1):
            place = team[rank].until(lambda record: record.phase == "waiting" and record.joined == 2)
            assert team[rank].records[place - 1].message == "2 of 3 workers joined"
            assert f'mnist_job_workers_joined{{rank="{rank}",run="{RUN}"}} 2.0' in metrics(team, rank)
        for worker in team.workers.values():
            gave_up_waiting(worker, "worker 2 has not joined")


def test_a_peer_that_never_comes_and_the_chief_gone(digits: Path, tmp_path: Path) -> None:
    """Rank 2 of 3, from the start, and rank 0 leaves before rank 1's time is up: rank 1 names both."""
    with Team(digits, tmp_path, 3, ("--join-timeout=10",)).start(0, 1) as team:
        team[1].until(lambda record: record.phase == "waiting" and record.joined == 2)
        team[0].kill()
        gave_up_waiting(team[1], "worker 2 has not joined, and then worker 0 does not answer at")


def test_the_chief_never_comes(digits: Path, tmp_path: Path) -> None:
    """Rank 0 of 3, from the start: the others leave with 75 after --join-timeout, naming it."""
    with Team(digits, tmp_path, 3, ("--join-timeout=3",)).start(1, 2) as team:
        for worker in team.workers.values():
            gave_up_waiting(worker, "worker 0 does not answer")


def test_a_stranger_at_a_peer_s_address(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """Rank 1 of another run, of another Job and of other settings come to rank 0 before its own: they never join.

    Each leaves with 75 after its --join-timeout and says what differs; the run that they came to ends as it would; the
    same.
    """
    with Team(digits, tmp_path / "own", flags=SHORT) as team, ExitStack() as stack:
        strangers = {
            "the run": Team(digits, tmp_path / "run", 2, (*SHORT, "--join-timeout=3"), {"RUN": "other"}),
            "the JOB_UID": Team(digits, tmp_path / "uid", 2, (*SHORT, "--join-timeout=3"), uid="uid-2"),
            "other settings": Team(digits, tmp_path / "seed", 2, (*SHORT, "--join-timeout=3", "--seed=1")),
        }
        team.start(0)
        team[0].until_phase("waiting")
        for stranger in strangers.values():
            stack.enter_context(stranger).peers[0] = team.peers[0]
            stranger.start(1)
        for difference, stranger in strangers.items():
            gave_up_waiting(stranger[1], difference)
            assert "data" not in stranger[1].phases()
        assert {record.joined for record in team[0].records if record.phase == "waiting"} == {0, 1}
        team.start(1)
        assert_same(team, quiet(flags=SHORT))


def test_a_name_that_does_not_resolve(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """Rank 0's, for 40 s from the start, in an /etc/hosts of the workers' own: they start when it does; the same."""
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mounts of a process's own can be made here: {tried.stderr.strip()}")
    name, hosts = "run-0.run.invalid", tmp_path / "hosts"
    before = Path("/etc/hosts").read_text(encoding="utf-8")
    hosts.write_text(before, encoding="utf-8")
    mount = f'mount --bind {shlex.quote(str(hosts))} /etc/hosts && exec "$@"'
    team = Team(
        digits,
        tmp_path / "output",
        flags=SHORT,
        variables={"POD_IP": "127.0.0.1"},
        wrapper=("unshare", "--mount", "sh", "-c", mount, "sh"),
    )
    team.peers[0] = [address.replace("127.0.0.1", name) for address in team.peers[0]]
    with team.start():
        team[0].until_phase("waiting")
        time.sleep(40)  # what is shown is that this long does no harm
        assert [worker.process.poll() for worker in team.workers.values()] == [None, None]
        assert {record.joined for record in team[0].records if record.phase == "waiting"} == {0, 1}
        hosts.write_text(f"{before}\n127.0.0.1 {name}\n", encoding="utf-8")
        assert_same(team, quiet(flags=SHORT))


def test_a_port_that_is_taken(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """Rank 1's for TensorFlow, by another socket until it was tried twice: rank 1 goes on with backoff; the same."""
    with Team(digits, tmp_path, flags=SHORT) as team:
        host, _, port = team.peers[1][0].rpartition(":")
        with socket.create_server((host, int(port))):
            team.start()
            place = team[1].until_phase("restarting")
            place = team[1].until_phase("restarting", place)
        second = time.monotonic()
        team[1].until_phase("waiting", place)
        assert time.monotonic() - second > 1
        assert_same(team, quiet(flags=SHORT))
        assert team[1].reasons() == ["port-taken", "port-taken"]
        assert (team[0].records[-1].restarts, team[1].records[-1].restarts) == (0, 2)


def test_a_trainer_that_stalls(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """The only worker's, by SIGSTOP in training, with --stall-timeout=5: killed and replaced after 5 s; the same."""
    # One worker's step takes a twentieth of that of two.
    flags = ("--epochs=500", "--log-every=60", "--checkpoint-every=600")
    with Team(digits, tmp_path, 1, (*flags, "--stall-timeout=5")).start() as team:
        place = team[0].until_step(6000)
        began = time.monotonic()
        team[0].kill_trainer(signal.SIGSTOP)
        team[0].until_phase("restarting", place)
        assert 4 < time.monotonic() - began < 8
        assert_same(team, quiet(1, flags))
        assert team[0].reasons() == ["stalled"]


def test_a_clock_that_jumps(digits: Path, tmp_path: Path, quiet: Quiet) -> None:
    """Both ranks', an hour ahead while rank 0 waits, in training back and ahead again: nothing restarts; the same.

    --join-timeout and --stall-timeout are far below an hour.
    """
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("there is no libfaketime here; Debian has it in the package libfaketime")
    clock = tmp_path / "clock"

    def jump(to: str) -> None:
        (tmp_path / "next").write_text(to, encoding="utf-8")
        (tmp_path / "next").replace(clock)

    jump("+0")
    variables = {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    # libfaketime looks for a new time once a second: training must outlast two such looks, however fast the machine.
    flags = ("--epochs=80", "--join-timeout=60")
    with Team(digits, tmp_path / "output", flags=flags, variables=variables).start(0) as team:
        team[0].until_phase("waiting")
        jump("+3600")
        team.start(1)
        team[0].until_step(200)
        jump("-3600")
        place = team[0].until(lambda record: abs(record.time + 3600 - time.time()) < 60)
        jump("+3600")
        team[0].until(lambda record: abs(record.time - 3600 - time.time()) < 60, place)
        assert_same(team, quiet(flags=flags))
        for worker in team.workers.values():
            assert worker.reasons() == []
            assert worker.records[-1].restarts == 0
        times = [record.time for record in team[0].records]
        steps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert max(steps) > 3500
        assert min(steps) < -3500
