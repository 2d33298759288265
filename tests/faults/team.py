"""The workers of one run, started as pods start them; tests watch, stop and kill them. Needs Linux."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.job import processes
from tests.job.processes import RunningCommand, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN = "run"
BEFORE = "before"  # a run that was published earlier
# 100 epochs of 60 steps: two workers train for several seconds, so that a test that the machine delays is not late.
EPOCHS, STEPS = 100, 6000
FLAGS = (f"--epochs={EPOCHS}", "--evaluate-every=0", "--log-every=20", "--learning-rate=0.5")
ENDLESS = ("--epochs=1000000",)  # for tests that need no end of the training
SHORT = ("--epochs=5",)  # for tests that need no moment in training
# For one worker, which makes twenty times as many steps a second.
ALONE_EARLY = 6000
ALONE = ("--epochs=200", "--batch-size=10", "--log-every=600")  # 120,000 steps, a checkpoint every 600
# Below the ports that the kernel assigns to others, and at a distance from those of other test processes.
_PORTS = itertools.count(10_000 + os.getpid() * 997 % 20_000)


class Worker(RunningCommand):
    """One supervisor. Killed with its trainer at the end of a `with`.

    Args:
        rank: its rank.
        arguments: of `python -m job train`.
        variables: environment variables of the run and of the rank.
        wrapper: a command that execs the command after it.
    """

    def __init__(
        self, rank: int, arguments: list[str], variables: Mapping[str, str], wrapper: tuple[str, ...] = ()
    ) -> None:
        words = [*wrapper, *processes.command(*arguments)]
        super().__init__(words, processes.environment(variables), start_new_session=True)
        self.rank = rank

    def wait_for_phase(self, phase: str, after: int = 0) -> int:
        """Wait for a phase."""
        return self.wait_for_record(lambda record: record.phase == phase, after)

    def wait_for_step(self, step: int, after: int = 0) -> int:
        """Wait until training has completed this step or a later one."""
        return self.wait_for_record(lambda record: record.phase == "training" and (record.step or 0) >= step, after)

    def trainer(self) -> int:
        """The process id of its trainer; waits for one."""
        [pid] = wait_until(self._trainers, f"a trainer of worker {self.rank}")
        return pid

    def fork_server(self) -> int:
        """The process id of its fork server."""
        [pid] = filter(processes.is_fork_server, (pid for pid, _ in processes.descendants(self.process.pid)))
        return pid

    def _trainers(self) -> list[int]:
        assert self.process.poll() is None, (self.process.returncode, self.records[-3:], self.errors)
        return processes.trainers(self.process.pid)

    def kill_trainer(self, number: int = signal.SIGKILL) -> None:
        """Send its trainer a signal."""
        os.kill(self.trainer(), number)

    def kill(self) -> None:
        """Kill supervisor and trainer together, as the loss of a node does, or the kernel under cgroup v2."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """Send the supervisor SIGTERM, as a drain does."""
        self.process.terminate()

    def failure(self) -> tuple[int, str, str]:
        """Its exit code, and the reason and the message of its last record, which has the same code."""
        code, last = self.exit_code(), self.records[-1]
        assert (last.phase, last.code) == ("failed", code), (self.records[-3:], self.errors)
        return code, last.reason or "", last.message or ""

    def phases(self) -> list[str]:
        """Its phases in order, without immediate repetitions."""
        phases: list[str] = []
        for record in self.records:
            if phases[-1:] != [record.phase]:
                phases.append(record.phase)
        return phases

    def reasons(self, phase: str = "restarting") -> list[str]:
        """The reason in each record of a phase."""
        return [record.reason or "" for record in self.records if record.phase == phase]


def copy_with(folder: Path, name: str, source: str) -> dict[str, str]:
    """Copy the package job and replace one module; gives the environment variables with which the copy runs."""
    shutil.copytree(processes.ROOT / "job", folder / "job", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "job" / name).write_text(source, encoding="utf-8")
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}  # without the current folder


# Added to model.py: rank 0 calls layers() once before the training, and again in the middle of a publication.
GATE = """

import pathlib, time

_drawn, _calls = layers, []

