"""What a supervisor does when its trainer exits. A shell script stands in for the trainer; no fork server starts."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from job import must_match, telemetry
from job.cluster import Cluster
from job.config import Config
from job.errors import PUBLISHED, Exit
from job.rendezvous import peers
from job.rendezvous.server import Rendezvous
from job.supervisor import restart_policy, supervisor, watchdog
from job.system import cpu, termination

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from job.rendezvous.messages import Request
    from job.telemetry import Record

RECORD = {"time": 1.0, "run": "r", "rank": 0}


def send(phase: str, **fields: Any) -> str:
    """The command that sends a record."""
    return f"echo '{json.dumps({**RECORD, 'phase': phase, **fields})}' >&$TELEMETRY_FD\n"


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes the script that runs as the trainer. The file `starts` counts its starts, and $n is their number.

    Its function `stop PHASE` sends SIGTERM to the supervisor once that has shown the phase.
    """
    script = tmp_path / "python"
    script.touch(0o755)
    monkeypatch.chdir(tmp_path)  # for the output folder
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(restart_policy, "BACKOFF_S", (0.0, 0.01, 0.01))
    monkeypatch.setattr(termination, "PATH", tmp_path / "termination-log")
    (tmp_path / "termination-log").touch()
    before = signal.getsignal(signal.SIGTERM)

    def write_line(line: str, stream: TextIO | None = None) -> None:
        print(line, file=stream)
        with (tmp_path / "lines").open("a") as lines:
            lines.write(line + "\n")

    monkeypatch.setattr(telemetry, "write_line", write_line)

    def write(commands: str) -> None:
        counted = f"echo >> {tmp_path}/starts; n=$(wc -l < {tmp_path}/starts)"
        stop = f"stop() {{ until grep -qs phase=$1 {tmp_path}/lines; do :; done; kill -TERM $PPID; }}"
        others = "case $2 in job.supervisor.precheck) exit 0;; job.supervisor.fork_server) exit 1;; esac"
        script.write_text(f"#!/bin/bash\n{others}\n{counted}\n{stop}\n{commands}\n")

    yield write
    signal.signal(signal.SIGTERM, before)


def supervised(prepared: Path, **flags: Any) -> int:
    """Run one worker's supervisor to its end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return supervisor.supervise(Config(data=prepared, **flags), Cluster("r", "u", 0, ("a:1",), (f"127.0.0.1:{port}",)))


def shown(capfd: pytest.CaptureFixture[str]) -> tuple[list[Record], str]:
    """The records on standard output, and standard error."""
    out, err = capfd.readouterr()
    return [record for line in out.splitlines() if (record := telemetry.parse(line))], err


def termination_message(tmp_path: Path) -> dict[str, Any]:
    """The termination message."""
    return dict(json.loads((tmp_path / "termination-log").read_bytes()))


def starts(tmp_path: Path) -> int:
    """How often the trainer was started."""
    return len((tmp_path / "starts").read_text().splitlines())


@pytest.mark.parametrize("code", sorted({0, *range(64, 74), 76, 78} & set(Exit)))
def test_a_final_code_becomes_the_workers(
    code: int, prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After one start, with the trainer's reason. The trainer's standard error is shown for a bug alone.

    The termination message has the accuracy of a published model.
    """
    end = {"code": code, "reason": "why", "message": "a sentence", "hint": "a remedy"}
    phase = "published" if code in PUBLISHED else "failed"
    accuracy = {"accuracy": 0.75} if code in PUBLISHED else {}
    training = send("training", step=7, loss=1.0, accuracy=0.5)
    trainer(f"echo noise >&2\n{training}{send(phase, **end, **accuracy)}exit {code}")
    assert supervised(prepared) == code
    records, err = shown(capfd)
    assert err == ("noise\n" if code == Exit.BUG else "")
    assert [(r.phase, r.code, r.reason, r.message, r.hint) for r in records[1:]] == [(phase, *end.values())]
    hint = "" if phase == "published" else "a remedy"
    message = {"code": code, "reason": "why", "message": "a sentence", "rank": 0, "step": 7, "hint": hint}
    assert termination_message(tmp_path) == {**message, **accuracy}
    assert starts(tmp_path) == 1


