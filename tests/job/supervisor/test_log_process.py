"""The process that writes a worker's log: nobody waits for it, and lost lines are reported once."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from typing import TYPE_CHECKING

from job.output.log_file import LogFile
from job.supervisor.log_process import LogProcess
from tests.job.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Hanging(LogFile):
    """A log on a volume that hangs as long as the file `hangs` is there."""

    def append(self, lines: bytes) -> None:
        """Wait, and write."""
        while (self.root / "hangs").exists():
            time.sleep(0.01)
        super().append(lines)


def started(file: LogFile) -> tuple[LogProcess, list[str]]:
    """A process, and what it says."""
    said: list[str] = []
    (file.root / "runs/r").mkdir(parents=True, exist_ok=True)
    process = LogProcess(file, "pod-a")
    process.listen(said.append)
    return process, said


def texts(file: LogFile) -> list[str]:
    """The lines of a log without their times."""
    return [line.split(" ", 1)[1] for line in file.path.read_text("utf-8").splitlines()]


def test_each_line_has_its_time_and_its_pod(tmp_path: Path) -> None:
    """The times are those of kubectl's --timestamps, and rise."""
    file = LogFile(tmp_path, "r", 1)
    process, said = started(file)
    process.write("one")
    process.write('two words="x y"')
    process.close(60)
    lines = file.path.read_text("utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z pod-a ", line) for line in lines)
    assert lines == sorted(lines)
    assert (texts(file), said) == (["pod-a one", 'pod-a two words="x y"'], [])


def test_a_volume_that_hangs_delays_nobody(tmp_path: Path) -> None:
    """Lines for which there is no room are lost, which is said once; the others are written once it answers."""
    file = Hanging(tmp_path, "r", 0)
    (tmp_path / "hangs").touch()
    process, said = started(file)
    for number in range(3000):
        process.write(f"{number} " + 5000 * "x" * (number % 7 == 0))
    assert said == [
        f"lines are missing from {file.path}: the volume does not answer in time; the run does not need this file"
    ]
    (tmp_path / "hangs").unlink()
    wait_until(file.path.exists, "the log")
    for again in range(3000):
        process.write(f"again {again}")
        time.sleep(0 if again % 50 else 0.001)
    process.close(60)
    lines = texts(file)
    numbers = [int(line.split()[1]) for line in lines if "again" not in line]
    assert numbers == sorted(set(numbers))
    assert 10 < len(numbers) < 3000
    assert lines[: len(numbers)] == [f"pod-a {n} " + 5000 * "x" * (n % 7 == 0) for n in numbers]
    after = [int(line.split()[2]) for line in lines[len(numbers) :]]
    assert after == sorted(set(after))
    assert after
    assert len(said) == 1


def test_a_volume_that_is_slow(tmp_path: Path) -> None:
    """Lines wait until the pipe takes them, however long one is, and at the end too: the last says how it ended."""
    file = Hanging(tmp_path, "r", 0)
    (tmp_path / "hangs").touch()
    process, said = started(file)
    lines = [*(f"{number} {400 * 'x'}" for number in range(500)), 300_000 * "y", "phase=failed"]
    for line in lines:
        process.write(line)
    (tmp_path / "hangs").unlink()
    process.close(60)
    assert texts(file) == [f"pod-a {line}" for line in lines]
    assert said == []


def test_a_volume_that_hangs_at_the_end(tmp_path: Path) -> None:
    """The worker ends soon, says that lines are missing, and takes the process with it."""
    file = Hanging(tmp_path, "r", 0)
    (tmp_path / "hangs").touch()
    process, said = started(file)
    process.write("last")
    process.close(0.1)
    assert said == [
        f"lines are missing from {file.path}: the volume does not answer in time; the run does not need this file"
    ]
    os.waitpid(process._pid, 0)


def test_a_line_written_while_the_log_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread may say that lines are missing while another closes the log: the line is written, or left out."""
    write, writing = os.write, threading.Event()

    def write_slowly(number: int, data: bytes) -> int:
        with memoryview(data):  # as os.write() holds it
            if b"late" in bytes(data) and not writing.is_set():
                writing.set()
                time.sleep(0.1)  # close() is called meanwhile
            return write(number, data)

    file = LogFile(tmp_path, "r", 0)
    process, said = started(file)
    process.write("early")
    monkeypatch.setattr(os, "write", write_slowly)
    thread = threading.Thread(target=process.write, args=("late",))
    thread.start()
    assert writing.wait(60)
    process.close(60)
    thread.join(60)
    process.write("too late")
    assert (texts(file), said) == (["pod-a early", "pod-a late"], [])


def test_a_volume_that_cannot_be_written(tmp_path: Path) -> None:
    """The cause is said once; later lines are written once the volume can be written."""
    file = LogFile(tmp_path, "r", 0)
    process, said = started(file)
    file.path.parent.write_bytes(b"")
    process.write("lost")
    wait_until(lambda: said, "the problem")
    file.path.parent.unlink()
    process.write("kept")
    process.close(60)
    assert texts(file) == ["pod-a kept"]
    assert len(said) == 1
    assert said[0].startswith(f"lines are missing from {file.path}: ")


def test_nothing_is_written_before_the_run_has_begun(tmp_path: Path) -> None:
    """Rank 0 makes the run's folder; what was said before follows then. A run that never begins leaves nothing."""
    file = LogFile(tmp_path / "output", "r", 0)
    process = LogProcess(file, "pod-a")
    said: list[str] = []
    process.listen(said.append)
    process.write("early")
    process.write("and often")
    assert not (tmp_path / "output").exists()
    (tmp_path / "output/runs/r").mkdir(parents=True)
    process.write("later")
    process.close(60)
    assert (texts(file), said) == (["pod-a early", "pod-a and often", "pod-a later"], [])
    never = LogProcess(LogFile(tmp_path / "never", "r", 0), "pod-a")
    never.listen(said.append)
    never.write("lost")
    never.close(60)
    assert (list(tmp_path.iterdir()), said) == ([tmp_path / "output"], [])


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """Later lines are lost, and that is said."""
    file = LogFile(tmp_path, "r", 0)
    process, said = started(file)
    os.kill(process._pid, signal.SIGKILL)
    wait_until(lambda: said, "the problem")
    process.write("lost")
    process.close(60)
    assert said == [
        f"lines are missing from {file.path}: the process that writes it has ended; the run does not need this file"
    ]


def test_no_room_for_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on without a log, and says so."""

    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    file = LogFile(tmp_path, "r", 0)
    process, said = started(file)
    process.write("lost")
    process.close(60)
    assert said == [
        f"lines are missing from {file.path}: Resource temporarily unavailable; the run does not need this file"
    ]
