"""What a supervisor makes of its trainer's ends, with a shell script in the place of Python."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from job import telemetry
from job.cluster import Cluster
from job.config import Config
from job.errors import PUBLISHED, Exit
from job.supervisor import restart_policy as restarts
from job.supervisor import supervisor as supervise
from job.supervisor import watchdog as watch
from job.system import termination

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from job.telemetry import Record

RECORD = {"time": 1.0, "run": "r", "rank": 0}


def tell(phase: str, **fields: Any) -> str:
    """The command that sends a record."""
    return f"echo '{json.dumps({**RECORD, 'phase': phase, **fields})}' >&$TELEMETRY_FD\n"


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes the script that is run as the trainer; the file `starts` counts its starts, and $n is their number.

    Its function `stop PHASE` tells the supervisor to stop once that has shown the phase.
    """
    script = tmp_path / "python"
    script.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(restarts, "BACKOFF_S", (0.0, 0.01, 0.01))
    monkeypatch.setattr(termination, "PATH", tmp_path / "termination-log")
    (tmp_path / "termination-log").touch()
    before = signal.getsignal(signal.SIGTERM)

    def say(line: str) -> None:
        print(line)  # noqa: T201 - as it would
        with (tmp_path / "said").open("a") as said:
            said.write(line + "\n")

    monkeypatch.setattr(telemetry, "say", say)

    def write(commands: str) -> None:
        counted = f"echo >> {tmp_path}/starts; n=$(wc -l < {tmp_path}/starts)"
        stop = f"stop() {{ until grep -qs phase=$1 {tmp_path}/said; do :; done; kill -TERM $PPID; }}"
        script.write_text(f'#!/bin/bash\n[ "$2" = job.supervisor.precheck ] && exit 0\n{counted}\n{stop}\n{commands}\n')

    yield write
    signal.signal(signal.SIGTERM, before)


def supervised(prepared: Path, **flags: Any) -> int:
    """Run one worker's supervisor to its end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return supervise.supervise(Config(data=prepared, **flags), Cluster("r", "u", 0, ("a:1",), (f"127.0.0.1:{port}",)))


def shown(capfd: pytest.CaptureFixture[str]) -> tuple[list[Record], str]:
    """The records on standard output, and standard error."""
    out, err = capfd.readouterr()
    return [record for line in out.splitlines() if (record := telemetry.parse(line))], err


def left(tmp_path: Path) -> dict[str, Any]:
    """The termination message."""
    return dict(json.loads((tmp_path / "termination-log").read_bytes()))


def starts(tmp_path: Path) -> int:
    """How often the trainer was started."""
    return len((tmp_path / "starts").read_text().splitlines())


@pytest.mark.parametrize("code", sorted({0, *range(64, 74), 76, 78} & set(Exit)))
def test_a_final_code_is_the_workers(
    code: int, prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is passed on after one start, with what the trainer said of it; its chatter is shown for a bug alone.

    The termination message has the accuracy of a published model.
    """
    said = {"code": code, "reason": "why", "message": "a sentence", "hint": "a remedy"}
    phase = "published" if code in PUBLISHED else "failed"
    accuracy = {"accuracy": 0.75} if code in PUBLISHED else {}
    training = tell("training", step=7, loss=1.0, accuracy=0.5)
    trainer(f"echo chatter >&2\n{training}{tell(phase, **said, **accuracy)}exit {code}")
    assert supervised(prepared) == code
    records, err = shown(capfd)
    assert err == ("chatter\n" if code == Exit.BUG else "")
    assert [(r.phase, r.code, r.reason, r.message, r.hint) for r in records[1:]] == [(phase, *said.values())]
    hint = "" if phase == "published" else "a remedy"
    message = {"code": code, "reason": "why", "message": "a sentence", "rank": 0, "step": 7, "hint": hint}
    assert left(tmp_path) == {**message, **accuracy}
    assert starts(tmp_path) == 1


