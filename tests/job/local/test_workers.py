"""Workers on this machine: what ends them, what each end looks like, and that none is left behind."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job import telemetry
from job.config import Config
from job.errors import Exit, JobError
from job.local import workers as local
from job.local.display import Lines
from job.supervisor import restart_policy as restarts
from job.telemetry import Record
from tests.job import processes
from tests.job.processes import Watched, contents, descendants, left

if TYPE_CHECKING:
    from tests.job.conftest import Trained

CTRL_C_S = 2.0
BOTH_STARTED = ((0, "data"), (1, "data"))
BOTH_TRAIN = ((0, "training"), (1, "training"))


@pytest.fixture
def endless(prepared: Path, tmp_path: Path) -> list[object]:
    """The arguments of a run of two workers that takes hours."""
    flags = ["--workers=2", "--epochs=1000000", "--evaluate-every=0", "--schedule=constant", "--learning-rate=1e-6"]
    return ["--data", prepared, "--output", tmp_path / "output", "--name=run", *flags]


def published(output: Path) -> list[str]:
    """What an output folder holds beyond the folder of the run."""
    return sorted(path.name for path in output.glob("*") if path.name != "runs") if output.exists() else []


@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [
        (signal.SIGINT, Exit.INTERRUPTED, "error: interrupted by Ctrl-C\n"),
        (
            signal.SIGTERM,
            Exit.TRY_AGAIN,
            "error: stopped early; running the same command again may succeed\n",
        ),
    ],
)
def test_a_signal_while_the_workers_start_ends_them(
    number: int, code: Exit, sentence: str, endless: list[object], tmp_path: Path
) -> None:
    """Within 2 s of Ctrl-C or SIGTERM all are gone, with one sentence, before anything is written."""
    with Watched(*endless) as run:
        run.until(*BOTH_STARTED)
        below = descendants(run.process.pid)
        assert len(below) == 4
        assert all(os.getsid(pid) == pid for pid in run.supervisors())  # a terminal's Ctrl-C passes them by
        run.signal(number)
        found, errors, seconds = run.ended()
        assert left(below) == set()
    assert (found, errors) == (code, sentence)
    assert seconds < CTRL_C_S
    assert not (tmp_path / "output").exists()


def test_ctrl_c_in_training_ends_all_workers(endless: list[object], tmp_path: Path) -> None:
    """Exit 130 within 2 s, no process left, nothing published, and of the run only what a later start takes up."""
    with Watched(*endless) as run:
        run.until(*BOTH_TRAIN)
        below = descendants(run.process.pid)
        assert len(below) == 4
        run.signal(signal.SIGINT)
        found, errors, seconds = run.ended()
        assert left(below) == set()
    assert (found, errors) == (Exit.INTERRUPTED, "error: interrupted by Ctrl-C\n")
    assert seconds < CTRL_C_S
    assert published(tmp_path / "output") == []
    events = (tmp_path / "output" / "runs" / "run" / "events.jsonl").read_text().splitlines()
    records = [telemetry.parse(line) for line in events]
    assert all(records)
    assert records[-1]
    assert (records[-1].phase, records[-1].reason) == ("failed", "stopped")  # it was told, and left by itself


def pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process, which is stopped, or has been followed by SIGKILL already."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    mask = int(status.partition("ShdPnd:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


@pytest.mark.parametrize("times", [1, 2])
def test_workers_that_do_not_leave_are_killed(times: int, endless: list[object]) -> None:
    """A worker that hangs holds up Ctrl-C no longer than 1.5 s, and a second Ctrl-C not at all."""
    with Watched(*endless) as run:
        run.until(*BOTH_STARTED)
        below = descendants(run.process.pid)
        supervisors = run.supervisors()
        for pid in supervisors:
            os.kill(pid, signal.SIGSTOP)
        run.signal(signal.SIGINT)
        deadline = time.monotonic() + CTRL_C_S
        while not all(pending(pid, signal.SIGTERM) for pid in supervisors) and time.monotonic() < deadline:
            os.sched_yield()
        if times == 2:
            run.signal(signal.SIGINT)
        found, errors, seconds = run.ended()
        assert left(below) == set()
    assert (found, errors) == (Exit.INTERRUPTED, "error: interrupted by Ctrl-C\n")
    assert local.STOP_S - 0.5 < seconds < CTRL_C_S if times == 1 else seconds < local.STOP_S - 0.5


def test_sigterm_gives_workers_longer_than_ctrl_c(endless: list[object]) -> None:
    """Whoever stops a service waits, so one that is slow to write its checkpoint is not killed as after Ctrl-C."""
    with Watched(*endless) as run:
        run.until(*BOTH_STARTED)
        supervisors = run.supervisors()
        for pid in supervisors:
            os.kill(pid, signal.SIGSTOP)
        run.signal(signal.SIGTERM)
        deadline = time.monotonic() + 2 * local.STOP_S
        while time.monotonic() < deadline:
            assert all(not pending(pid, signal.SIGKILL) for pid in supervisors)
            time.sleep(0.1)
        for pid in supervisors:
            os.kill(pid, signal.SIGCONT)
        found, errors, _ = run.ended()
    assert (found, errors) == (
        Exit.TRY_AGAIN,
        "error: stopped early; running the same command again may succeed\n",
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_no_worker_outlives_the_command(number: int, endless: list[object]) -> None:
    """Killed outright or by its terminal's end, it takes supervisors and trainers with it."""
    with Watched(*endless) as run:
        run.until(*BOTH_STARTED)
        below = descendants(run.process.pid)
        assert len(below) == 4
        run.signal(number)
        assert run.ended()[0] == -number
        assert left(below) == set()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_is_killed_is_replaced(rank: int, prepared: Path, tmp_path: Path) -> None:
    """Its trainer does not outlive it, one line says what happened, and the run ends as if it had not."""
    flags = ["--workers=2", "--epochs=200", "--evaluate-every=0", "--log-every=3"]
    with Watched("--data", prepared, "--output", tmp_path, "--name=run", *flags) as run:
        run.until(*BOTH_TRAIN)
        supervisor = run.supervisors()[rank]
        below = descendants(supervisor)
        assert len(below) == 1
        os.kill(supervisor, signal.SIGKILL)
        assert left(below) == set()
        code, errors, _ = run.ended()
    assert (code, errors) == (0, f"worker {rank}: the worker was killed by SIGKILL; started again\n")
    assert published(tmp_path) == [".promotion-lock", "latest", "models"]


