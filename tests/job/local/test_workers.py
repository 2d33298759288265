"""Workers on this machine: what ends them, and that none outlives the command."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job import telemetry
from job.config import Config
from job.errors import Exit, JobError
from job.local import workers
from job.local.display import Lines
from job.supervisor import restart_policy
from job.supervisor.restart_policy import JITTER, MAX_RESTARTS
from job.telemetry import Record
from tests.job import processes
from tests.job.processes import LocalRun, contents, descendants, pending, surviving, wait_until

if TYPE_CHECKING:
    from tests.job.conftest import Trained

# Ctrl-C takes 2 s at most. A busy machine gets more time, but less than the workers have after SIGTERM.
LIMIT_S = workers.SIGTERM_S / 2
BOTH_LOADING = ((0, "waiting"), (1, "waiting"))  # while the fork server imports TensorFlow
BOTH_TRAINING = ((0, "training"), (1, "training"))


@pytest.fixture
def endless(prepared: Path, tmp_path: Path) -> list[object]:
    """The arguments of a run of two workers that takes hours."""
    flags = ["--workers=2", "--epochs=1000000", "--evaluate-every=0", "--schedule=constant", "--learning-rate=1e-6"]
    return ["--data", prepared, "--output", tmp_path / "output", "--name=run", *flags]


def published(output: Path) -> list[str]:
    """What an output folder holds besides the folder of the runs."""
    return sorted(path.name for path in output.glob("*") if path.name != "runs") if output.exists() else []


def test_runs_that_start_in_the_same_second_have_different_names() -> None:
    """As those that a loop in a shell starts."""
    first = workers.new_name("mnist")
    time.sleep(0.002)
    assert first < workers.new_name("mnist")


@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [
        (signal.SIGINT, Exit.INTERRUPTED, "error: interrupted by Ctrl-C\n"),
        (
            signal.SIGTERM,
            Exit.TRY_AGAIN,
            "error: stopped early; running the same command again may succeed\n",
        ),
        (
            signal.SIGHUP,
            Exit.TRY_AGAIN,
            "error: stopped early; running the same command again may succeed\n",
        ),
    ],
)
def test_a_signal_while_the_workers_start_ends_them(
    number: int, code: Exit, sentence: str, endless: list[object], loading: dict[str, str], tmp_path: Path
) -> None:
    """The command ends at once, with one sentence, before anything is written."""
    with LocalRun(*endless, variables=loading) as run:
        run.wait_for(*BOTH_LOADING)
        below = descendants(run.process.pid)
        assert len(below) == 5  # with the fork server, and a process for each worker's log
        terminal = os.getsid(run.process.pid)
        assert all(os.getsid(pid) != terminal for pid, _ in below)  # a terminal does not send them Ctrl-C
        run.process.send_signal(number)
        exit_code, errors, seconds = run.wait()
        assert surviving(below) == set()
    assert (exit_code, errors) == (code, sentence)
    assert seconds < LIMIT_S
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [
        (signal.SIGINT, Exit.INTERRUPTED, "error: interrupted by Ctrl-C\n"),
        (signal.SIGTERM, Exit.TRY_AGAIN, "error: stopped early; running the same command again may succeed\n"),
    ],
)
def test_a_signal_in_training_ends_all_workers(
    number: int, code: Exit, sentence: str, endless: list[object], tmp_path: Path
) -> None:
    """The command leaves no process, publishes nothing, and the run can be continued."""
    with LocalRun(*endless) as run:
        run.wait_for(*BOTH_TRAINING)
        below = descendants(run.process.pid)
        assert len(below) == 7
        run.process.send_signal(number)
        exit_code, errors, seconds = run.wait()
        assert surviving(below) == set()
    assert (exit_code, errors) == (code, sentence)
    assert seconds < LIMIT_S
    assert published(tmp_path / "output") == []
    events = (tmp_path / "output" / "runs" / "run" / "events.jsonl").read_text().splitlines()
    records = [telemetry.parse(line) for line in events]
    assert all(records)
    assert records[-1]
    # The trainer was not killed. It stopped because of its own SIGTERM, or because of its peer's, a step earlier. After
    # Ctrl-C, a busy machine may take too long for that.
    stopped = records[-1].reason in ("stopped", "stopped-by-peer")
    assert stopped or (number == signal.SIGINT and seconds >= workers.CTRL_C_S)


def stop_processes(pids: list[int]) -> None:
    """Send SIGSTOP, and wait until it has taken effect: a SIGTERM that comes before is handled first."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    states = [Path(f"/proc/{pid}/stat") for pid in pids]
    wait_until(lambda: all(path.read_text().rpartition(")")[2].split()[0] == "T" for path in states), "SIGSTOP")