@pytest.mark.parametrize(
    ("commands", "cause", "message"),
    [
        (send("failed", code=75, reason="not-joined", message="apart") + "exit 75", "not-joined", "apart"),
        ("kill -KILL $$", "killed", "the trainer was killed by SIGKILL"),
        ("kill -SEGV $$", "killed", "the trainer was killed by SIGSEGV"),
        ("exit 1", "unknown-code", "the trainer exited with code 1 and no message"),
        (send("failed", code=75, reason="port-taken", message="taken") + "exit 75", "port-taken", "taken"),
        (send("failed", code=75, reason="output-io", message="stale") + "exit 75", "output-io", "stale"),
    ],
)
def test_a_failure_that_may_pass_is_retried_three_times(
    commands: str,
    cause: str,
    message: str,
    prepared: Path,
    trainer: Callable[[str], None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each restart names the cause, and so does the final 75. Its reason is the cause's if that would remain."""
    trainer(commands)
    assert supervised(prepared) == Exit.TRY_AGAIN
    records, _ = shown(capfd)
    reason = "not-joined" if cause == "not-joined" else "restarts-used-up"
    assert [(r.phase, r.restarts, r.reason, r.message) for r in records] == [
        *(("restarting", count, cause, message) for count in (1, 2, 3)),
        ("failed", 3, reason, f"gave up after 3 restarts without a new step: {message}"),
    ]
    assert starts(tmp_path) == 4
    assert termination_message(tmp_path)["reason"] == reason


def test_a_model_that_was_edited_meanwhile_is_78(
    prepared: Path,
    trainer: Callable[[str], None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trainer is not started again with a model that the peers have not compared."""
    model = tmp_path / "model.py"
    model.write_text("# as at the start")
    monkeypatch.setattr(must_match, "model_file", lambda: model)
    trainer(f"echo edited > {model}\nkill -KILL $$")
    assert supervised(prepared) == Exit.SETTINGS
    last = shown(capfd)[0][-1]
    assert (last.phase, last.reason) == ("failed", "other-model")
    assert (last.message or "").startswith("the model changed since the run began: it had SHA-256 ")
    assert f", and {model} has " in (last.message or "")
    assert starts(tmp_path) == 1


def test_a_new_step_sets_the_count_to_0(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only a step beyond all before is progress. A trainer that keeps dying at the same step is given up on."""
    steps = "step=$((n < 6 ? n : 5))\n"
    record = json.dumps({**RECORD, "phase": "training", "step": 0}).replace('"step": 0', "\"step\": '$step'")
    trainer(f"{steps}echo '{record}' >&$TELEMETRY_FD\nkill -KILL $$")
    assert supervised(prepared) == Exit.TRY_AGAIN
    assert starts(tmp_path) == 5 + 3
    assert [r.restarts for r in shown(capfd)[0] if r.phase == "restarting"] == list(range(1, 8))


def test_a_lost_peer_is_not_counted_as_a_restart(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A trainer that only followed another's exit is started again more often than one that fails."""
    lost = [send("failed", code=75, reason=reason, message="m") for reason in ("peer-lost", "stopped-by-peer")]
    trainer(f"if [ $n -le 5 ]; then {lost[0]} exit 75; fi\nif [ $n -le 9 ]; then {lost[1]} exit 75; fi\nexit 76")
    assert supervised(prepared) == Exit.NOT_FINITE
    assert starts(tmp_path) == 10
    assert {r.restarts for r in shown(capfd)[0]} == {0}


def test_a_worker_that_keeps_losing_its_peers_gives_up(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """75 after so many starts in a row without a new step: the workers may never reach each other."""
    trainer(send("failed", code=75, reason="peer-lost", message="a peer was lost") + "exit 75")
    assert supervised(prepared) == Exit.TRY_AGAIN
    assert starts(tmp_path) == restart_policy.MAX_PEER_RESTARTS
    last = shown(capfd)[0][-1]
    assert (last.phase, last.reason, last.restarts) == ("failed", "peers-lost", 0)
    assert last.message == "lost its peers 20 times in a row without a new step: a peer was lost"
    assert "2222" in (last.hint or "")


def test_a_published_run_keeps_its_verdict(prepared: Path, trainer: Callable[[str], None]) -> None:
    """A trainer that is killed after it reported the publication changes nothing."""
    trainer(send("published", code=69, reason="rejected", message="too low") + "kill -KILL $$")
    assert supervised(prepared) == Exit.REJECTED


@pytest.mark.parametrize("phase", ["data", "joining", "compiling"])
def test_sigterm_before_the_first_step_kills_the_trainer(
    phase: str, prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to save, so that a trainer that ignores SIGTERM is not waited for."""
    trainer(f"trap '' TERM\n{send(phase)}stop {phase}\nwhile :; do sleep 0.1; done")
    began = time.monotonic()
    assert supervised(prepared) == Exit.TRY_AGAIN
    assert time.monotonic() - began < supervisor.STOP_S
    assert [(r.phase, r.reason) for r in shown(capfd)[0]] == [(phase, None), ("failed", "stopped")]
    assert (termination_message(tmp_path)["code"], termination_message(tmp_path)["reason"]) == (75, "stopped")


def test_sigterm_in_training_lets_the_trainer_save(
    prepared: Path, trainer: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """It receives SIGTERM, and its own report of the end counts."""
    stopped = send("failed", code=75, reason="stopped", message="stopped at step 8")
    trainer(
        f"leave() {{\n{stopped}exit 75\n}}\ntrap leave TERM\n{send('training', step=7)}stop training\n"
        "while :; do sleep 0.05; done"
    )
    assert supervised(prepared) == Exit.TRY_AGAIN
    assert [(r.phase, r.message) for r in shown(capfd)[0]][1:] == [("failed", "stopped at step 8")]


@pytest.mark.parametrize(
    ("checkpoint", "saved"),
    [({"checkpoint": 5}, "the newest checkpoint that it reported is of step 5"), ({}, "it reported no checkpoint")],
)
def test_sigterm_kills_a_trainer_that_hangs(
    prepared: Path,
    trainer: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: dict[str, int],
    saved: str,
) -> None:
    """It is killed after the supervisor's own deadline. The message says which steps are saved."""
    monkeypatch.setattr(supervisor, "STOP_S", 0.3)
    trainer(f"trap '' TERM\n{send('training', step=7, **checkpoint)}stop training\nwhile :; do sleep 0.1; done")
    assert supervised(prepared) == Exit.TRY_AGAIN
    message = f"received SIGTERM, and the trainer was killed because it did not end in time; {saved}"
    assert termination_message(tmp_path)["message"] == message


def test_publishing_is_finished_first(prepared: Path, trainer: Callable[[str], None]) -> None:
    """A worker that receives SIGTERM then ends with the verdict."""
    published = send("published", code=0, reason="promoted", message="m")
    trainer(f"trap '' TERM\n{send('publishing')}stop publishing\nsleep 0.3\n{published}exit 0")
    assert supervised(prepared) == Exit.OK


def test_a_trainer_without_a_step_is_replaced(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After --stall-timeout in training, even if it sends pulses. The restart is counted and names the cause."""
    pulses = "while :; do echo >&$TELEMETRY_FD; sleep 0.1; done"
    trainer(f"if [ $n = 2 ]; then exit 76; fi\n{send('training', step=7)}{pulses}")
    assert supervised(prepared, stall_timeout=5) == Exit.NOT_FINITE
    assert starts(tmp_path) == 2
    [stalled] = [(r.reason, r.message, r.hint) for r in shown(capfd)[0] if r.phase == "restarting"]
    message = "the trainer made no progress in phase training for 5 s"
    assert stalled == ("stalled", message, "raise --stall-timeout if a step may take that long")


def test_a_trainer_without_a_pulse_is_replaced(
    prepared: Path,
    trainer: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Once it has sent the first one, in any phase. A record counts as a pulse."""
    monkeypatch.setattr(watchdog, "SILENT_S", 4)
    pulses = f"echo >&$TELEMETRY_FD\nfor i in 1 2 3 4 5 6; do sleep 1\n{send('compiling')}done\n"
    trainer(f"if [ $n = 2 ]; then exit 76; fi\n{send('compiling')}{pulses}while :; do sleep 0.1; done")
    began = time.monotonic()
    assert supervised(prepared) == Exit.NOT_FINITE
    assert time.monotonic() - began > 6 + 4
    assert starts(tmp_path) == 2
    [stalled] = [(r.reason, r.message) for r in shown(capfd)[0] if r.phase == "restarting"]
    assert stalled == ("stalled", "the trainer gave no sign of life in phase compiling for 4 s")


def test_a_kill_by_the_oom_killer_is_named(
    prepared: Path, trainer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL while the cgroup's count of kills rises is 71, and final."""
    kills = iter(range(1000))
    monkeypatch.setattr("job.supervisor.supervised_process.cgroup.oom_kills", lambda: next(kills))
    trainer("kill -KILL $$")
    assert supervised(prepared) == Exit.OUT_OF_MEMORY
    assert shown(capfd)[0][-1].reason == "out-of-memory"


def test_only_records_are_shown(
    prepared: Path, trainer: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """JSON from the pipe becomes logfmt. Torn lines, standard output and mere signs of life are dropped."""
    record = telemetry.Record(1.0, "r", 0, "training", step=3, loss=0.5)
    alive = telemetry.Record(2.0, "r", 0, "training", step=4)
    lines = "\n".join(
        [telemetry.to_json(record), "not a record", telemetry.to_json(alive), telemetry.to_json(record)[:-9]]
    )
    trainer(f"echo noise\nprintf %s '{lines}' >&$TELEMETRY_FD")
    assert supervised(prepared) == 0
    assert capfd.readouterr() == (telemetry.to_logfmt(record) + "\n", "")


def test_a_reader_that_hangs_does_not_stop_the_worker(
    prepared: Path, trainer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The trainer is watched to its exit, and the worker ends with its code and a termination message."""
    hangs = threading.Event()
    monkeypatch.setattr(telemetry, "write_line", lambda _: hangs.wait(60))
    monkeypatch.setattr(supervisor, "FLUSH_S", 0.1)
    monkeypatch.setattr(os, "_exit", sys.exit)
    trainer(f"for i in $(seq 50); do\n{send('training', step=1, loss=0.5)}done\nexit 76")
    with pytest.raises(SystemExit) as caught:
        supervised(prepared)
    hangs.set()
    assert caught.value.code == Exit.NOT_FINITE
    assert termination_message(tmp_path)["code"] == Exit.NOT_FINITE


def test_orphans_are_reaped(prepared: Path, trainer: Callable[[str], None]) -> None:
    """As process 1 it inherits the processes that its trainer leaves behind. A child stands in for one here."""
    orphan = os.fork()
    if orphan == 0:
        os._exit(0)
    trainer(f"while [ -e /proc/{orphan} ]; do :; done")
    assert supervised(prepared) == 0
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan, 0)


def test_it_imports_no_more_than_it_needs() -> None:
    """No TensorFlow, no NumPy and no display; the server beside its first process, the metrics' library when asked."""
    heavy = {"tensorflow", "numpy", "rich", "asyncio", "tornado", "prometheus_client"}
    script = f"import sys, job.supervisor.supervisor; print({heavy} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_a_port_in_use_is_named(prepared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """75, because it may be free later."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        member = Cluster("r", "u", 0, ("a:1",), (f"127.0.0.1:{port}",))
        assert supervisor.supervise(Config(data=prepared), member) == Exit.TRY_AGAIN
    (record,) = shown(capfd)[0]
    assert record.reason == "port-taken"
    assert str(record.message).startswith(f"the supervisor cannot listen on port {port}: Address already in use")


def test_a_missing_dataset_is_reported_before_anything_starts(
    tmp_path: Path, trainer: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """66, and no trainer."""
    trainer("exit 0")
    assert supervised(tmp_path / "none") == Exit.DATA_MISSING
    assert [r.reason for r in shown(capfd)[0]] == ["dataset-missing"]
    assert not (tmp_path / "starts").exists()


def test_missing_peers_are_named(prepared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """75 after --join-timeout."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        supervisors = tuple(f"127.0.0.1:{held.getsockname()[1]}" for held in (one, two))
    member = Cluster("r", "u", 1, ("127.0.0.1:1", "127.0.0.1:2"), supervisors)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert supervisor.supervise(Config(data=prepared, join_timeout=5), member) == Exit.TRY_AGAIN
    finally:
        signal.signal(signal.SIGTERM, before)
    record = shown(capfd)[0][-1]
    assert record.reason == "peers-missing"
    assert str(record.message).startswith("not all of the 2 workers joined within 5 s: worker 0 does not answer at")


@pytest.mark.parametrize(("min_workers", "phases"), [(1, ["waiting", "failed"]), (0, ["waiting"])])
def test_a_worker_tells_rank_0_that_it_has_ended(
    min_workers: int, phases: list[str], prepared: Path, trainer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others then do not wait for it; without --min-workers they wait for its replacement anyway."""
    trainer("exit 0")
    requests: list[Request] = []

    def ask(_: object, request: Request) -> str:
        requests.append(request)
        return "worker 0 does not answer"

    monkeypatch.setattr(peers, "EVERY_S", 1e6)
    monkeypatch.setattr(peers.Peers, "_ask", ask)
    # A name of its own: threads of workers in earlier tests may still send requests.
    member = Cluster("own", "u", 1, ("127.0.0.1:1", "127.0.0.1:2"), ("127.0.0.1:3", "127.0.0.1:0"))
    config = Config(data=prepared, join_timeout=1, min_workers=min_workers)
    assert supervisor.supervise(config, member) == Exit.TRY_AGAIN
    assert [request.phase for request in requests if request.run == "own"] == phases


def test_a_run_that_needs_few_workers_begins_before_it_gives_up(
    prepared: Path, trainer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """After half of --join-timeout. A trainer that does not join those that were taken in is no restart of its own."""
    monkeypatch.setattr(watchdog, "JOIN_S", 1.0)
    monkeypatch.setattr(Rendezvous, "tries_newcomers", lambda *_: True)
    missing = send("failed", code=75, reason="peers-missing", message="not all came") + "exit 75"
    trainer(
        f"if [ $n = 3 ]; then exit 76; fi\nif [ $n = 2 ]; then {missing}; fi\n"
        f"{send('joining')}while :; do sleep 0.1; done"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    two = Cluster("r", "u", 0, ("127.0.0.1:1", "127.0.0.1:2"), (address, "127.0.0.1:3"))
    config = Config(data=prepared, join_timeout=8, min_workers=1)
    assert supervisor.supervise(config, two) == Exit.NOT_FINITE
    message = "TensorFlow has not connected the workers within 1 s, although all have started"
    assert [(r.reason, r.message, r.restarts) for r in shown(capfd)[0] if r.phase == "restarting"] == [
        ("peer-lost", message, 0),
        ("peer-lost", "not all came", 0),
    ]


def test_a_node_without_room_for_a_process_ends_the_worker(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker ends with 75 and a message, not as a bug."""
    trainer("exit 0")

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert supervised(prepared) == Exit.TRY_AGAIN
    message = termination_message(tmp_path)
    assert (message["code"], message["reason"]) == (Exit.TRY_AGAIN, "no-process")
    assert message["message"] == "a process cannot be started: Resource temporarily unavailable"


@pytest.mark.parametrize("phase", ["starting", "data", "joining", "compiling"])
def test_a_cpu_without_an_instruction_is_final_at_once(
    phase: str, prepared: Path, trainer: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same would happen at every start. The sentence names the CPU and what it lacks."""
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Old CPU\nflags\t\t: fpu sse4_2\n")
    trainer(send(phase) + "kill -ILL $$")
    assert supervised(prepared) == Exit.BUG
    assert starts(tmp_path) == 1
    message = termination_message(tmp_path)
    assert (message["code"], message["reason"]) == (Exit.BUG, "cpu-unfit")
    why = "TensorFlow cannot run on this CPU (Old CPU, without AVX): SIGILL ended its process"
    assert message["message"] == why
    assert message["hint"] == (
        "use another machine, or a node with another CPU (--node-selector), or a build of TensorFlow for this CPU"
    )


def test_the_same_signal_after_a_step_is_a_crash(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    """A trainer that made a step has all instructions, so it is started again."""
    trainer(f"[ $n = 2 ] && {{ {send('published', code=0)} exit 0; }}\n" + send("training", step=1) + "kill -ILL $$")
    assert supervised(prepared) == Exit.OK
    assert starts(tmp_path) == 2


def test_no_gpu_on_this_node_ends_the_worker_at_once(
    prepared: Path, trainer: Callable[[str], None], tmp_path: Path
) -> None:
    """A restart here would find no GPU either; a replacement may start on another node."""
    trainer(send("failed", code=75, reason="no-gpu", message="none here") + "exit 75")
    assert supervised(prepared) == Exit.TRY_AGAIN
    assert starts(tmp_path) == 1
    assert termination_message(tmp_path)["reason"] == "no-gpu"
