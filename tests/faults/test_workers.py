"""Workers that are killed, stopped, terminated or late, strangers, and a clock that jumps: the run still succeeds.

The undisturbed run is the same one without a fault. Both have the same parameters and test figures.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import socket
import subprocess
import textwrap
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job.errors import Exit
from job.supervisor.restart_policy import CAUSED_BY_PEER, MAX_RESTARTS
from job.supervisor.supervisor import STOP_S
from job.supervisor.watchdog import SILENT_S
from tests.faults.team import ALONE, ALONE_EARLY, ENDLESS, RUN, SHORT, STEPS, Team, assert_same, copy_with
from tests.job import processes
from tests.job.processes import ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount
    from tests.faults.team import Worker

    Undisturbed = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.faults

EARLY = STEPS // 10


def wait_for_both(team: Team, step: int, places: list[int]) -> list[int]:
    """Wait until both ranks have completed a step, beyond these numbers of records; gives the new numbers."""
    return [team[rank].wait_for_step(step, places[rank]) for rank in (0, 1)]


def assert_leaves(worker: Worker) -> None:
    """A worker that receives SIGTERM exits with 75 before it would be killed, and reports that it was stopped."""
    worker.terminate()
    assert worker.exit_code(STOP_S / 2) == Exit.TRY_AGAIN
    assert worker.reasons("failed") == ["stopped"]


def test_a_trainer_killed_in_training(digits: Path, tmp_path: Path, undisturbed: Undisturbed, step: int) -> None:
    """Each rank's trainer dies at a seeded step: it is started again, and the other rank counts no restart.

    The other rank notices by the broken connection, before it would miss a sign of life.
    """
    with Team(digits, tmp_path).start() as team:
        places = [0, 0]
        for rank, number in ((0, signal.SIGKILL), (1, signal.SIGSEGV)):
            places = wait_for_both(team, step, places)
            began = time.monotonic()
            team[rank].kill_trainer(number)
            places[1 - rank] = team[1 - rank].wait_for_phase("restarting", places[1 - rank])
            assert time.monotonic() - began < SILENT_S
            places[rank] = team[rank].wait_for_phase("restarting", places[rank])
            restarting = team[rank].records[places[rank] - 1]
            assert (restarting.reason, restarting.restarts) == ("killed", 1)
            assert number.name in (restarting.message or "")
        assert_same(team, undisturbed())
        for worker in team.workers.values():
            assert sorted(set(worker.reasons()) - CAUSED_BY_PEER) == ["killed"]
            assert worker.records[-1].restarts == 1
            for record in worker.records:
                assert record.reason != "peer-lost" or "Graph execution error" not in (record.message or "")


def test_a_fork_server_killed_in_training(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Each rank's fork server is killed in training: its trainer ends with it, and another one starts the next."""
    with Team(digits, tmp_path).start() as team:
        places = [0, 0]
        for rank in (0, 1):
            places = wait_for_both(team, EARLY, places)
            os.kill(team[rank].fork_server(), signal.SIGKILL)
            places[rank] = team[rank].wait_for_phase("restarting", places[rank])
            restarting = team[rank].records[places[rank] - 1]
            assert (restarting.reason, restarting.restarts) == ("killed", 1)
            places[1 - rank] = team[1 - rank].wait_for_phase("restarting", places[1 - rank])
        assert_same(team, undisturbed())
        assert [team[rank].records[-1].restarts for rank in (0, 1)] == [1, 1]