@pytest.mark.parametrize(
    ("number", "times", "code"), [(signal.SIGINT, 1, Exit.INTERRUPTED), (signal.SIGTERM, 2, Exit.TRY_AGAIN)]
)
def test_workers_that_do_not_exit_are_killed(number: int, times: int, code: Exit, endless: list[object]) -> None:
    """Workers that hang are killed 1.5 s after Ctrl-C, or at once after a second signal."""
    with LocalRun(*endless) as run:
        run.wait_for(*BOTH_LOADING)
        below = descendants(run.process.pid)
        supervisors = run.supervisors()
        stop_processes(supervisors)
        started = time.monotonic()
        for _ in range(times):
            run.process.send_signal(number)
            wait_until(lambda: all(pending(pid, signal.SIGTERM) for pid in supervisors), "SIGTERM to the workers")
        exit_code, _, _ = run.wait()
        seconds = time.monotonic() - started
        assert surviving(below) == set()
    assert exit_code == code
    assert seconds < LIMIT_S
    assert seconds > workers.CTRL_C_S or times == 2


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGHUP, 2)])
def test_sigterm_gives_workers_longer_than_ctrl_c(number: int, times: int, endless: list[object]) -> None:
    """A service manager waits longer than a person, so that a slow worker can still write its checkpoint.

    So does the end of a terminal, for which the shell and the kernel send a signal each.
    """
    with LocalRun(*endless) as run:
        run.wait_for(*BOTH_LOADING)
        supervisors = run.supervisors()
        stop_processes(supervisors)
        for _ in range(times):
            run.process.send_signal(number)
            wait_until(lambda: all(pending(pid, signal.SIGTERM) for pid in supervisors), "SIGTERM to the workers")
        deadline = time.monotonic() + 2 * workers.CTRL_C_S
        while time.monotonic() < deadline:
            assert all(not pending(pid, signal.SIGKILL) for pid in supervisors)
            time.sleep(0.1)
        for pid in supervisors:
            os.kill(pid, signal.SIGCONT)
        exit_code, errors, _ = run.wait()
    assert (exit_code, errors) == (
        Exit.TRY_AGAIN,
        "error: stopped early; running the same command again may succeed\n",
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGHUP, Exit.TRY_AGAIN)])
@pytest.mark.parametrize(("phases", "count"), [(BOTH_LOADING, 5), (BOTH_TRAINING, 7)])
def test_no_worker_outlives_the_command(
    number: int,
    code: int,
    phases: tuple[tuple[int, str], ...],
    count: int,
    endless: list[object],
    loading: dict[str, str],
) -> None:
    """Killed outright or by the end of its terminal, it takes all of their processes and the fork server with it."""
    with LocalRun(*endless, variables=loading if phases == BOTH_LOADING else None) as run:
        run.wait_for(*phases)
        below = descendants(run.process.pid)
        assert len(below) == count
        run.process.send_signal(number)
        assert run.wait()[0] == code
        assert surviving(below) == set()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_is_replaced(rank: int, prepared: Path, tmp_path: Path) -> None:
    """Its trainer does not outlive it, one line names the cause, and the run succeeds."""
    flags = ["--workers=2", "--epochs=400", "--evaluate-every=0", "--log-every=3"]
    with LocalRun("--data", prepared, "--output", tmp_path, "--name=run", *flags) as run:
        run.wait_for(*BOTH_TRAINING)
        supervisor = run.supervisors()[rank]
        below = {(pid, processes.processes()[pid][1]) for pid in processes.trainers(supervisor)}
        assert len(below) == 1
        os.kill(supervisor, signal.SIGKILL)
        assert surviving(below) == set()
        code, errors, _ = run.wait()
    assert (code, errors) == (0, f"worker {rank}: the worker was killed by SIGKILL; it is started again\n")
    assert published(tmp_path) == [".promotion-lock", "latest", "models", "serving"]


