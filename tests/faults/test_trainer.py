"""Trainers that cannot start, that run out of memory, that die often, and that run for long."""

from __future__ import annotations

import os
import random
import re
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.team import ENDLESS, SHORT, Team, assert_same, copy_with
from tests.job import processes
from tests.job.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = pytest.mark.faults

CGROUPS = Path("/sys/fs/cgroup")
# Enough for the supervisor, which needs a fifth, but not for TensorFlow's trainer to reach its first step.
LITTLE_MEMORY = 200_000_000
SUPERVISOR_BYTES = 60_000_000
# How much a process may grow between two measurements: slack of its allocator, and 400 bytes for each of 500 records.
SLACK_BYTES = {"supervisor": 500_000, "trainer": 2_000_000}
HELD = 2  # connections more or less: rank 0 holds a request of each worker nearly always, but not always
# Over many restarts: on a busy machine, more threads and requests overlap.
RESTARTS_SLACK, RESTARTS_SLACK_BYTES = 8, 1_000_000
KILLS = 10
SAMPLES = 100
LONG = ("--epochs=200",)  # 12,000 steps, so that the kills, at most 200 steps apart, come well before the end

# Replaces the trainer: it crashes before its first step.
CRASHING = """
import os, signal
from job.supervisor.child import run_child

def run(config, cluster, report):
    report("data")
    os.kill(os.getpid(), signal.SIGSEGV)

run_child(run)
"""

# Replaces the trainer: at each start it reports the descriptors and the memory of its supervisor, and is killed.
SHORT_LIVED = """
import os, signal, time
from pathlib import Path
from job import telemetry
from job.supervisor.child import run_child

def run(config, cluster, report):
    fork_server = Path("/proc", str(os.getppid()), "status").read_text()
    supervisor = Path("/proc", fork_server.split("PPid:")[1].split()[0])
    descriptors = len(list((supervisor / "fd").iterdir()))
    resident = int((supervisor / "status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    step = 1 + int(os.environ[telemetry.RESTARTS])
    report("training", step=step, steps=1_000_000, message=f"{descriptors} {resident}")
    os.kill(os.getpid(), signal.SIGKILL)

run_child(run)
"""


def test_a_trainer_that_fails_at_each_start(
    digits: Path, undisturbed: Callable[..., Mapping[str, Any]], tmp_path: Path
) -> None:
    """A trainer that exits with 1 at each start is given up on after three restarts, and its error is shown.

    Repaired, the worker joins the other one again, and the run succeeds.
    """
    broken = copy_with(
        tmp_path, "supervisor/trainer.py", "import sys\nsys.exit('libbroken.so: cannot open shared object file')\n"
    )
    with Team(digits, tmp_path / "output", flags=SHORT) as team:
        team.start(0)
        sound, team.variables = team.variables, team.variables | broken
        team.start(1)
        code, reason, message = team[1].failure()
        assert (code, reason, team[1].records[-1].restarts) == (75, "restarts-used-up", 3)
        assert "the trainer exited with code 1" in message
        assert team[1].reasons() == ["unknown-code"] * 3
        assert any("libbroken.so" in line for line in team[1].errors)
        team.variables = sound
        assert_same(team.start(1), undisturbed(flags=SHORT))


def test_a_trainer_out_of_memory(digits: Path, tmp_path: Path) -> None:
    """A trainer that the kernel kills for lack of memory ends the run at once with 71, and the message says so."""
    with limited_group(LITTLE_MEMORY) as enter, Team(digits, tmp_path, 1) as team:
        team.start()
        enter(team[0].process.pid)
        assert team[0].failure() == (71, "out-of-memory", "the kernel killed the trainer: out of memory")
        assert team[0].reasons() == []


def test_a_trainer_that_crashes_at_each_start(digits: Path, tmp_path: Path) -> None:
    """A trainer that crashes before its first step is given up on after three restarts, with the signal's name."""
    variables = copy_with(tmp_path, "supervisor/trainer.py", CRASHING)
    with Team(digits, tmp_path / "output", 1, variables=variables).start() as team:
        code, reason, message = team[0].failure()
        assert (code, reason, team[0].records[-1].restarts) == (75, "restarts-used-up", 3)
        assert "SIGSEGV" in message
        assert team[0].reasons() == ["killed"] * 3


def test_a_bug_ends_the_run_at_once(digits: Path, tmp_path: Path) -> None:
    """An exception in model.py ends the run with 70, without a restart; file and line are named, and the traceback."""
    model = (processes.ROOT / "job" / "model.py").read_text(encoding="utf-8")
    variables = copy_with(tmp_path, "model.py", model + '\n\ndef init(seed):\n    raise ValueError("no such seed")\n')
    with Team(digits, tmp_path / "output", 1, variables=variables).start() as team:
        place = f"{tmp_path}/job/model.py:{model.count(chr(10)) + 4}"
        assert team[0].failure() == (70, "bug", f"ValueError at {place}: no such seed")
        assert team[0].reasons() == []
        assert any(line.startswith("Traceback") for line in team[0].errors)


