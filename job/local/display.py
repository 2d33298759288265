"""What a local run shows: phases and a progress bar on a terminal, logfmt lines elsewhere, and a summary at the end."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from job import telemetry
from job.errors import Exit
from job.supervisor.restart_policy import CAUSED_BY_PEER
from job.system import process
from job.system.files import read_json

if TYPE_CHECKING:
    from job.config import Config
    from job.telemetry import Record


SAID = {"published", "restoring"}  # phases whose message is printed as a line of its own


def display(config: Config, run: str) -> Lines:
    """The display that suits where standard output goes."""
    return (Terminal if sys.stdout.isatty() else Lines)(config, run)


class Lines:
    """Logfmt: rank 0's records, and of the other workers those with which a phase begins.

    Used as a context manager around the run.
    """

    def __init__(self, config: Config, run: str) -> None:
        self._config, self._run = config, run
        self._model = config.output / "models" / run
        self._phases: dict[int, str] = {}
        self._began = time.monotonic()

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
        """Show a line that a worker wrote on standard error."""
        telemetry.write_line(self._named(rank, line), sys.stderr)

    def restarted(self, rank: int, code: int, record: Record | None) -> None:
        """Say why a worker is started again."""
        self.note(rank, f"{_ending(code, record)}; started again")

    def failed(self, rank: int, code: int, record: Record | None) -> None:
        """Say on standard error why the run failed, from the record of the worker that failed first if it left one."""
        text = _ending(code, record)
        if record and record.hint:
            text += f"; {record.hint}"
        telemetry.write_line(f"error: {self._named(rank, text)}", sys.stderr)

    def summary(self, code: int) -> None:
        """Print how good the published model is, and where it and its report are; that it was rejected is an error."""
        telemetry.write_line(
            " ".join(f"{name}={telemetry.logfmt_value(value)}" for name, value in self._result().items())
        )
        self._rejection(code)

    def _rejection(self, code: int) -> None:
        if code == Exit.REJECTED:
            reason = f"{self._run} is published, but rejected: {self._verdict()['reason']}"
            telemetry.write_line(f"error: {reason}; `latest` is unmoved", sys.stderr)

    def _named(self, rank: int, text: str) -> str:
        return f"worker {rank}: {text}" if self._config.workers > 1 else text

    def _result(self) -> dict[str, Any]:
        report = self._report()
        low, high = report["test"]["accuracy_interval"]
        return {
            "run": self._run,
            "phase": "done",
            "accuracy": f"{report['test']['accuracy']:.4f}",
            "accuracy_low": f"{low:.4f}",
            "accuracy_high": f"{high:.4f}",
            "verdict": self._verdict()["verdict"],
            "seconds": f"{time.monotonic() - self._began:.1f}",
            "model": self._model / "saved_model" / "1",
            "report": self._model / "report.html",
        }

    def _report(self) -> dict[str, Any]:
        return read_json(self._model / "report.json") or {}

    def _verdict(self) -> dict[str, Any]:
        return read_json(self._config.output / "runs" / self._run / "verdict.json") or {}


def _ending(code: int, record: Record | None) -> str:
    """How a worker ended, in its own words if it left any."""
    if record:
        return str(record.message)
    if code > 128:
        return f"the worker was killed by {process.signal_name(code)}"
    return f"the worker ended with {code} and said nothing"


class _Bar(BarColumn):
    """A bar for the training, words for the other phases."""

    def render(self, task: Task) -> Any:
        return super().render(task) if task.description == "training" else Text(task.fields["detail"])


class Terminal(Lines):
    """The phases one below the other, with a bar for the training."""

    def __init__(self, config: Config, run: str) -> None:
        super().__init__(config, run)
        self._console = Console(highlight=False)
        columns: list[str | ProgressColumn] = [
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<10}"),
            _Bar(bar_width=40),
            TextColumn("{task.fields[figures]}"),
        ]
        self._progress = Progress(*columns, console=self._console)
        self._task: Any = None
        self._phase = ""

    def __enter__(self) -> Self:
        workers = self._config.workers
        self._console.print(f"[bold]{self._run}[/] with {workers} worker{'s' if workers > 1 else ''}")
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, record: Record) -> None:
        """Show rank 0's record as it is, and of the others why their trainers were started again."""
        if record.phase == "restarting":
            if record.reason not in CAUSED_BY_PEER:
                self.note(record.rank, f"{record.message}; starting it again")
            if record.rank == 0 and self._task is not None:
                self._progress.remove_task(self._task)  # it was not finished, and comes again
                self._task, self._phase = None, ""
            return
        if record.rank > 0:
            return
        if record.phase == "published" and not self._phase:
            self._console.print(record.message)
        if record.phase == "restoring":
            self.note(record.rank, str(record.message))
        elif record.phase != self._phase:
            self._begin(record)
        if record.joined is not None or record.message:
            self._say(record)
        if record.phase == "training" and record.loss is not None:
            left = timedelta(seconds=round(record.eta_s or 0))
            # 80 columns have room for the others.
            shown = record.accuracy is not None and self._console.width >= 100
            accuracy = f"  accuracy {record.accuracy:.4f}" if shown else ""
            figures = (
                f"{record.step:,}/{record.steps:,}  loss {record.loss:.4f}  "
                f"{record.examples_per_s:,.0f} examples/s  {left} left{accuracy}"
            )
            self._progress.update(self._task, completed=record.step, figures=figures)

    def _say(self, record: Record) -> None:
        """Show what a record says in words beside its phase."""
        if record.joined is not None:
            self._progress.update(self._task, detail=f"{record.joined} of {self._config.workers}")
        elif record.phase not in SAID:
            self._progress.update(self._task, detail=str(record.message))

    def note(self, rank: int, line: str) -> None:
        """Print a line above the phases."""
        self._progress.console.print(self._named(rank, line), markup=False, soft_wrap=True)

    def failed(self, rank: int, code: int, record: Record | None) -> None:
        """Stop the display and say why."""
        self._progress.stop()
        super().failed(rank, code, record)

    def summary(self, code: int) -> None:
        """Print the result as a small table."""
        report, verdict = self._report(), self._verdict()
        test, timing = report["test"], report["timing"]
        low, high = test["accuracy_interval"]
        table = Table.grid("", Column(overflow="fold"), padding=(0, 2))
        interval = f"95% interval {low:.4f} to {high:.4f}, {test['correct']:,} of {test['examples']:,} test images"
        speed = f"{timing['us_per_step']:.0f} µs a step, {timing['examples_per_s']:,.0f} examples/s"
        table.add_row("accuracy", f"[bold]{test['accuracy']:.4f}[/]  ({interval})")
        seconds = time.monotonic() - self._began
        table.add_row("seconds", f"{seconds:.1f}, of which training {timing['training_s']:.1f} ({speed})")
        table.add_row("model", Text(str(self._model / "saved_model" / "1")))
        table.add_row("report", Text(str(self._model / "report.html")))
        table.add_row("latest", f"{verdict['verdict']}: {verdict['reason']}")
        self._console.print(table)
        self._rejection(code)

    def _begin(self, record: Record) -> None:
        """Tick off the phase before and begin another."""
        if self._task is not None:
            task = self._progress.tasks[self._task]
            self._progress.update(self._task, total=task.total or 1, completed=task.total or 1)
        self._phase = record.phase
        if record.phase != "published":
            total = record.steps if record.phase == "training" else None
            self._task = self._progress.add_task(record.phase, total=total, detail="", figures="")