@pytest.mark.parametrize(
    ("end", "cause", "message"),
    [
        ("kill -KILL $$", "killed", "the trainer was killed by SIGKILL"),
        ("kill -SEGV $$", "killed", "the trainer was killed by SIGSEGV"),
        ("exit 1", "unknown-code", "the trainer ended with 1 and said nothing"),
        (tell("failed", code=75, reason="port-taken", message="taken") + "exit 75", "port-taken", "taken"),
        (tell("failed", code=75, reason="output-io", message="stale") + "exit 75", "output-io", "stale"),
    ],
)
def test_what_may_pass_is_tried_again_and_then_given_up(
    end: str,
    cause: str,
    message: str,
    prepared: Path,
    trainer: Callable[[str], None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Three restarts without a new step, each named, and then 75 with the cause."""
    trainer(end)
    assert supervised(prepared) == Exit.TRY_AGAIN
    records, _ = shown(capfd)
    assert [(r.phase, r.restarts, r.reason, r.message) for r in records] == [
        *(("restarting", count, cause, message) for count in (1, 2, 3)),
        ("failed", 3, "restarts-used-up", f"gave up after 3 restarts without a new step: {message}"),
    ]
    assert starts(tmp_path) == 4
    assert left(tmp_path)["reason"] == "restarts-used-up"


def test_a_new_step_sets_the_count_to_0(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only a step beyond all before is progress; who dies at the same one is given up."""
    steps = "step=$((n < 6 ? n : 5))\n"
    record = json.dumps({**RECORD, "phase": "training", "step": 0}).replace('"step": 0', "\"step\": '$step'")
    trainer(f"{steps}echo '{record}' >&$TELEMETRY_FD\nkill -KILL $$")
    assert supervised(prepared) == Exit.TRY_AGAIN
    assert starts(tmp_path) == 5 + 3
    assert [r.restarts for r in shown(capfd)[0] if r.phase == "restarting"] == list(range(1, 8))


def test_lost_peers_are_no_fault_of_this_worker(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A trainer that only followed another is started again more often than one that fails, and not counted."""
    lost = [tell("failed", code=75, reason=reason, message="m") for reason in ("peer-lost", "stopped-by-peer")]
    trainer(f"if [ $n -le 5 ]; then {lost[0]} exit 75; fi\nif [ $n -le 9 ]; then {lost[1]} exit 75; fi\nexit 76")
    assert supervised(prepared) == Exit.NOT_FINITE
    assert starts(tmp_path) == 10
    assert {r.restarts for r in shown(capfd)[0]} == {0}


def test_peers_that_are_lost_each_time_are_given_up(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """75 where none of so many starts in a row made a new step: they may never reach each other."""
    trainer(tell("failed", code=75, reason="peer-lost", message="a peer was lost") + "exit 75")
    assert supervised(prepared) == Exit.TRY_AGAIN
    assert starts(tmp_path) == restarts.MAX_PEER_RESTARTS
    last = shown(capfd)[0][-1]
    assert (last.phase, last.reason, last.restarts) == ("failed", "peers-lost", 0)
    assert last.message == "lost its peers 20 times in a row without a new step: a peer was lost"
    assert "2222" in (last.hint or "")


def test_a_trainer_that_published_has_whatever_happens_next(prepared: Path, trainer: Callable[[str], None]) -> None:
    """Killed after it said so, the run's verdict stands."""
    trainer(tell("published", code=69, reason="rejected", message="too low") + "kill -KILL $$")
    assert supervised(prepared) == Exit.REJECTED


@pytest.mark.parametrize("phase", ["data", "joining", "compiling"])
def test_told_to_stop_before_the_first_step_it_leaves_at_once(
    phase: str, prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A trainer that would not listen is killed, for there is nothing to save."""
    trainer(f"trap '' TERM\n{tell(phase)}stop {phase}\nwhile :; do sleep 0.1; done")
    began = time.monotonic()
    assert supervised(prepared) == Exit.TRY_AGAIN
    assert time.monotonic() - began < 2
    assert [(r.phase, r.reason) for r in shown(capfd)[0]] == [(phase, None), ("failed", "stopped")]
    assert (left(tmp_path)["code"], left(tmp_path)["reason"]) == (75, "stopped")


def test_told_to_stop_in_training_the_trainer_may_save(
    prepared: Path, trainer: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """It is sent SIGTERM, and what it says of its end counts."""
    stopped = tell("failed", code=75, reason="stopped", message="told to stop at step 8")
    trainer(
        f"leave() {{\n{stopped}exit 75\n}}\ntrap leave TERM\n{tell('training', step=7)}stop training\n"
        "while :; do sleep 0.05; done"
    )
    assert supervised(prepared) == Exit.TRY_AGAIN
    assert [(r.phase, r.message) for r in shown(capfd)[0]][1:] == [("failed", "told to stop at step 8")]


def test_told_to_stop_a_trainer_that_hangs_is_killed(
    prepared: Path, trainer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the supervisor's own deadline."""
    monkeypatch.setattr(supervise, "STOP_S", 0.3)
    trainer(f"trap '' TERM\n{tell('training', step=7)}stop training\nwhile :; do sleep 0.1; done")
    assert supervised(prepared) == Exit.TRY_AGAIN


def test_publishing_is_finished_first(prepared: Path, trainer: Callable[[str], None]) -> None:
    """Told to stop then, the worker ends with the verdict."""
    published = tell("published", code=0, reason="promoted", message="m")
    trainer(f"trap '' TERM\n{tell('publishing')}stop publishing\nsleep 0.3\n{published}exit 0")
    assert supervised(prepared) == Exit.OK


def test_a_trainer_without_a_step_is_replaced(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After --stall-timeout in training, signs of life or not; the restart is counted and named."""
    signs = "while :; do echo >&$TELEMETRY_FD; sleep 0.1; done"
    trainer(f"if [ $n = 2 ]; then exit 76; fi\n{tell('training', step=7)}{signs}")
    assert supervised(prepared, stall_timeout=5) == Exit.NOT_FINITE
    assert starts(tmp_path) == 2
    stalled = [(r.reason, r.message) for r in shown(capfd)[0] if r.phase == "restarting"]
    assert stalled == [("stalled", "the trainer made no progress in phase training for 5 s")]


def test_a_trainer_without_a_sign_of_life_is_replaced(
    prepared: Path,
    trainer: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Once it has begun to give them, whatever its phase; records are signs too."""
    monkeypatch.setattr(watch, "SILENT_S", 1.5)
    signs = f"echo >&$TELEMETRY_FD\nfor i in 1 2 3 4; do sleep 0.5\n{tell('compiling')}done\n"
    trainer(f"if [ $n = 2 ]; then exit 76; fi\n{tell('compiling')}{signs}while :; do sleep 0.1; done")
    began = time.monotonic()
    assert supervised(prepared) == Exit.NOT_FINITE
    assert time.monotonic() - began > 2 + 1.5
    assert starts(tmp_path) == 2
    [stalled] = [(r.reason, r.message) for r in shown(capfd)[0] if r.phase == "restarting"]
    assert stalled == ("stalled", "the trainer gave no sign of life in phase compiling for 1.5 s")


def test_a_kill_for_memory_is_named(
    prepared: Path, trainer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL while the cgroup's count rose is 71, and final."""
    kills = iter(range(1000))
    monkeypatch.setattr("job.supervisor.supervised_process.memory.oom_kills", lambda: next(kills))
    trainer("kill -KILL $$")
    assert supervised(prepared) == Exit.OUT_OF_MEMORY
    assert shown(capfd)[0][-1].reason == "out-of-memory"


def test_records_pass_and_other_lines_do_not(
    prepared: Path, trainer: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """JSON from the pipe becomes logfmt; torn lines, standard output and mere signs of life go nowhere."""
    record = telemetry.Record(1.0, "r", 0, "training", step=3, loss=0.5)
    alive = telemetry.Record(2.0, "r", 0, "training", step=4)
    lines = "\n".join(
        [telemetry.to_json(record), "not a record", telemetry.to_json(alive), telemetry.to_json(record)[:-9]]
    )
    trainer(f"echo noise\nprintf %s '{lines}' >&$TELEMETRY_FD")
    assert supervised(prepared) == 0
    assert capfd.readouterr() == (telemetry.to_logfmt(record) + "\n", "")


def test_nobody_reads_what_is_said(
    prepared: Path, trainer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The trainer is followed to its end, and the worker ends with its code, leaving the termination message."""
    hangs = threading.Event()
    monkeypatch.setattr(telemetry, "say", lambda _: hangs.wait(60))
    monkeypatch.setattr(supervise, "DRAIN_S", 0.1)
    monkeypatch.setattr(os, "_exit", sys.exit)
    trainer(f"for i in $(seq 50); do\n{tell('training', step=1, loss=0.5)}done\nexit 76")
    with pytest.raises(SystemExit) as caught:
        supervised(prepared)
    hangs.set()
    assert caught.value.code == Exit.NOT_FINITE
    assert left(tmp_path)["code"] == Exit.NOT_FINITE


def test_orphans_are_reaped(prepared: Path, trainer: Callable[[str], None]) -> None:
    """As process 1 it inherits what its trainer leaves behind; here a child of its own stands for that."""
    orphan = os.fork()
    if orphan == 0:
        os._exit(0)
    trainer(f"while [ -e /proc/{orphan} ]; do :; done")
    assert supervised(prepared) == 0
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan, 0)


def test_it_imports_no_more_than_it_needs() -> None:
    """No TensorFlow, ever; what serves HTTP and metrics, half of its start, only once somebody asks."""
    heavy = {"tensorflow", "http.server", "prometheus_client"}
    there = f"import sys, job.supervisor.supervisor; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_a_port_that_is_taken_is_told(prepared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """75, for it may be free later, in one sentence that names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        member = Cluster("r", "u", 0, ("a:1",), (f"127.0.0.1:{port}",))
        assert supervise.supervise(Config(data=prepared), member) == Exit.TRY_AGAIN
    (record,) = shown(capfd)[0]
    assert (record.reason, f"port {port} " in str(record.message)) == ("port-taken", True)


def test_data_that_is_not_there_is_told_before_anything_starts(
    tmp_path: Path, trainer: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """66, and no trainer."""
    trainer("exit 0")
    assert supervised(tmp_path / "none") == Exit.DATA_MISSING
    assert [r.reason for r in shown(capfd)[0]] == ["dataset-missing"]
    assert not (tmp_path / "starts").exists()


def test_peers_that_never_come_are_named(prepared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """75 after --join-timeout; how many have come is told on the way."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        supervisors = tuple(f"127.0.0.1:{held.getsockname()[1]}" for held in (one, two))
    member = Cluster("r", "u", 1, ("127.0.0.1:0", "127.0.0.1:0"), supervisors)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert supervise.supervise(Config(data=prepared, join_timeout=1), member) == Exit.TRY_AGAIN
    finally:
        signal.signal(signal.SIGTERM, before)
    record = shown(capfd)[0][-1]
    assert record.reason == "peers-missing"
    assert str(record.message).startswith("not all of the 2 workers came within 1 s: worker 0 does not answer at")
