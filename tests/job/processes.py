"""Runs real commands as processes, watches them, and finds those that survive. Reads /proc, so needs Linux."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TextIO, TypeVar, cast

from job import telemetry
from job.system import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from job.telemetry import Record

ROOT = Path(__file__).parents[2]
IDENTITY = ("PEERS", "TF_CONFIG", "RUN", "JOB_NAME", "JOB_UID", "JOB_COMPLETION_INDEX", "WORKERS", "SERVICE")
DEADLINE_S = 300.0  # a machine with other work may need minutes where a quiet one needs seconds
T = TypeVar("T")
REAP_S = 5.0  # for the kernel to end killed processes


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without a cluster's variables, and with the given ones."""
    inherited = {name: value for name, value in os.environ.items() if name not in IDENTITY}
    return inherited | {"PYTHONPATH": str(ROOT)} | dict(variables or {})


def command(*arguments: object) -> list[str]:
    """The command line of `python -m job train` with arguments."""
    return [sys.executable, "-m", "job", "train", *map(str, arguments)]


def run(*arguments: object, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Ended:
    """Run `python -m job train` to its end."""
    started = time.monotonic()
    ended = subprocess.run(
        command(*arguments),
        check=False,
        capture_output=True,
        cwd=cwd,
        env=environment(env),
        text=True,
        timeout=DEADLINE_S,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr, time.monotonic() - started)


class RunningCommand:
    """A running command whose output is read continuously. Killed at the end of a `with`.

    The kernel kills it also when this process, or the thread that started it, ends in another way.

    Args:
        words: the command: `python -m job`, or one that execs it.
        env: its environment.
        options: more arguments of subprocess.Popen.

    Attributes:
        records: the records on its standard output so far.
        errors: the lines on its standard error so far.
    """

    def __init__(self, words: list[str], env: Mapping[str, str], **options: Any) -> None:
        self.records: list[Record] = []
        self.errors: list[str] = []
        self._changed = threading.Condition()
        self._is_read = False
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**env, process.PARENT: str(os.getpid())},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            below = descendants(self.process.pid)
            self.kill()
            surviving(below)  # until they have ended, they write to folders that the caller may remove next
        self.exit_code()
        cast("TextIO", self.process.stdout).close()
        cast("TextIO", self.process.stderr).close()

    def _read(self) -> None:
        for record in telemetry.read_records(cast("TextIO", self.process.stdout)):
            with self._changed:
                self.records.append(record)
                self._changed.notify_all()
        with self._changed:
            self._is_read = True
            self._changed.notify_all()

    def _read_errors(self) -> None:
        self.errors.extend(cast("TextIO", self.process.stderr))

    def wait_for_record(self, is_expected: Callable[[Record], object], after: int = 0) -> int:
        """Wait for an expected record beyond the first `after` records; returns the number of records up to it."""
        deadline = time.monotonic() + DEADLINE_S
        with self._changed:
            while True:
                for place in range(after, len(self.records)):
                    if is_expected(self.records[place]):
                        return place + 1
                after = len(self.records)
                remaining_s = deadline - time.monotonic()
                last = f"{self.records[-3:]} {self.errors[-5:]}"
                assert not self._is_read, f"{self.process.args!r} ended before the expected record: {last}"
                assert remaining_s > 0, f"{self.process.args!r} sent no expected record in time: {last}"
                self._changed.wait(remaining_s)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()

    def exit_code(self, seconds: float = DEADLINE_S) -> int:
        """Its exit code, negative if a signal killed it; waits for its exit."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code


class LocalRun(RunningCommand):
    """A running `python -m job train` in local mode.

    Args:
        arguments: of `train`.
        variables: more environment variables.
    """

    def __init__(self, *arguments: object, variables: Mapping[str, str] | None = None) -> None:
        # nohup makes the tests ignore SIGHUP, and their child processes would inherit that.
        restore = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
        super().__init__(command(*arguments), environment(variables), preexec_fn=restore)

    def wait_for(self, *phases: tuple[int, str]) -> None:
        """Wait until each of these ranks has reported this phase."""
        missing = set(phases)

        def is_last(record: Record) -> bool:
            missing.discard((record.rank, record.phase))
            return not missing

        self.wait_for_record(is_last)

    def wait(self) -> tuple[int, str, float]:
        """Its exit code, standard error, and the seconds from this call to its exit."""
        started = time.monotonic()
        self.process.wait(DEADLINE_S)
        seconds = time.monotonic() - started
        return self.exit_code(), "".join(self.errors), seconds

    def supervisors(self) -> list[int]:
        """The process ids of the supervisors, in the order of their starts, which is at first that of their ranks."""
        own = set(self._children()) - set(self.fork_servers())
        # Not in the order of the process ids, which begin again after the highest one.
        return [pid for _, pid in sorted((int(start), pid) for pid, (_, start) in processes().items() if pid in own)]

    def fork_servers(self) -> list[int]:
        """The process id of the fork server, if there is one."""
        return [pid for pid in self._children() if is_fork_server(pid)]

    def _children(self) -> list[int]:
        return [pid for pid, (parent, _) in processes().items() if parent == self.process.pid]


def wait_until(condition: Callable[[], T], what: str, seconds: float = DEADLINE_S, poll_s: float = 0.001) -> T:
    """Wait until a condition gives a true value; returns it. `what` names the condition in the failure."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(poll_s)
    return value


