"""What a local run shows: a progress bar on a terminal, logfmt lines elsewhere, and a summary at the end."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from job import telemetry
from job.errors import Exit
from job.streams import or_discard
from job.supervisor.restart_policy import CAUSED_BY_PEER
from job.system import process
from job.system.files import read_json

if TYPE_CHECKING:
    from job.config import Config
    from job.telemetry import Record


TRAINER_PHASES = ("data", "joining", "compiling", "training", "evaluating", "publishing")
WIDE = 100  # columns of a terminal that have room for the accuracy


def choose_display(config: Config, run: str) -> Lines:
    """The display that suits standard output."""
    return (Terminal if can_redraw() else Lines)(config, run)


def can_redraw() -> bool:
    """Whether standard output is a terminal on which rich changes lines that it has written."""
    console = Console()  # which takes a pipe for a terminal if FORCE_COLOR is set
    return sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal


class Lines:
    """Logfmt lines: rank 0's records, and of the other workers the first record of each phase.

    Used as a context manager around the run.
    """

    def __init__(self, config: Config, run: str) -> None:
        self._config, self._run = config, run
        self._model = config.output / "models" / run
        self._phases: dict[int, str] = {}
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, record: Record) -> None:
        """Show a worker's record."""
        if record.rank == 0 or self._phases.get(record.rank) != record.phase:
            telemetry.write_line(telemetry.to_logfmt(record))
        self._phases[record.rank] = record.phase

    def note(self, rank: int, line: str) -> None:
        """Show a line of a worker's standard error."""
        telemetry.write_line(self._prefix(rank) + line, sys.stderr)

    def restarted(self, rank: int, code: int, record: Record | None, delay_s: float) -> None:
        """Show why a worker is started again, and when if that is not at once."""
        when = f" in {delay_s:.0f} s" if delay_s >= 1 else ""
        self.note(rank, f"{describe_exit(code, record)}; it is started again{when}")

    def lost(self, rank: int, code: int, record: Record | None) -> None:
        """Show why a worker is not started again, although the run goes on."""
        self.note(rank, f"{describe_exit(code, record)}; it is not started again, and the others go on without it")

    def failed(self, rank: int, code: int, record: Record | None) -> None:
        """Print on standard error why the run failed, by the exit of the worker that ended it."""
        hint = f"; {record.hint}" if record and record.hint else ""
        telemetry.write_line(f"error: {self._prefix(rank)}{describe_exit(code, record)}{hint}", sys.stderr)

    def summary(self, code: int) -> None:
        """Print the published model's accuracy and where it and its report are; a rejection is an error."""
        files = self._model / "report.json", self._config.output / "runs" / self._run / "verdict.json"
        try:
            report, verdict = (read_json(file) or {} for file in files)
            self._show_result(report, verdict)
            reason = verdict["reason"]
        except (ValueError, KeyError, TypeError):  # the run is published; a damaged report does not change that
            telemetry.write_line(f"error: {files[0]} or {files[1]} is damaged or missing", sys.stderr)
            reason = "its verdict cannot be read"
        if code == Exit.REJECTED:
            message = f"{self._run} is published, but rejected: {reason}; `latest` did not move"
            telemetry.write_line(f"error: {message}", sys.stderr)

    def _show_result(self, report: dict[str, Any], verdict: dict[str, Any]) -> None:
        low, high = report["test"]["accuracy_interval"]
        values = {
            "run": self._run,
            "phase": "done",
            "accuracy": f"{report['test']['accuracy']:.4f}",
            "accuracy_low": f"{low:.4f}",
            "accuracy_high": f"{high:.4f}",
            "verdict": verdict["verdict"],
            "seconds": f"{time.monotonic() - self._started:.1f}",
            "model": self._model / "saved_model" / "1",
            "report": self._model / "report.html",
        }
        telemetry.write_line(" ".join(f"{name}={telemetry.logfmt_value(value)}" for name, value in values.items()))

    def _prefix(self, rank: int) -> str:
        return f"worker {rank}: " if self._config.workers > 1 else ""


def describe_exit(code: int, record: Record | None) -> str:
    """How a worker ended: its own message, if it sent one."""
    if record:
        return str(record.message)
    if code > 128:
        return f"the worker was killed by {process.signal_name(code)}"
    return f"the worker exited with code {code} and no message"


class PhaseColumn(BarColumn):
    """A bar in the training phase, text in the others."""

    def render(self, task: Task) -> Any:
        """The column of a phase."""
        return super().render(task) if task.description == "training" else Text(task.fields["detail"])