def test_a_fork_server_that_is_killed_is_made_again(prepared: Path, tmp_path: Path) -> None:
    """Its trainers end with it, are started again by the new one, and the run succeeds."""
    flags = ["--workers=2", "--epochs=400", "--evaluate-every=0", "--log-every=3"]
    with LocalRun("--data", prepared, "--output", tmp_path, "--name=run", *flags) as run:
        run.wait_for(*BOTH_TRAINING)
        [server] = run.fork_servers()
        trainers = descendants(server)
        assert len(trainers) == 2
        os.kill(server, signal.SIGKILL)
        assert surviving(trainers) == set()
        place = run.wait_for_record(lambda record: record.reason == "killed")
        run.wait_for_record(lambda record: record.phase == "training", place)
        [another] = run.fork_servers()
        assert another != server
        code, errors, _ = run.wait()
    assert (code, errors) == (0, "")
    assert published(tmp_path) == [".promotion-lock", "latest", "models", "serving"]


def test_a_worker_that_keeps_failing_ends_the_run(prepared: Path, tmp_path: Path) -> None:
    """After three restarts without a new step, with one sentence that names the worker."""
    flags = ["--name=run", "--workers=2", "--epochs=1000000"]
    with LocalRun("--data", prepared, "--output", tmp_path, *flags) as run:
        for _ in range(MAX_RESTARTS + 1):
            wait_until(lambda: len(run.supervisors()) == 2, "two supervisors")
            second = run.supervisors()[1]
            _, started = processes.processes()[second]
            os.kill(second, signal.SIGKILL)
            assert surviving([(second, started)]) == set()
        code, errors, _ = run.wait()
    assert code == 128 + signal.SIGKILL
    assert errors.splitlines()[-1] == "error: worker 1: the worker was killed by SIGKILL"
    assert errors.count("; it is started again") == MAX_RESTARTS


def test_a_good_run_is_logfmt_on_standard_output_alone(trained: Trained) -> None:
    """Every line is a record that names its rank, the last one is the summary, and standard error is empty."""
    assert (trained.ended.code, trained.ended.stderr) == (0, "")
    *lines, summary = trained.ended.stdout.splitlines()
    records = [telemetry.parse(line) for line in lines]
    assert all(f" rank={record.rank} " in line for record, line in zip(records, lines, strict=True) if record)
    phases: dict[int, list[str]] = {0: [], 1: []}
    for record in records:
        assert record
        assert record.run == "good"
        phases[record.rank].append(record.phase)
    start = ["data", "joining", "compiling", "training"]
    end = ["evaluating", "publishing", "published"]
    for each in phases.values():  # the number of records while others are waited for varies
        while each[0] == "waiting":
            del each[0]
    assert phases == {0: [*start, "training", "training", *end], 1: [*start, *end]}
    names = ["run", "phase", "accuracy", "accuracy_low", "accuracy_high", "verdict", "seconds", "model", "report"]
    values = dict(pair.split("=", 1) for pair in summary.split(" "))
    assert list(values) == names
    assert (values["run"], values["phase"], values["verdict"]) == ("good", "done", "promoted")
    assert 0.5 < float(values["accuracy_low"]) < float(values["accuracy"]) < float(values["accuracy_high"]) <= 1
    model = trained.output / "models" / "good"
    assert (values["model"], values["report"]) == (str(model / "saved_model" / "1"), str(model / "report.html"))
    assert "models/good/saved_model/1/saved_model.pb" in contents(trained.output)


def test_a_run_continues_when_nobody_reads_its_output(prepared: Path, tmp_path: Path) -> None:
    """After `| head` it still trains, publishes, and exits with 0 and an empty standard error."""
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


