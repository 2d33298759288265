"""Trainers that cannot start, that the kernel ends, that die often, and that run for long."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.team import Team, assert_same
from tests.job import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = pytest.mark.faults

CGROUPS = Path("/sys/fs/cgroup")
# The supervisor takes a fifth of it, and TensorFlow's trainer takes more than all of it before its first step.
LITTLE_MEMORY = 200_000_000
SUPERVISOR_BYTES = 60_000_000
# What a process may grow between two moments: its allocator's slack, and 400 bytes for each of 500 records.
SLACK_BYTES = {"supervisor": 500_000, "trainer": 2_000_000}
KILLS = 20
# 300 epochs of 60 steps, of which each of the kills costs some.
LONG = ("--epochs=300",)

# In place of the trainer: at each start it tells what its supervisor holds, and is killed as a fault kills.
SHORT_LIVED = """
import os, signal, time
from pathlib import Path
from job import telemetry
from job.supervisor.child import run_child

def run(config, cluster, report):
    there = Path("/proc", str(os.getppid()))
    descriptors = len(list((there / "fd").iterdir()))
    resident = int((there / "status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    step = 1 + int(os.environ[telemetry.RESTARTS])
    report("training", step=step, steps=1_000_000, message=f"{descriptors} {resident}")
    os.kill(os.getpid(), signal.SIGKILL)

run_child(run)
"""


def test_a_trainer_that_fails_at_each_start_is_given_up_with_the_cause(
    digits: Path, quiet: Callable[..., Mapping[str, Any]], tmp_path: Path
) -> None:
    """Rank 1's trainer ends with 1 at each start: after three restarts 75 and why; repaired: the quiet run's model."""
    broken = copy_with(
        tmp_path, "supervisor/trainer.py", "import sys\nsys.exit('libbroken.so: cannot open shared object file')\n"
    )
    with Team(digits, tmp_path / "output") as team:
        team.start(0)
        sound, team.variables = team.variables, team.variables | broken
        team.start(1)
        assert team[1].code() == 75
        assert team[1].reasons() == ["unknown-code"] * 3
        [failed] = [record for record in team[1].records if record.phase == "failed"]
        assert (failed.code, failed.reason, failed.restarts) == (75, "restarts-used-up", 3)
        assert "the trainer exited with code 1" in (failed.message or "")
        assert any("libbroken.so" in line for line in team[1].errors)
        team.variables = sound
        assert_same(team.start(1), quiet())


def test_a_trainer_killed_by_the_kernel_for_memory(digits: Path, tmp_path: Path) -> None:
    """The only rank, in a group with little memory, before its first step: 71, the cause named, nothing restarted."""
    with limited_group(LITTLE_MEMORY) as enter, Team(digits, tmp_path, 1) as team:
        team.start()
        enter(team[0].process.pid)
        assert team.codes() == [71]
        [failed] = [record for record in team[0].records if record.phase == "failed"]
        assert (failed.code, failed.reason) == (71, "out-of-memory")
        assert failed.message == "the kernel killed the trainer: out of memory"
        assert team[0].reasons() == []


def test_a_worker_killed_as_a_whole_is_taken_up_again(
    digits: Path, quiet: Callable[..., Mapping[str, Any]], tmp_path: Path
) -> None:
    """Rank 0's supervisor and trainer killed at once in training, as for memory under cgroup v2: same model."""
    with Team(digits, tmp_path).start() as team:
        team[0].until_step(900)
        team[0].kill()
        assert team[0].code() == -signal.SIGKILL
        assert_same(team.start(0), quiet())


def test_a_trainer_that_crashes_at_each_start_is_given_up(digits: Path, tmp_path: Path) -> None:
    """The only rank, SIGSEGV at each start, before a step: three restarts, then 75 with the signal's name."""
    with Team(digits, tmp_path, 1).start() as team:
        place = 0
        for _ in range(4):
            place = team[0].until_phase("data", place)
            team[0].kill_trainer(signal.SIGSEGV)
        assert team.codes() == [75]
        assert team[0].reasons() == ["killed"] * 3
        [failed] = [record for record in team[0].records if record.phase == "failed"]
        assert (failed.code, failed.reason, failed.restarts) == (75, "restarts-used-up", 3)
        assert "SIGSEGV" in (failed.message or "")


def test_a_trainer_that_crashes_once_is_started_again(
    digits: Path, quiet: Callable[..., Mapping[str, Any]], tmp_path: Path
) -> None:
    """Rank 1, SIGSEGV in training: started again in place, the cause named; same model."""
    with Team(digits, tmp_path).start() as team:
        team[1].until_step(600)
        team[1].kill_trainer(signal.SIGSEGV)
        assert_same(team, quiet())
        [restarting] = [record for record in team[1].records if record.phase == "restarting"]
        assert (restarting.reason, restarting.restarts) == ("killed", 1)
        assert "SIGSEGV" in (restarting.message or "")


def test_a_bug_ends_the_run_at_once(digits: Path, tmp_path: Path) -> None:
    """The only rank, whose model.py raises: 70 without a restart, file and line named, the traceback shown."""
    model = (processes.ROOT / "job" / "model.py").read_text(encoding="utf-8")
    variables = copy_with(tmp_path, "model.py", model + '\n\ndef init(seed):\n    raise ValueError("no such seed")\n')
    with Team(digits, tmp_path / "output", 1, variables=variables).start() as team:
        assert team.codes() == [70]
        assert team[0].reasons() == []
        [failed] = [record for record in team[0].records if record.phase == "failed"]
        place = f"{tmp_path}/job/model.py:{model.count(chr(10)) + 4}"
        assert (failed.code, failed.reason) == (70, "bug")
        assert failed.message == f"ValueError at {place}: no such seed"
        assert any(line.startswith("Traceback") for line in team[0].errors)


def test_twenty_random_kills(digits: Path, quiet: Callable[..., Mapping[str, Any]], tmp_path: Path) -> None:
    """Any rank, its trainer or the whole worker, each after a step beyond the last kill's: same model."""
    with Team(digits, tmp_path, 2, LONG).start() as team:
        assert kill_at_random(team, random.Random(26), KILLS) == KILLS  # noqa: S311 - no secret
        assert_same(team, quiet(2, LONG))


def test_nothing_grows_over_ten_thousand_steps(digits: Path, tmp_path: Path) -> None:
    """Both ranks, supervisor and trainer: file descriptors and memory at steps 2,000 to 4,000 and 10,000 later."""
    with Team(digits, tmp_path, 2, ("--epochs=240",)).start() as team:
        early = held_between(team, 2000, 4000)
        late = held_between(team, 12_000, 14_000)
        peaks = {rank: status_bytes(team[rank].process.pid, "VmHWM") for rank in team.workers}
        assert team.codes() == [0, 0]
    for who, (descriptors, resident) in early.items():
        assert late[who][0] <= descriptors, (who, early, late)
        assert late[who][1] <= resident + SLACK_BYTES[who[0]], (who, early, late)
    assert max(peaks.values()) < SUPERVISOR_BYTES


def test_nothing_grows_over_twenty_restarts(digits: Path, tmp_path: Path) -> None:
    """Both ranks' supervisors, whose trainers die after a step each: descriptors and memory at 20 later restarts."""
    variables = copy_with(tmp_path, "supervisor/trainer.py", SHORT_LIVED)
    with Team(digits, tmp_path / "output", 2, variables=variables).start() as team:
        for rank in team.workers:
            team[rank].until(lambda record: record.restarts > 25)
        for rank in team.workers:
            held = {
                record.restarts: [int(word) for word in (record.message or "").split()]
                for record in team[rank].records
                if record.phase == "training"
            }
            early, late = ([held[number] for number in held if number in range(first, first + 5)] for first in (1, 21))
            # The least of five, for a request of a peer's holds one while it is answered.
            assert min(descriptors for descriptors, _ in late) <= min(descriptors for descriptors, _ in early), held
            assert (
                max(resident for _, resident in late)
                <= max(resident for _, resident in early) + SLACK_BYTES["supervisor"]
            )
            assert status_bytes(team[rank].process.pid, "VmHWM") < SUPERVISOR_BYTES


def kill_at_random(team: Team, rng: random.Random, kills: int) -> int:
    """Kill any worker's trainer, or the worker, again and again, each beyond the furthest step so far; how many times.

    Stops before the run's last tenth, in which a kill might come too late.
    """
    furthest = 0
    for number in range(kills):
        worker = team[rng.randrange(team.count)]
        place = worker.until_step(furthest + 1 + rng.randrange(200))
        if (worker.records[place - 1].step or 0) > 0.9 * (worker.records[place - 1].steps or 0):
            return number
        if rng.random() < 0.5:
            worker.kill_trainer()
        else:
            worker.kill()
            worker.code()
        furthest = max(record.step or 0 for each in team.workers.values() for record in list(each.records))
        if worker.process.returncode is not None:
            team.start(worker.rank)
    return kills


def copy_with(folder: Path, name: str, source: str) -> dict[str, str]:
    """A copy of the project with one module replaced; returns the environment in which it is the one that runs."""
    shutil.copytree(processes.ROOT / "job", folder / "job", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "job" / name).write_text(source, encoding="utf-8")
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}  # which leaves out the folder where it is started


@contextmanager
def limited_group(limit: int) -> Iterator[Callable[[int], None]]:
    """A cgroup that may use so many bytes; gives what puts a process into it. Skips where none can be made."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    own = next(
        (path for _, names, path in (line.split(":", 2) for line in lines) if "memory" in names.split(",")), None
    )
    # Version 2's groups with processes of their own take no limited child, but for the root.
    parents = [CGROUPS] if own is None else [CGROUPS / "memory" / own.lstrip("/"), CGROUPS / "memory"]
    group = next((path for path in parents if path.is_dir()), CGROUPS) / f"faults-{os.getpid()}"
    files = ("memory.max",) if own is None else ("memory.limit_in_bytes",)
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not all((group / name).exists() for name in files):
            pytest.skip(f"no control group here limits memory: {group} has no {files[0]}")
        for name in files:
            (group / name).write_text(str(limit), encoding="utf-8")
        # Memory that is swapped out is not missed.
        for name, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", limit)):
            if (group / name).exists():
                (group / name).write_text(str(value), encoding="utf-8")

        def enter(pid: int) -> None:
            (group / "cgroup.procs").write_text(str(pid), encoding="utf-8")

        yield enter
    finally:
        group.rmdir()


def held_between(team: Team, first: int, last: int) -> dict[tuple[str, int], tuple[int, float]]:
    """The least number of descriptors and the median resident bytes of each process while all are between two steps."""
    for worker in team.workers.values():
        worker.until_step(first)
    those = {("supervisor", rank): worker.process.pid for rank, worker in team.workers.items()}
    those |= {("trainer", rank): worker.trainer() for rank, worker in team.workers.items()}
    samples: dict[tuple[str, int], list[tuple[int, int]]] = {who: [] for who in those}
    while all((worker.records[-1].step or 0) < last for worker in team.workers.values()):
        for who, pid in those.items():
            samples[who].append((len(list(Path(f"/proc/{pid}/fd").iterdir())), status_bytes(pid, "VmRSS")))
        team[0].until(lambda _: True, len(team[0].records))
    return {
        who: (min(count for count, _ in found), median(size for _, size in found)) for who, found in samples.items()
    }


def status_bytes(pid: int, name: str) -> int:
    """A size in bytes from /proc/<pid>/status."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024  # type: ignore[index]