class UntilClosed:
    """Standard output. After the terminal was closed, what is written to it is discarded, and the run goes on."""

    def __init__(self) -> None:
        self._stream = sys.stdout

    def write(self, text: str) -> int:
        """Write, or discard."""
        with or_discard(self._stream):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or discard."""
        with or_discard(self._stream):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Terminal(Lines):
    """The phases of rank 0's last start below each other, with a bar for the training."""

    def __init__(self, config: Config, run: str) -> None:
        super().__init__(config, run)
        self._console = Console(highlight=False, emoji=False, file=cast("TextIO", UntilClosed()))
        columns: list[str | ProgressColumn] = [
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<10}"),
            PhaseColumn(bar_width=40),
            TextColumn("{task.fields[figures]}"),
        ]
        self._progress = Progress(*columns, console=self._console)
        self._task: TaskID | None = None
        self._phase, self._steps = "", 1  # the current phase, and its steps

    def __enter__(self) -> Self:
        workers = self._config.workers
        self._console.print(f"[bold]{self._run}[/] with {workers} worker{'s' if workers > 1 else ''}")
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, record: Record) -> None:
        """Show rank 0's record, and why the trainers of the others were restarted."""
        if record.phase == "restarting":
            self._show_restart(record)
        elif record.rank == 0:
            self._show_phase(record)

    def _show_restart(self, record: Record) -> None:
        if record.reason not in CAUSED_BY_PEER:
            self.note(record.rank, f"{record.message}; starting it again")
        if record.rank == 0:
            self._start_again()

    def _start_again(self) -> None:
        """Remove the phases of the previous start, whose last phase did not finish."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._task, self._phase = None, ""

    def _show_phase(self, record: Record) -> None:
        if record.phase == "failed":
            self._start_again()
            return
        shown = [task.description for task in self._progress.tasks]
        if record.phase != self._phase and record.phase in shown and self._phase in TRAINER_PHASES:
            self._start_again()
        if record.phase == "published" and not self._phase:
            self._console.print(record.message)  # the run was published before
        if record.phase == "restoring":
            self.note(record.rank, str(record.message))
        elif record.phase != self._phase:
            self._start_phase(record)
        if self._task is None:
            return
        if record.joined is not None:
            self._progress.update(self._task, detail=f"{record.joined} of {self._config.workers}")
        elif record.message and record.phase not in {"published", "restoring"}:
            self._progress.update(self._task, detail=record.message)
        if record.phase == "training" and record.loss is not None:
            text = training_figures(record, wide=self._console.width >= WIDE)
            self._progress.update(self._task, completed=record.step, figures=text)

    def _start_phase(self, record: Record) -> None:
        """Tick off the previous phase and start another."""
        if self._task is not None:
            self._progress.update(self._task, total=self._steps, completed=self._steps)
        self._phase = record.phase
        if record.phase != "published":
            steps = record.steps if record.phase == "training" else None
            self._steps = steps or 1
            self._task = self._progress.add_task(record.phase, total=steps, detail="", figures="")

    def note(self, rank: int, line: str) -> None:
        """Print a line above the phases."""
        self._progress.console.print(self._prefix(rank) + line, markup=False, soft_wrap=True)

    def failed(self, rank: int, code: int, record: Record | None) -> None:
        """Stop the display, and print why the run failed."""
        self._progress.stop()
        super().failed(rank, code, record)

    def _show_result(self, report: dict[str, Any], verdict: dict[str, Any]) -> None:
        test, timing = report["test"], report["timing"]
        low, high = test["accuracy_interval"]
        interval = f"95% interval {low:.4f} to {high:.4f}, {test['correct']:,} of {test['examples']:,} test images"
        speed = f"{timing['us_per_step']:.0f} µs a step, {timing['examples_per_s']:,.0f} examples/s"
        seconds = time.monotonic() - self._started
        table = Table.grid("", Column(overflow="fold"), padding=(0, 2))
        table.add_row("accuracy", f"[bold]{test['accuracy']:.4f}[/]  ({interval})")
        table.add_row("seconds", f"{seconds:.1f}, including {timing['training_s']:.1f} of training ({speed})")
        table.add_row("model", Text(str(self._model / "saved_model" / "1")))
        table.add_row("report", Text(str(self._model / "report.html")))
        table.add_row("latest", f"{verdict['verdict']}: {verdict['reason']}")
        self._console.print(table)


def training_figures(record: Record, *, wide: bool) -> str:
    """Step, loss, speed and remaining time of a training record, within 80 columns.

    Beyond them, the number of workers if some are missing, and the accuracy.
    """
    remaining = timedelta(seconds=round(record.eta_s or 0))
    workers = f"  {record.joined} workers" if record.joined is not None and wide else ""
    accuracy = f"  accuracy {record.accuracy:.4f}" if record.accuracy is not None and wide else ""
    return (
        f"{record.step:,}/{record.steps:,}  loss {record.loss:.4f}  "
        f"{record.examples_per_s:,.0f} examples/s  {remaining} left{workers}{accuracy}"
    )