def test_a_signal_reaches_the_workers_although_nobody_reads_the_output(endless: list[object], tmp_path: Path) -> None:
    """They write a checkpoint while the command still waits for its reader, such as `less`."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    command, environment = processes.command(*endless), processes.environment()
    process = subprocess.Popen(command, cwd=processes.ROOT, env=environment, stdout=writing, stderr=subprocess.DEVNULL)
    os.close(writing)
    events = tmp_path / "output/runs/run/events.jsonl"

    def phase() -> str:
        lines = events.read_text("utf-8").splitlines() if events.exists() else []
        last = telemetry.parse(lines[-1]) if lines else None
        return last.phase if last else ""

    with process, os.fdopen(reading, "rb") as reader:
        try:
            wait_until(lambda: phase() == "training", "the training")
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: phase() == "failed", "the end of the workers")
            assert process.poll() is None
            reader.read()
            assert process.wait(processes.DEADLINE_S) == Exit.TRY_AGAIN
        finally:
            process.kill()
    assert [*(tmp_path / "output/runs/run/checkpoints").iterdir()]


class RecordingDisplay(Lines):
    """A display that keeps its calls."""

    def __init__(self) -> None:
        super().__init__(Config(workers=2), "r")
        self.calls: list[tuple[Any, ...]] = []

    def show(self, record: Record) -> None:
        """Keep a record."""
        self.calls.append(("show", record))

    def note(self, rank: int, line: str) -> None:
        """Keep a line."""
        self.calls.append(("note", rank, line))

    def restarted(self, rank: int, code: int, record: Record | None, delay_s: float) -> None:
        """Keep a restart, and whether it is at once."""
        self.calls.append(("restarted" if delay_s == 0 else "restarted later", rank, code, record))

    def lost(self, rank: int, code: int, record: Record | None) -> None:
        """Keep a worker without which the run goes on."""
        self.calls.append(("lost", rank, code, record))

    def failed(self, rank: int, code: int, record: Record | None) -> None:
        """Keep a failure."""
        self.calls.append(("failed", rank, code, record))


def failure(rank: int, reason: str, code: int) -> Record:
    """A worker's last record."""
    return Record(time=0, run="r", rank=rank, phase="failed", code=code, reason=reason, message=reason)


def never(rank: int) -> None:
    """Fail, because no worker should be started again."""
    pytest.fail(f"worker {rank} was started again")


BAD = failure(1, "loss-not-finite", 76)
BAD_TOO = failure(0, "loss-not-finite", 76)
AGAIN = failure(1, "restarts-used-up", 75)
APART = failure(0, "not-joined", 75)
STEPPED = Record(time=0, run="r", rank=1, phase="training", step=1)