def test_rank_0_killed_as_a_whole(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Rank 0's supervisor and trainer are killed in training and replaced; rank 1 stays, and counts no restart."""
    with Team(digits, tmp_path).start() as team:
        place = team[1].wait_for_step(EARLY)
        team[0].kill()
        assert team[0].exit_code() == -signal.SIGKILL
        team[1].wait_for_phase("restarting", place)
        team.start(0)
        team[0].wait_for_record(lambda record: record.reason == "resumed")
        assert_same(team, undisturbed())
        assert team[1].records[-1].restarts == 0


def test_a_trainer_stopped_in_training(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Each rank's trainer is stopped in training: its supervisor replaces it, and the other counts no restart."""
    with Team(digits, tmp_path).start() as team:
        places = [0, 0]
        for rank in (0, 1):
            places = wait_for_both(team, EARLY, places)
            began = time.monotonic()
            team[rank].kill_trainer(signal.SIGSTOP)
            places = [team[each].wait_for_phase("restarting", places[each]) for each in (0, 1)]
            assert time.monotonic() - began < 2 * SILENT_S
        assert_same(team, undisturbed())
        assert [team[rank].records[-1].restarts for rank in (0, 1)] == [1, 1]


def test_a_worker_stopped_as_a_whole(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Each rank, supervisor and trainer, is stopped in training until the other notices; nobody counts a restart.

    As with a node that is cut off, no connection breaks, and the other's trainer hangs in an all-reduce. Only the
    silence of the rank's supervisor shows it. When the rank goes on, it joins the new round.
    """
    with Team(digits, tmp_path).start() as team:
        places = [0, 0]
        for rank in (0, 1):
            places = wait_for_both(team, EARLY, places)
            began = time.monotonic()
            os.killpg(team[rank].process.pid, signal.SIGSTOP)
            other = team[1 - rank]
            places[1 - rank] = other.wait_for_phase("restarting", places[1 - rank])
            assert time.monotonic() - began < 2 * SILENT_S
            assert other.records[places[1 - rank] - 1].reason == "peer-lost"
            os.killpg(team[rank].process.pid, signal.SIGCONT)
            places[rank] = team[rank].wait_for_phase("restarting", places[rank])
        assert_same(team, undisturbed())
        assert [team[rank].records[-1].restarts for rank in (0, 1)] == [0, 0]


def test_a_worker_terminated_in_training(digits: Path, tmp_path: Path, undisturbed: Undisturbed, step: int) -> None:
    """Each rank leaves at a seeded step, and is replaced once the other's trainer has ended; the other stays."""
    with Team(digits, tmp_path).start() as team:
        places = [0, 0]
        for rank in (0, 1):
            places = wait_for_both(team, step, places)
            assert_leaves(team[rank])
            other = team[1 - rank]
            places[1 - rank] = other.wait_for_phase("restarting", places[1 - rank])
            assert other.records[-1].restarts == 0
            team.start(rank)
            places[rank] = 0
            places[0] = team[0].wait_for_record(lambda record: record.reason == "resumed", places[0])
        assert_same(team, undisturbed())


def test_all_processes_of_a_worker_are_terminated(digits: Path, tmp_path: Path) -> None:
    """SIGTERM to the process group, as some process managers send it, loses no step either."""
    with Team(digits, tmp_path, 1, (*ALONE, *ENDLESS)).start() as team:
        team[0].wait_for_step(ALONE_EARLY)
        os.killpg(team[0].process.pid, signal.SIGTERM)
        code, reason, message = team[0].failure()
        assert (code, reason) == (Exit.TRY_AGAIN, "stopped")
        team.start()
        place = team[0].wait_for_record(lambda record: record.reason == "resumed")
        assert message == f"asked to stop at step {team[0].records[place - 1].step}"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_terminated_while_it_waits(digits: Path, tmp_path: Path, rank: int) -> None:
    """A worker that waits for the other one leaves at once."""
    with Team(digits, tmp_path).start(rank) as team:
        team[rank].wait_for_phase("waiting")
        assert_leaves(team[rank])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_terminated_while_it_starts(digits: Path, tmp_path: Path, undisturbed: Undisturbed, rank: int) -> None:
    """A worker leaves at once in each phase of its start; the other one stays, and the run succeeds in the end."""
    with Team(digits, tmp_path).start(1 - rank) as team:
        for phase in ("data", "joining", "compiling"):
            team.start(rank)
            team[rank].wait_for_phase(phase)
            assert_leaves(team[rank])
        team.start(rank)
        assert_same(team, undisturbed())
        assert team[1 - rank].records[-1].restarts == 0


@pytest.mark.parametrize(("phase", "rank"), [("data", 0), ("joining", 1), ("compiling", 0)])
def test_kills_while_the_workers_start(
    digits: Path, tmp_path: Path, undisturbed: Undisturbed, phase: str, rank: int
) -> None:
    """A rank's trainer is killed, then the other rank's supervisor, which is replaced; its trainer ends with it."""
    with Team(digits, tmp_path).start() as team:
        killed, other = team[rank], team[1 - rank]
        killed.wait_for_phase(phase)
        killed.kill_trainer()
        place, before = killed.wait_for_phase("restarting"), len(other.records)
        assert killed.reasons() == ["killed"]
        killed.wait_for_phase("data", place)
        other.wait_for_phase(phase, before)
        other.process.kill()
        assert other.exit_code() == -signal.SIGKILL
        team.start(1 - rank)
        assert_same(team, undisturbed())


def test_kills_while_the_workers_wait(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Each supervisor is killed while it waits for the other one, and replaced."""
    with Team(digits, tmp_path, flags=SHORT) as team:
        for rank in (0, 1):
            team.start(rank)
            team[rank].wait_for_phase("waiting")
            team[rank].process.kill()
            assert team[rank].exit_code() == -signal.SIGKILL
        team.start()
        assert_same(team, undisturbed(flags=SHORT))


def metrics(team: Team, rank: int) -> str:
    """A worker's metrics, as Prometheus reads them."""
    with urllib.request.urlopen(f"http://{team.peers[rank][1]}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def assert_gave_up_waiting(worker: Worker, missing: str) -> None:
    """A worker left with 75, and its last record says why the workers did not meet."""
    code, reason, message = worker.failure()
    assert (code, reason) == (Exit.TRY_AGAIN, "peers-missing")
    assert re.search(missing, message), message


def test_a_worker_that_never_starts(digits: Path, tmp_path: Path) -> None:
    """The other workers report that they wait, leave with 75 after --join-timeout, and name the missing one."""
    with Team(digits, tmp_path, 3, ("--join-timeout=15",)).start(0, 1) as team:
        for rank in (0, 1):
            place = team[rank].wait_for_record(lambda record: record.phase == "waiting" and record.joined == 2)
            assert team[rank].records[place - 1].message == "2 of 3 workers joined"
            assert f'mnist_job_workers_joined{{rank="{rank}",run="{RUN}"}} 2.0' in metrics(team, rank)
        for worker in team.workers.values():  # the one that gives up first may be missing too
            assert_gave_up_waiting(worker, r"(worker 2 has|workers [01], 2 have) not joined")


def test_a_worker_that_never_starts_and_rank_0_killed(digits: Path, tmp_path: Path) -> None:
    """Rank 1 leaves with 75 after --join-timeout, and names both."""
    with Team(digits, tmp_path, 3, ("--join-timeout=15",)).start(0, 1) as team:
        team[1].wait_for_record(lambda record: record.phase == "waiting" and record.joined == 2)
        team[0].kill()
        assert_gave_up_waiting(team[1], "worker 2 has not joined, and then worker 0 does not answer at")


def test_rank_0_never_starts(digits: Path, tmp_path: Path) -> None:
    """The other workers leave with 75 after --join-timeout, and name rank 0."""
    with Team(digits, tmp_path, 3, ("--join-timeout=10",)).start(1, 2) as team:
        for worker in team.workers.values():
            assert_gave_up_waiting(worker, "worker 0 does not answer")


def test_strangers_at_rank_0(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Workers of another run or Job, or with other settings or another model, never join; the last record says why."""
    edited = copy_with(tmp_path, "model.py", (ROOT / "job" / "model.py").read_text(encoding="utf-8") + "# edited\n")
    with Team(digits, tmp_path / "own", flags=SHORT) as team, ExitStack() as stack:
        strangers = {
            "the run": Team(digits, tmp_path / "run", 2, (*SHORT, "--join-timeout=15"), {"RUN": "other"}),
            "the JOB_UID": Team(digits, tmp_path / "uid", 2, (*SHORT, "--join-timeout=15"), uid="uid-2"),
            "other settings": Team(digits, tmp_path / "seed", 2, (*SHORT, "--join-timeout=15", "--seed=1")),
            "another model": Team(digits, tmp_path / "model", 2, (*SHORT, "--join-timeout=15"), edited),
        }
        team.start(0)
        team[0].wait_for_phase("waiting")
        for stranger in strangers.values():
            stack.enter_context(stranger).peers[0] = team.peers[0]
            stranger.start(1)
        for difference, stranger in strangers.items():
            assert_gave_up_waiting(stranger[1], difference)
            assert "data" not in stranger[1].phases()
        waiting = [record for record in team[0].records if record.phase == "waiting"]
        assert {record.joined for record in waiting} - {None} == {0, 1}
        told = {(record.message or "").partition(": ")[2].partition(":")[0] for record in waiting}
        refusals = {"worker 1 has other settings", "worker 1 has another model"}  # the newest is told
        assert "" in told
        assert told - {""} <= refusals
        assert told & refusals
        team.start(1)
        assert_same(team, undisturbed(flags=SHORT))


def test_a_name_that_does_not_resolve(digits: Path, tmp_path: Path, volume: Mount, undisturbed: Undisturbed) -> None:
    """Rank 1 looks up rank 0's name again and again, and the workers start once the name resolves."""
    unshared = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if unshared.returncode:
        pytest.skip(f"a process cannot have mounts of its own here: {unshared.stderr.strip()}")
    # The workers' own /etc/hosts. Its file system keeps the time of each access, so that look-ups can be counted.
    name, hosts = "run-0.run.invalid", volume("size=1m,strictatime") / "hosts"
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
        team[0].wait_for_phase("waiting")
        team[1].wait_for_record(lambda record: f"worker 0 does not answer at {name}" in (record.message or ""))
        for _ in range(4):
            last = hosts.stat().st_atime_ns
            wait_until(lambda last=last: hosts.stat().st_atime_ns > last, "another look-up")  # type: ignore[misc]
        assert [worker.process.poll() for worker in team.workers.values()] == [None, None]
        assert {record.joined for record in team[0].records if record.phase == "waiting"} == {0, 1}
        hosts.write_text(f"{before}\n127.0.0.1 {name}\n", encoding="utf-8")
        assert_same(team, undisturbed(flags=SHORT))


def test_a_port_that_is_taken(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """While another process has rank 1's port for TensorFlow, rank 1 tries again with a growing delay."""
    with Team(digits, tmp_path, flags=SHORT) as team:
        host, _, port = team.peers[1][0].rpartition(":")
        with socket.create_server((host, int(port))):
            team.start()
            place = team[1].wait_for_phase("restarting")
            place = team[1].wait_for_phase("restarting", place)
        restarting = team[1].records[place - 1].time
        place = team[1].wait_for_phase("waiting", place)
        assert team[1].records[place - 1].time - restarting > 1
        assert_same(team, undisturbed(flags=SHORT))
        assert set(team[1].reasons()) == {"port-taken"}
        assert (team[0].records[-1].restarts, team[1].records[-1].restarts) == (0, len(team[1].reasons()))


def test_a_trainer_that_stalls(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """A worker's trainer that is stopped in training is replaced after --stall-timeout."""
    with Team(digits, tmp_path, 1, (*ALONE, "--stall-timeout=5")).start() as team:
        place = team[0].wait_for_step(ALONE_EARLY)
        began = time.monotonic()
        team[0].kill_trainer(signal.SIGSTOP)
        place = team[0].wait_for_phase("restarting", place)
        assert time.monotonic() - began > 4
        assert team[0].records[place - 1].message == "the trainer made no progress in phase training for 5 s"
        assert_same(team, undisturbed(1, ALONE))
        assert team[0].reasons() == ["stalled"]


def test_a_clock_that_jumps(digits: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """The workers' clock jumps an hour ahead, back, and ahead again: no timeout passes, and nothing restarts."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("libfaketime is not installed (Debian's package libfaketime)")
    clock = tmp_path / "clock"

    def jump(offset: str) -> None:
        (tmp_path / "next").write_text(offset, encoding="utf-8")
        (tmp_path / "next").replace(clock)

    jump("+0")
    variables = {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    # libfaketime reads the offset once a second. Training outlasts that twice, even on a machine three times as fast.
    epochs = ("--epochs=300",)
    flags = (*epochs, "--join-timeout=60")  # far below an hour, as is the default of --stall-timeout
    with Team(digits, tmp_path / "output", flags=flags, variables=variables).start(0) as team:
        team[0].wait_for_phase("waiting")
        jump("+3600")
        team.start(1)
        team[0].wait_for_step(200)
        jump("-3600")
        place = team[0].wait_for_record(lambda record: abs(record.time + 3600 - time.time()) < 60)
        jump("+3600")
        team[0].wait_for_record(lambda record: abs(record.time - 3600 - time.time()) < 60, place)
        assert_same(team, undisturbed(flags=epochs))
        for worker in team.workers.values():
            assert worker.reasons() == []
            assert worker.records[-1].restarts == 0
        times = [record.time for record in team[0].records]
        differences = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert max(differences) > 3500
        assert min(differences) < -3500


def test_local_workers_that_never_join(digits: Path, tmp_path: Path) -> None:
    """A proxy that refuses, set inside the trainers, keeps TensorFlow apart: one sentence and 75 after four tries."""
    customize = """
        from job.supervisor import supervised_process, watchdog
        watchdog.JOIN_S = 3
        direct = supervised_process.trainer_environment
        supervised_process.trainer_environment = lambda config: direct(config) | {"grpc_proxy": "http://127.0.0.1:9"}
    """
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(customize))
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{processes.ROOT}"}
    ended = processes.run("--data", digits, "--output", tmp_path / "output", "--name=run", "--workers=2", env=path)
    assert ended.code == Exit.TRY_AGAIN
    *others, last = ended.stderr.splitlines()
    assert [line for line in others if "it is started again" in line] == []
    assert last == (
        f"error: worker 0: gave up after {MAX_RESTARTS} restarts without a new step: TensorFlow has not connected the "
        "workers within 3 s, although all have started; check that TensorFlow's port, 2222 in a cluster, is open "
        "between them"
    )
    assert ended.stdout.count("rank=0 phase=joining") == 1 + MAX_RESTARTS