def test_random_kills(digits: Path, undisturbed: Callable[..., Mapping[str, Any]], tmp_path: Path) -> None:
    """A run survives ten kills of any rank's trainer or whole worker, each beyond the step of the last one."""
    with Team(digits, tmp_path, 2, LONG).start() as team:
        assert kill_at_random(team, random.Random(26), KILLS) == KILLS  # noqa: S311 - no secret
        assert_same(team, undisturbed(2, LONG))


def test_nothing_grows_over_ten_thousand_steps(digits: Path, tmp_path: Path) -> None:
    """No supervisor and no trainer holds more file descriptors or memory than 10,000 steps earlier."""
    with Team(digits, tmp_path, 2, ENDLESS).start() as team:
        early = held_after(team, 2000)
        late = held_after(team, 12_000)
        peaks = {rank: status_bytes(team[rank].process.pid, "VmHWM") for rank in team.workers}
    for who, (descriptors, resident) in early.items():
        assert late[who][0] <= descriptors + HELD, (who, early, late)
        assert late[who][1] <= resident + SLACK_BYTES[who[0]], (who, early, late)
    assert max(peaks.values()) < SUPERVISOR_BYTES


def test_nothing_grows_over_eighty_restarts(digits: Path, tmp_path: Path) -> None:
    """A supervisor whose trainers die after a step each holds no more descriptors or memory after 80 more.

    The first 20 restarts fill its buffers and the stacks of its threads.
    """
    variables = copy_with(tmp_path, "supervisor/trainer.py", SHORT_LIVED)
    with Team(digits, tmp_path / "output", 2, variables=variables).start() as team:
        for rank in team.workers:
            team[rank].wait_for_record(lambda record: record.restarts > 105)
        for rank in team.workers:
            held = {
                record.restarts: [int(word) for word in (record.message or "").split()]
                for record in team[rank].records
                if record.phase == "training"
            }
            early, late = ([held[n] for n in range(first, first + 5) if n in held] for first in (21, 101))
            assert median(count for count, _ in late) <= median(count for count, _ in early) + RESTARTS_SLACK, held
            assert max(size for _, size in late) <= max(size for _, size in early) + RESTARTS_SLACK_BYTES, held
            assert status_bytes(team[rank].process.pid, "VmHWM") < SUPERVISOR_BYTES


def kill_at_random(team: Team, rng: random.Random, kills: int) -> int:
    """Kill random trainers or workers, each after a step beyond all earlier ones; gives the number of kills.

    Stops early in the run's last tenth, where a kill might come too late.
    """
    furthest = 0
    for number in range(kills):
        worker = team[rng.randrange(team.count)]
        place = worker.wait_for_step(furthest + 1 + rng.randrange(200))
        if (worker.records[place - 1].step or 0) > 0.9 * (worker.records[place - 1].steps or 0):
            return number
        if rng.random() < 0.5:
            worker.kill_trainer()
        else:
            worker.kill()
            worker.exit_code()
        furthest = max(record.step or 0 for each in team.workers.values() for record in list(each.records))
        if worker.process.returncode is not None:
            team.start(worker.rank)
    return kills


@contextmanager
def limited_group(limit: int) -> Iterator[Callable[[int], None]]:
    """Make a cgroup with a memory limit; gives a function that moves a process into it. Skips where that fails."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    own = next(
        (path for _, names, path in (line.split(":", 2) for line in lines) if "memory" in names.split(",")), None
    )
    # In version 2, only the root group may have both processes and a child with limits.
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
        # A process that can swap would not run out of memory.
        for name, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", limit)):
            if (group / name).exists():
                (group / name).write_text(str(value), encoding="utf-8")

        def enter(pid: int) -> None:
            (group / "cgroup.procs").write_text(str(pid), encoding="utf-8")

        yield enter
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(encoding="utf-8"), "the end of its processes")
        group.rmdir()


def held_after(team: Team, step: int) -> dict[tuple[str, int], tuple[float, float]]:
    """The medians of descriptors and of resident bytes, by process, over some records after a step."""
    for worker in team.workers.values():
        worker.wait_for_step(step)
    pids = {("supervisor", rank): worker.process.pid for rank, worker in team.workers.items()}
    pids |= {("trainer", rank): worker.trainer() for rank, worker in team.workers.items()}
    samples: dict[tuple[str, int], list[tuple[int, int]]] = {who: [] for who in pids}
    for _ in range(SAMPLES):
        for who, pid in pids.items():
            samples[who].append((len(list(Path(f"/proc/{pid}/fd").iterdir())), status_bytes(pid, "VmRSS")))
        team[0].wait_for_record(lambda _: True, len(team[0].records))
    return {
        who: (median(count for count, _ in taken), median(size for _, size in taken)) for who, taken in samples.items()
    }


def status_bytes(pid: int, name: str) -> int:
    """A size in bytes from /proc/<pid>/status."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024  # type: ignore[index]