@pytest.mark.parametrize(
    ("events", "code", "calls", "started"),
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
        ([(0, APART), (0, 75), (1, 75)], 75, [("failed", 0, 75, APART)], []),
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
    events: list[Any], code: int, calls: list[Any], started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that may succeed is started again. The result is rank 0's if it published, else the first failure."""
    monkeypatch.setattr(restart_policy, "BACKOFF_S", (0.0, 0.0, 0.0))
    events_queue: workers.Events = queue.SimpleQueue()
    for event in events:
        events_queue.put(event)
    display, restarted = RecordingDisplay(), list[int]()
    assert workers.follow(2, events_queue, display, restarted.append) == code
    assert (display.calls, restarted) == (calls, started)


def test_a_worker_that_fails_again_is_started_after_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The display shows the delay. Meanwhile the other workers run on, and a signal ends the run."""
    monkeypatch.setattr(restart_policy, "BACKOFF_S", (0.0, 0.5, 1000.0))
    events_queue: workers.Events = queue.SimpleQueue()
    display, started = RecordingDisplay(), list[float]()
    stop = JobError(Exit.INTERRUPTED, "stopped", "stopped")

    def start(rank: int) -> None:
        started.append(time.monotonic())
        events_queue.put((rank, 137))
        if len(started) == 2:  # the third start is due in 1,000 s
            for event in ("a line", stop):
                events_queue.put((0, event))

    events_queue.put((1, 137))
    with pytest.raises(JobError) as caught:
        workers.follow(2, events_queue, display, start)
    assert caught.value is stop
    assert started[1] - started[0] >= 0.5 * (1 - JITTER)
    assert len(started) == 2
    later = ("restarted later", 1, 137, None)
    assert display.calls == [("restarted", 1, 137, None), later, later, ("note", 0, "a line")]


def test_a_run_that_is_decided_starts_no_worker_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 publishes while another worker waits for its next start."""
    monkeypatch.setattr(restart_policy, "BACKOFF_S", (0.01, 0.01, 0.01))
    events_queue: workers.Events = queue.SimpleQueue()
    for event in [(1, 137), (0, 0)]:
        events_queue.put(event)
    assert workers.follow(2, events_queue, RecordingDisplay(), never) == 0


@pytest.mark.parametrize(
    ("lost", "code", "calls"),
    [
        ([(2, 137)], 0, [("lost", 2, 137, None)]),
        ([(2, 137), (1, 143)], 143, [("lost", 2, 137, None), ("failed", 1, 143, None)]),
        ([(2, 70)], 70, [("failed", 2, 70, None)]),
    ],
)
def test_a_run_that_can_miss_a_worker_ends_for_lack_of_two(
    lost: list[tuple[int, int]], code: int, calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three workers, two are enough; a failure that a replacement would repeat ends the run in any case.

    The failure that ends the run determines its code, not the one before it.
    """
    monkeypatch.setattr(workers, "END_S", 0.0)
    monkeypatch.setattr(restart_policy, "BACKOFF_S", (0.0, 0.0, 0.0))
    events_queue: workers.Events = queue.SimpleQueue()
    for event in [each for each in lost for _ in range(MAX_RESTARTS + 1)]:
        events_queue.put(event)
    if not code:
        events_queue.put((0, 0))
        events_queue.put((1, 0))
    restarted: list[int] = []
    display = RecordingDisplay()
    assert workers.follow(3, events_queue, display, restarted.append, 2) == code
    assert [call for call in display.calls if call[0] != "restarted"] == calls


def test_rank_0_may_just_be_publishing() -> None:
    """After another worker's failure rank 0 has a moment to exit with its verdict, which then counts."""
    events_queue: workers.Events = queue.SimpleQueue()
    events_queue.put((1, BAD))
    events_queue.put((1, 76))
    display = RecordingDisplay()
    timer = threading.Timer(0.2, events_queue.put, [(0, 0)])
    timer.start()
    assert workers.follow(2, events_queue, display, never) == 0
    timer.join()
    assert display.calls == []


@pytest.mark.parametrize(
    ("number", "reason", "code", "expected"),
    [
        (Exit.INTERRUPTED, "output-not-writable", 73, (130, "ended; worker 0: no space; a hint")),
        (Exit.TRY_AGAIN, "output-not-writable", 73, (73, "ended; worker 0: no space; a hint")),
        (Exit.TRY_AGAIN, "output-io", 75, (75, "ended; worker 0: no space; a hint")),
        (Exit.TRY_AGAIN, "stopped", 75, (75, "ended")),
    ],
)
def test_steps_that_are_lost_after_a_signal_are_reported(
    number: Exit, reason: str, code: int, expected: tuple[int, str]
) -> None:
    """The error says that rank 0 could not save them. The exit code is rank 0's, except after Ctrl-C."""
    last = Record(time=0, run="r", rank=0, phase="failed", code=code, reason=reason, message="no space", hint="a hint")
    events_queue: workers.Events = queue.SimpleQueue()
    for event in (Record(time=0, run="r", rank=0, phase="training"), last, code):
        events_queue.put((0, event))
    error = workers.with_lost_steps(JobError(number, "stopped", "ended"), events_queue)
    assert (error.code, str(error)) == expected


def test_an_error_in_the_queue_ends_the_run() -> None:
    """It is raised after the events before it."""
    events_queue: workers.Events = queue.SimpleQueue()
    record, error = Record(time=0, run="r", rank=0, phase="data"), JobError(Exit.INTERRUPTED, "stopped", "stopped")
    for event in (record, error, record):
        events_queue.put((0, event))
    display = RecordingDisplay()
    with pytest.raises(JobError) as caught:
        workers.follow(2, events_queue, display, never)
    assert caught.value is error
    assert display.calls == [("show", record)]


def test_no_two_of_many_workers_get_the_same_port() -> None:
    """Each of 128 workers has two ports of its own, and keeps them while other programs take ports."""
    with workers.reserve_addresses(128) as (tensorflow, supervisors):
        ports = {int(address.removeprefix("127.0.0.1:")) for address in tensorflow + supervisors}
        assert len(ports) == 256
        for options in ({}, {"reuse_port": True}):
            for _ in range(5000):
                with socket.create_server(("127.0.0.1", 0), **options) as other:
                    assert other.getsockname()[1] not in ports
        for port in ports:
            with pytest.raises(OSError, match="in use"):
                socket.create_server(("127.0.0.1", port))


def listening_ports(pid: int) -> set[int]:
    """The TCP ports on which a process listens."""
    files = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            files.append(path.readlink())
    inodes = {str(file)[len("socket:[") : -1] for file in files if str(file).startswith("socket:")}
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and line[9] in inodes}


def test_only_this_machine_reaches_tensorflow(endless: list[object], own_address: str) -> None:
    """TensorFlow executes what it receives, and listens on all interfaces."""
    with LocalRun(*endless) as run:
        run.wait_for(*BOTH_TRAINING)
        trainers = [pid for supervisor in run.supervisors() for pid in processes.trainers(supervisor)]
        ports = [port for pid in trainers for port in listening_ports(pid)]
        assert len(ports) == 2
        for port in ports:
            socket.create_connection(("127.0.0.1", port)).close()
            with pytest.raises(OSError, match=r"timed out|refused"):
                socket.create_connection((own_address, port), timeout=1)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1", "2"]), ("4,6,7", ["4", "6", "7"]), ("GPU-ab,GPU-cd", ["GPU-ab", "GPU-cd", "-1"])],
)
def test_each_worker_sees_a_gpu_of_its_own(visible: str | None, expected: list[str]) -> None:
    """By its rank, of those that this process sees. A worker beyond them sees none, and fails."""
    assert [workers.choose_gpu(rank, visible) for rank in range(3)] == expected


