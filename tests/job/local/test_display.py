"""What a real terminal shows: phases, a bar, a summary; and errors on standard error."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from job.config import Config
from job.errors import Exit
from job.local.display import Lines, Terminal, choose_display
from job.telemetry import Record
from tests.job import processes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.job.conftest import Trained

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(r"training +━+ +([\d,]+)/([\d,]+)  loss (\d+\.\d{4})  ([\d,]+) examples/s  (\d:\d\d:\d\d) left")


class Screen(NamedTuple):
    """What a command wrote on a terminal, raw and without escape sequences, and on a separate standard error."""

    code: int
    raw: str
    text: str
    stderr: str


def on_terminal(
    *arguments: object,
    columns: int = 80,
    typed: tuple[str, bytes] | None = None,
    variables: dict[str, str] | None = None,
) -> Screen:
    """Run `python -m job train` on a terminal of its own.

    Args:
        arguments: its flags.
        columns: the terminal's width.
        typed: keys, typed once the text before them has appeared.
        variables: more environment variables.
    """
    terminal, device = pty.openpty()
    fcntl.ioctl(device, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    own = processes.environment(variables)
    without_size = {name: value for name, value in own.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = subprocess.Popen(
        processes.command(*arguments),
        cwd=processes.ROOT,
        env=without_size | {"TERM": "xterm-256color"},
        stdin=device,
        stdout=device,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - Ctrl-C needs a controlling terminal
    )
    os.close(device)
    raw = b""
    deadline = time.monotonic() + processes.DEADLINE_S
    with process, os.fdopen(terminal, "rb+", buffering=0) as stream:
        try:
            while time.monotonic() < deadline and (more := stream.read(65536)):
                raw += more
                if typed and typed[0].encode() in raw:
                    stream.write(typed[1])
                    typed = None
        except OSError:  # EIO: the command has ended
            pass
        process.wait(processes.DEADLINE_S)
        assert process.stderr
        stderr = process.stderr.read().decode()
    text = raw.decode()
    # An erased line is written again.
    return Screen(process.returncode, text, ESCAPE.sub("", text.replace("\x1b[2K", "\n")).replace("\r", ""), stderr)


def test_a_run_on_a_terminal(prepared: Path, tmp_path: Path) -> None:
    """Phases are ticked off, the bar shows step, loss, speed and time left within 80 columns, and a summary follows."""
    output = tmp_path / "output"
    flags = ["--name=run", "--workers=2", "--epochs=50"]
    screen = on_terminal("--data", prepared, "--output", output, *flags)
    assert (screen.code, screen.stderr) == (0, "")
    lines = [line.rstrip() for line in screen.text.splitlines()]
    assert lines[0] == "run with 2 workers"
    summary = lines.index(next(line for line in lines if line.startswith("accuracy ")))
    *phases, training, evaluating, publishing = [line for line in lines[:summary] if line][-7:]
    assert [re.sub(" +", " ", line) for line in [*phases, evaluating, publishing]] == [
        "✓ waiting 2 of 2",
        "✓ data",
        "✓ joining",
        "✓ compiling",
        "✓ evaluating",
        "✓ publishing",
    ]
    bar = BAR.search(training)
    assert bar, training
    assert bar.groups()[:2] == ("300", "300")
    assert bar.group(5) == "0:00:00"
    assert max(len(line) for line in lines) <= 80
    assert "…" not in screen.text  # in no frame
    assert screen.raw.count("\x1b[?25l") == screen.raw.count("\x1b[?25h") == 1  # the cursor is visible again
    assert re.fullmatch(
        r"accuracy +0\.\d{4}  \(95% interval 0\.\d{4} to [01]\.\d{4}, \d+ of 200 test images\)|"
        r"accuracy +1\.0000  \(95% interval 0\.\d{4} to 1\.0000, 200 of 200 test images\)",
        lines[summary],
    )
    assert re.match(r"seconds +\d+\.\d, including \d+\.\d of training \(\d+ µs a step, ", lines[summary + 1])
    rest = "".join(line.replace(" ", "") for line in lines[summary + 2 :])
    model = output / "models" / "run"
    assert f"model{model}/saved_model/1report{model}/report.htmllatestpromoted:" in rest


def test_a_published_run_on_a_narrow_terminal(trained: Trained) -> None:
    """The terminal says that the run was published before, and folds paths on 40 columns instead of cutting them."""
    screen = on_terminal("--data", trained.data, "--output", trained.output, "--name=good", "--epochs=2", columns=40)
    assert (screen.code, screen.stderr) == (0, "")
    flat = re.sub(r"\s+", "", screen.text)
    assert "publishedbefore:therewasnomodelbefore" in flat
    assert f"report{trained.output}/models/good/report.html" in flat
    assert max(len(line.rstrip()) for line in screen.text.splitlines()) <= 40


def test_brackets_in_a_path_are_shown(trained: Trained, tmp_path: Path) -> None:
    """A path is not read as markup."""
    output = tmp_path / "[bold]a[" / "b]"
    output.parent.mkdir()
    output.symlink_to(trained.output)
    screen = on_terminal("--data", trained.data, "--output", output, "--name=good", "--epochs=2", columns=300)
    assert (screen.code, screen.stderr) == (0, "")
    assert f"{output}/models/good/report.html" in screen.text


def test_an_error_goes_to_standard_error(prepared: Path, tmp_path: Path) -> None:
    """If standard error is not the terminal, the sentence is on standard error alone."""
    (tmp_path / "file").write_text("")
    screen = on_terminal("--data", prepared, "--output", tmp_path / "file" / "x")
    assert screen.code == Exit.OUTPUT
    assert screen.stderr.startswith("error: the output folder cannot be written at ")
    assert screen.stderr.count("\n") == 1
    assert "error" not in screen.text


def test_ctrl_c_typed_on_a_terminal(prepared: Path, loading: dict[str, str], tmp_path: Path) -> None:
    """It ends the run with 130 and one sentence, and the cursor is visible again."""
    flags = ["--output", tmp_path / "output", "--workers=2"]
    screen = on_terminal("--data", prepared, *flags, typed=("waiting", b"\x03"), variables=loading)
    assert (screen.code, screen.stderr) == (Exit.INTERRUPTED, "error: interrupted by Ctrl-C\n")
    assert screen.raw.count("\x1b[?25l") == screen.raw.count("\x1b[?25h") == 1
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("code", "record", "sentence"),
    [
        (75, Record(0, "r", 1, "failed", message="it broke", hint="fix it"), "it broke; fix it"),
        (76, Record(0, "r", 1, "failed", message="it broke"), "it broke"),
        (137, None, "the worker was killed by SIGKILL"),
        (3, None, "the worker exited with code 3 and no message"),
    ],
)
@pytest.mark.parametrize(("workers", "prefix"), [(1, ""), (2, "worker 1: ")])
def test_a_failure_is_one_sentence(
    code: int, record: Record | None, sentence: str, workers: int, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts with `error: `, names the worker if there are several, or gives the exit code."""
    Lines(Config(workers=workers), "r").failed(1, code, record)
    assert capsys.readouterr() == ("", f"error: {prefix}{sentence}\n")