def pending(pid: int, number: int) -> bool:
    """Whether a signal is pending for a stopped process, or the process has been killed already."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True
    mask = int(status.partition("ShdPnd:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def processes() -> dict[int, tuple[int, str]]:
    """The parent and the start time of each process that is not a zombie, by process id."""
    running = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name before these fields may contain any character, even `)`.
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if fields[0] not in "ZX":
            running[int(path.parent.name)] = (int(fields[1]), fields[19])
    return running


def is_fork_server(pid: int) -> bool:
    """Whether a process is a fork server, and not one that it forked."""
    return _read(pid, "cmdline").split("\0")[2:3] == ["job.supervisor.fork_server"] and not _is_trainer(pid)


def trainers(supervisor: int) -> list[int]:
    """The trainers of a supervisor: those that have the other end of a pipe of its."""
    pipes = _pipes(supervisor)
    return [pid for pid in processes() if _is_trainer(pid) and pipes & _pipes(pid)]


def _is_trainer(pid: int) -> bool:
    return _read(pid, "comm") == "trainer\n"


def _pipes(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):  # it, or one of its files, is gone
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(file.readlink()))
    return {name for name in found if name.startswith("pipe:")}


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def descendants(ancestor: int) -> set[tuple[int, str]]:
    """Process id and start time of every process below one."""
    running = processes()
    below = {ancestor}
    for _ in running:
        more = {pid for pid, (parent, _) in running.items() if parent in below} - below
        if not more:
            break
        below |= more
    return {(pid, running[pid][1]) for pid in below - {ancestor}}


def surviving(expected: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
    """Which of these processes still run a while after all of them were killed."""
    deadline = time.monotonic() + REAP_S
    remaining = set(expected)
    while remaining and time.monotonic() < deadline:
        running = processes()
        remaining = {(pid, start) for pid, start in remaining if running.get(pid, (0, ""))[1] == start}
    return remaining


def contents(folder: Path, *, logs: bool = True) -> dict[str, object]:
    """What a folder holds, by path: bytes of files, targets of links, None for folders. Empty if it does not exist.

    Without `logs`, the logs of workers are left out: they grow also when nothing else changes.
    """

    def content(path: Path) -> object:
        if path.is_symlink():
            return path.readlink()
        return path.read_bytes() if path.is_file() else None

    paths = [path for path in [folder, *folder.rglob("*")] if folder.exists() and (logs or "/logs" not in str(path))]
    return {str(path.relative_to(folder)): content(path) for path in paths}