def test_a_run_without_what_only_linux_has(prepared: Path, tmp_path: Path) -> None:
    """Python on macOS lacks these functions, which bind processes to CPUs and reap processes of others."""
    missing = ["waitid", "sched_getaffinity", "sched_setaffinity", "pidfd_open", "memfd_create", "eventfd"]
    lines = ["import os", *(f"del os.{name}" for name in missing if hasattr(os, name))]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{processes.ROOT}"}
    flags = ["--data", prepared, "--output", tmp_path / "output", "--name=run", "--workers=2", "--epochs=2"]
    ended = processes.run(*flags, env=path)
    assert (ended.code, ended.stderr) == (0, "")
    assert published(tmp_path / "output") == [".promotion-lock", "latest", "models", "serving"]


def test_workers_reach_each_other_without_the_environments_proxy(prepared: Path, tmp_path: Path) -> None:
    """Each variable names a proxy that refuses. gRPC obeys those in lower case, and GRPC_ADDRESS_HTTP_PROXY."""
    proxy = "http://127.0.0.1:9"  # the port of a service that is not installed
    names = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    own = {"GRPC_ADDRESS_HTTP_PROXY": "127.0.0.1:9", "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": "0.0.0.0/0"}
    environment = dict.fromkeys(names, proxy) | own | {"no_proxy": "example.org", "NO_PROXY": "example.org"}
    flags = ["--data", prepared, "--output", tmp_path, "--name=run", "--workers=2", "--epochs=2"]
    ended = processes.run(*flags, env=environment)
    assert (ended.code, ended.stderr) == (0, "")
    assert published(tmp_path) == [".promotion-lock", "latest", "models", "serving"]