@pytest.mark.parametrize(("delay_s", "when"), [(0.0, ""), (0.4, ""), (1.6, " in 2 s"), (8.4, " in 8 s")])
def test_a_restart_says_when_it_comes(delay_s: float, when: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message gives the delay in seconds, unless there is none."""
    Lines(Config(workers=2), "r").restarted(1, 137, None, delay_s)
    assert capsys.readouterr().err == f"worker 1: the worker was killed by SIGKILL; it is started again{when}\n"


RESTARTED = (
    Record(0, "r", 0, "pulling"),
    Record(0, "r", 0, "waiting", joined=1),
    Record(0, "r", 0, "joining"),
    Record(0, "r", 0, "training", step=5, steps=10, loss=0.5, examples_per_s=1000.0, eta_s=1.0),
    Record(0, "r", 0, "restarting", reason="killed", message="the trainer was killed by SIGKILL"),
    Record(0, "r", 0, "waiting", joined=1),
    Record(0, "r", 0, "starting"),  # as `submit --wait` says of other pods
    Record(0, "r", 0, "waiting", joined=2),
    Record(0, "r", 0, "joining"),
    Record(0, "r", 0, "restoring", message="a checkpoint is damaged"),
    Record(0, "r", 0, "restoring", message="resumed at step 5"),
    Record(0, "r", 0, "training", step=10, steps=10, loss=0.25, examples_per_s=1000.0, eta_s=0.0),
    Record(0, "r", 0, "evaluating"),
    Record(0, "r", 0, "published"),
)


def test_a_restart_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The cause is shown, and the phases start again."""
    with Terminal(Config(workers=2), "r") as display:
        for record in RESTARTED:
            display.show(record)
    lines = [re.sub("(━)+| +", r"\1 ", line).strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line] == [
        "r with 2 workers",
        "worker 0: the trainer was killed by SIGKILL; starting it again",
        "worker 0: a checkpoint is damaged",
        "worker 0: resumed at step 5",
        "✓ waiting 1 of 2",
        "✓ starting",
        "✓ waiting 2 of 2",
        "✓ joining",
        "✓ training ━  10/10 loss 0.2500 1,000 examples/s 0:00:00 left",
        "✓ evaluating",
    ]


@pytest.mark.parametrize("phases", [["waiting", "training", "waiting"], ["training", "failed", "waiting"]])
def test_a_worker_0_that_is_replaced(phases: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A phase that did not end well is not ticked off: a new pod or process begins with an earlier phase."""
    with Terminal(Config(workers=2), "r") as display:
        for phase in phases:
            display.show(Record(0, "r", 0, phase, joined=1 if phase == "waiting" else None))
        display.note(1, "a line :100: of Python's")
    lines = [re.sub("[⠀-⣿]| +", " ", line).strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line] == [
        "r with 2 workers",
        "worker 1: a line :100: of Python's",
        "waiting 1 of 2",
    ]


@pytest.mark.parametrize(("kind", "redraws"), [("xterm-256color", True), ("dumb", False)])
def test_only_a_terminal_that_can_redraw_shows_phases(
    kind: str, redraws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other, such as an editor's, and a pipe show the records as lines, whatever the environment says."""
    terminal, device = pty.openpty()
    monkeypatch.setenv("TERM", kind)
    with os.fdopen(terminal, "rb"), os.fdopen(device, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert isinstance(choose_display(Config(), "r"), Terminal) == redraws
    monkeypatch.setenv("FORCE_COLOR", "1")
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert not isinstance(choose_display(Config(), "r"), Terminal)


def test_a_terminal_that_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that does not heed the end of its terminal goes on, and writes nothing more."""
    terminal, device = pty.openpty()
    with os.fdopen(device, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with Terminal(Config(workers=2), "r") as display:
            os.close(terminal)
            for record in RESTARTED:
                display.show(record)
            display.note(1, "a line of TensorFlow's")
            display.lost(1, 137, None)


def test_lines_show_rank_0_and_the_phases_of_the_other_workers(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the first record of each phase is shown of a rank above 0."""
    display = Lines(Config(workers=2), "r")
    for step in (1, 2):
        for rank in (0, 1):
            display.show(Record(0, "r", rank, "training", step=step))
    display.show(Record(0, "r", 1, "evaluating"))
    display.note(1, "a line of TensorFlow's")
    shown = capsys.readouterr()
    assert re.findall(r"rank=(\d) phase=(\w+) ?(?:step=(\d))?", shown.out) == [
        ("0", "training", "1"),
        ("1", "training", "1"),
        ("0", "training", "2"),
        ("1", "evaluating", ""),
    ]
    assert shown.err == "worker 1: a line of TensorFlow's\n"