def test_a_worker_that_keeps_failing_ends_the_run(prepared: Path, tmp_path: Path) -> None:
    """After three times more without a new step; one sentence names it."""
    with Watched("--data", prepared, "--output", tmp_path, "--name=run", "--workers=2", "--epochs=1000000") as run:
        for _ in range(restarts.MAX_RESTARTS + 1):
            deadline = time.monotonic() + processes.DEADLINE_S
            while len(run.supervisors()) < 2 and time.monotonic() < deadline:
                os.sched_yield()
            second = run.supervisors()[1]
            there = processes.processes()[second]
            os.kill(second, signal.SIGKILL)
            assert left([(second, there[1])]) == set()
        code, said, _ = run.ended()
    assert code == 128 + signal.SIGKILL
    assert said.splitlines()[-1] == "error: worker 1: the worker was killed by SIGKILL"
    assert said.count("; started again") == restarts.MAX_RESTARTS


def test_a_good_run_is_logfmt_on_standard_output_alone(trained: Trained) -> None:
    """Every line of both workers is a record that names its rank, the last sums up, and nothing else is said."""
    assert (trained.ended.code, trained.ended.stderr) == (0, "")
    *lines, summary = trained.ended.stdout.splitlines()
    records = [telemetry.parse(line) for line in lines]
    assert all(f" rank={record.rank} " in line for record, line in zip(records, lines, strict=True) if record)
    told: dict[int, list[str]] = {0: [], 1: []}
    for record in records:
        assert record
        assert record.run == "good"
        told[record.rank].append(record.phase)
    begun = ["data", "joining", "compiling", "training"]
    end = ["evaluating", "publishing", "published"]
    for phases in told.values():  # however often the others were waited for
        while phases[0] == "waiting":
            del phases[0]
    assert told == {0: [*begun, "training", "training", *end], 1: [*begun, *end]}
    names = ["run", "phase", "accuracy", "accuracy_low", "accuracy_high", "verdict", "seconds", "model", "report"]
    found = dict(pair.split("=", 1) for pair in summary.split(" "))
    assert list(found) == names
    assert (found["run"], found["phase"], found["verdict"]) == ("good", "done", "promoted")
    assert 0.5 < float(found["accuracy_low"]) < float(found["accuracy"]) < float(found["accuracy_high"]) <= 1
    model = trained.output / "models" / "good"
    assert (found["model"], found["report"]) == (str(model / "saved_model" / "1"), str(model / "report.html"))
    assert "models/good/saved_model/1/saved_model.pb" in contents(trained.output)