def layers(params):
    _calls.append(1)
    while len(_calls) > 1 and pathlib.Path({gate!r}).exists():
        time.sleep(0.01)
    return _drawn(params)
"""


def publishes_through_a_gate(folder: Path) -> tuple[dict[str, str], Path]:
    """A copy of the package job whose publication waits half-way, until a file is removed.

    Returns:
        The environment variables with which the copy runs, and the file.
    """
    gate = folder / "gate"
    gate.touch()
    source = (processes.ROOT / "job" / "model.py").read_text(encoding="utf-8")
    return copy_with(folder, "model.py", source + GATE.format(gate=str(gate))), gate


class Team:
    """The workers of one run, on ports of their own. All are killed at the end of a `with`.

    Args:
        data: the data folder.
        output: the output folder.
        count: the number of workers.
        flags: of `python -m job train`, after FLAGS.
        variables: more environment variables.
        uid: the Job's.
        wrapper: a command that execs each worker's command.
    """

    def __init__(
        self,
        data: Path,
        output: Path,
        count: int = 2,
        flags: tuple[str, ...] = (),
        variables: Mapping[str, str] | None = None,
        uid: str = "uid-1",
        wrapper: tuple[str, ...] = (),
    ) -> None:
        self.output, self.count, self.wrapper = output, count, wrapper
        self.arguments = [f"--data={data}", f"--output={output}", *FLAGS, *flags]
        self.variables = {"RUN": RUN, "JOB_UID": uid, "WORKERS": str(count), **(variables or {})}
        self.peers = [[f"127.0.0.1:{port}" for port in pair] for pair in _free_ports(count)]
        self.workers: dict[int, Worker] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.kill()
        self._stack.close()

    def __getitem__(self, rank: int) -> Worker:
        return self.workers[rank]

    def start(self, *ranks: int) -> Self:
        """Start these workers, or all of them. A worker that has ended is replaced, as the Job controller does."""
        for rank in ranks or range(self.count):
            identity = {"JOB_COMPLETION_INDEX": str(rank), "PEERS": json.dumps(self.peers)}
            worker = Worker(rank, self.arguments, self.variables | identity, self.wrapper)
            self.workers[rank] = self._stack.enter_context(worker)
        return self

    def exit_codes(self) -> list[int]:
        """The exit codes by rank; waits for all workers."""
        return [self.workers[rank].exit_code() for rank in range(self.count)]

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.output / "runs" / RUN / "checkpoints"

    @property
    def model(self) -> Path:
        """The published folder."""
        return self.output / "models" / RUN

    def sound_checkpoints(self) -> dict[str, bytes]:
        """The checkpoints by name, without the temporary file of a killed process."""
        return {path.name: path.read_bytes() for path in self.checkpoints.glob("*.safetensors")}

    def result(self) -> dict[str, Any]:
        """What two runs with the same result have in common: the parameters' SHA-256 and the report's test figures."""
        report = json.loads((self.model / "report.json").read_bytes())
        return {"parameters_sha256": report["parameters_sha256"], "test": report["test"]}

    def publications(self) -> list[str]:
        """What is in models/, hidden leftovers too."""
        return sorted(path.name for path in (self.output / "models").iterdir())


def assert_same(team: Team, undisturbed: Mapping[str, Any]) -> None:
    """All workers exited with 0, and the run is published with the result of the undisturbed run."""
    codes = team.exit_codes()
    last = {rank: (worker.records[-2:], worker.errors[-5:]) for rank, worker in team.workers.items()}
    assert codes == [0] * team.count, last
    assert_published(team, undisturbed)


def assert_published(team: Team, undisturbed: Mapping[str, Any], *other_runs: str) -> None:
    """The run and these others are published, nothing is left half-done, and the result is the undisturbed run's."""
    assert team.publications() == sorted([RUN, *other_runs])
    assert (team.output / "latest").readlink() == Path("models") / RUN
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=team.model, check=False)
    assert checked.returncode == 0
    assert team.result() == undisturbed


def _free_ports(count: int) -> list[tuple[int, int]]:
    """Two free ports for each worker, which no other team of this process gets."""
    ports: list[int] = []
    while len(ports) < 2 * count:
        port = next(_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    return list(zip(ports[:count], ports[count:], strict=True))
