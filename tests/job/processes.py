"""Real commands as processes: starts them, watches them, and finds those that survive. Linux only: reads /proc."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, TextIO, cast

from job import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from job.telemetry import Record

ROOT = Path(__file__).parents[2]
IDENTITY = ("PEERS", "TF_CONFIG", "RUN", "JOB_NAME", "JOB_UID", "JOB_COMPLETION_INDEX", "WORKERS", "SERVICE")
DEADLINE_S = 60.0


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
    """The words of `python -m job train` with arguments."""
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
    """A running `python -m job train` whose output is read continuously. Killed at the end of a `with`."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # nohup makes the tests ignore the signal, and their child processes would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 - it starts no thread
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        streams = ((self.process.stdout, self._lines.put), (self.process.stderr, self._errors.append))
        self._readers = [threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        cast("TextIO", self.process.stdout).close()
        cast("TextIO", self.process.stderr).close()

    def _read(self, stream: TextIO, take: Callable[[str], None]) -> None:
        for line in stream:
            take(line)
        if stream is self.process.stdout:
            self._lines.put(None)

    def wait_for(self, *phases: tuple[int, str]) -> None:
        """Wait until each of these ranks has reported this phase."""
        missing = set(phases)
        while missing:
            line = self._lines.get(timeout=DEADLINE_S)
            assert line is not None, f"ended before {missing}: {self._errors}"
            record: Record | None = telemetry.parse(line)
            if record:
                missing.discard((record.rank, record.phase))

    def signal(self, number: int) -> None:
        """Send a signal to the command's process alone."""
        os.kill(self.process.pid, number)

    def wait(self) -> tuple[int, str, float]:
        """Its exit code, standard error, and the seconds from this call to its exit."""
        started = time.monotonic()
        code = self.process.wait(DEADLINE_S)
        seconds = time.monotonic() - started
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code, "".join(self._errors), seconds

    def supervisors(self) -> list[int]:
        """The process ids of the supervisors, in the order of their ranks."""
        return [pid for pid, (parent, _) in sorted(processes().items()) if parent == self.process.pid]


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
    """Which of these processes still run; the kernel has a second to end the killed ones."""
    deadline = time.monotonic() + 1
    remaining = set(expected)
    while remaining and time.monotonic() < deadline:
        running = processes()
        remaining = {(pid, start) for pid, start in remaining if running.get(pid, (0, ""))[1] == start}
    return remaining


def contents(folder: Path) -> dict[str, object]:
    """What a folder holds: bytes of files, targets of links, None for folders; empty if it does not exist."""

    def content(path: Path) -> object:
        if path.is_symlink():
            return path.readlink()
        return path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(folder)): content(path) for path in [folder, *folder.rglob("*")] if folder.exists()}