def test_a_run_goes_on_when_nobody_reads_it(prepared: Path, tmp_path: Path) -> None:
    """After `| head` it trains on, publishes, and ends with 0 and without a word."""
    process = subprocess.Popen(
        processes.command("--data", prepared, "--output", tmp_path, "--name=run", "--epochs=2"),
        cwd=processes.ROOT,
        env=processes.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stderr
        assert "phase=data" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(processes.DEADLINE_S) == 0
    assert (tmp_path / "latest").readlink().name == "run"


class Seen(Lines):
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(Config(workers=2), "r")
        self.told: list[tuple[Any, ...]] = []

    def show(self, record: Record) -> None:
        """Keep a record."""
        self.told.append(("show", record))

    def note(self, rank: int, line: str) -> None:
        """Keep a line."""
        self.told.append(("note", rank, line))

    def restarted(self, rank: int, code: int, record: Record | None) -> None:
        """Keep a restart."""
        self.told.append(("restarted", rank, code, record))

    def failed(self, rank: int, code: int, record: Record | None) -> None:
        """Keep a failure."""
        self.told.append(("failed", rank, code, record))


def failure(rank: int, reason: str, code: int) -> Record:
    """The record with which a worker fails."""
    return Record(time=0, run="r", rank=rank, phase="failed", code=code, reason=reason, message=reason)


def never(rank: int) -> None:
    """Start a worker again where none should be."""
    pytest.fail(f"worker {rank} was started again")


BAD = failure(1, "loss-not-finite", 76)
BAD_TOO = failure(0, "loss-not-finite", 76)
AGAIN = failure(1, "restarts-used-up", 75)
STEPPED = Record(time=0, run="r", rank=1, phase="training", step=1)


@pytest.mark.parametrize(
    ("events", "code", "told", "begun"),
    [
        ([(0, 0), (1, 0)], 0, [], []),
        ([(1, 0), (0, 69)], 69, [], []),
        ([(0, 0), (1, 137)], 0, [], []),
        ([(1, BAD), (1, 76), (0, BAD_TOO), (0, 76)], 76, [("failed", 1, 76, BAD)], []),
        ([(0, BAD_TOO), (0, 76), (1, BAD), (1, 76)], 76, [("failed", 0, 76, BAD_TOO)], []),
        ([(0, "a line"), (0, 70), (1, 70)], 70, [("note", 0, "a line"), ("failed", 0, 70, None)], []),
        ([(1, BAD), (1, 76)], 76, [("failed", 1, 76, BAD)], []),
        ([(1, 137), (1, 0), (0, 0)], 0, [("restarted", 1, 137, None)], [1]),
        ([(1, 0), (0, 137), (0, 0)], 0, [("restarted", 0, 137, None)], [0]),
        ([(1, AGAIN), (1, 75), (1, 0), (0, 0)], 0, [("restarted", 1, 75, AGAIN)], [1]),
        (
            [*[(1, 137)] * 4, (0, 137)],
            137,
            [*[("restarted", 1, 137, None)] * 3, ("failed", 1, 137, None)],
            [1, 1, 1],
        ),
        (
            [*[(1, 137)] * 3, (1, STEPPED), (1, 137), (1, BAD), (1, 76)],
            76,
            [
                *[("restarted", 1, 137, None)] * 3,
                ("show", STEPPED),
                ("restarted", 1, 137, None),
                ("failed", 1, 76, BAD),
            ],
            [1, 1, 1, 1],
        ),
    ],
)
def test_workers_are_replaced_and_one_is_named_for_a_failed_run(
    events: list[Any], code: int, told: list[Any], begun: list[int]
) -> None:
    """Who may succeed is started again; rank 0's verdict counts if it has one, else the worker that failed first."""
    found: local.Events = queue.SimpleQueue()
    for event in events:
        found.put(event)
    display, started = Seen(), list[int]()
    assert local.follow(2, found, display, started.append) == code
    assert (display.told, started) == (told, begun)


def test_rank_0_may_just_be_publishing() -> None:
    """A worker's failure gives rank 0 a moment to end with its verdict, which then counts."""
    found: local.Events = queue.SimpleQueue()
    found.put((1, BAD))
    found.put((1, 76))
    display = Seen()
    timer = threading.Timer(0.2, found.put, [(0, 0)])
    timer.start()
    assert local.follow(2, found, display, never) == 0
    timer.join()
    assert display.told == []


def test_what_this_process_is_asked_ends_the_run() -> None:
    """An error in the queue is raised, after what was told before it."""
    found: local.Events = queue.SimpleQueue()
    record, error = Record(time=0, run="r", rank=0, phase="data"), JobError(Exit.INTERRUPTED, "stopped", "stopped")
    for event in (record, error, record):
        found.put((0, event))
    display = Seen()
    with pytest.raises(JobError) as caught:
        local.follow(2, found, display, never)
    assert caught.value is error
    assert display.told == [("show", record)]


def test_the_supervisors_ports_are_held() -> None:
    """Nobody else is given one, but who asks for it by SO_REUSEPORT, as a supervisor does, can listen there."""
    with local.addresses(3) as found:
        assert len(set(found)) == 3
        for address in found:
            port = int(address.removeprefix("127.0.0.1:"))
            with pytest.raises(OSError, match="in use"):
                socket.create_server(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port), reuse_port=True):
                socket.create_connection(("127.0.0.1", port)).close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1", "2"]), ("4,6,7", ["4", "6", "7"]), ("GPU-ab,GPU-cd", ["GPU-ab", "GPU-cd", "-1"])],
)
def test_each_worker_sees_a_gpu_of_its_own(visible: str | None, expected: list[str]) -> None:
    """By its rank, of those that this process may see; where there are too few, none, and so it is refused."""
    assert [local.own_gpu(rank, visible) for rank in range(3)] == expected
