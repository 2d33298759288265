"""How runs, ranks, schedules and events are drawn: columns as kubectl prints them, one line for each row. Pure.

The rows are the dicts that k8s/view/summary.py makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k8s.state.run import State
from k8s.view.output import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GAP = "   "
BOLD, GREEN, RED, PLAIN = "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[0m"
COLOURS = {"published": GREEN, "failed": RED, "rejected": RED}  # by the first word of a state


@dataclass(frozen=True)
class Style:
    """What to draw: wide adds images, claims, nodes and long details; namespaces a column; colour suits a terminal."""

    wide: bool = False
    namespaces: bool = False
    colour: bool = False


def draw_result(result: Mapping[str, Any], style: Style) -> str:
    """Draw all runs and schedules, or one run rank by rank, or one schedule with its runs."""
    if "runs" in result:
        parts = [run_table(result["runs"], style) if result["runs"] else "there are no runs"]
        parts += [schedule_table(result["schedules"], style)] if result["schedules"] else []
    elif "cron" in result:
        runs = run_table(result["history"], style) if result["history"] else "it has no runs yet"
        parts = [schedule_table([result], style), runs, *event_table(result["events"], style)]
    else:
        parts = [run_header(result, style), rank_table(result["ranks"], style), *event_table(result["events"], style)]
    return "\n\n".join(parts)


def run_table(runs: Sequence[Mapping[str, Any]], style: Style) -> str:
    """Runs, a row each."""
    headings, rows = ["RUN", "STATE", "WORKERS", "AGE", "ACCURACY"], []
    for r in runs:
        figures = [r["workers"], format_duration(r["age_s"]), format_accuracy(r["accuracy"])]
        wide = [r["image"], r["claim"], ",".join(r["nodes"]), r["detail"]] if style.wide else []
        rows.append([r["name"], short_state(r), *figures, *wide])
    headings += ["IMAGE", "CLAIM", "NODES", "DETAIL"] if style.wide else []
    return item_table(headings, rows, runs, style)


def schedule_table(schedules: Sequence[Mapping[str, Any]], style: Style) -> str:
    """Schedules, a row each; times are in the schedule's time zone."""
    headings = ["SCHEDULE", "STATE", "CRON", "NEXT", "MISSED", "LAST RUN", "FAILURES"]
    rows = []
    for s in schedules:
        last = f"{short_state(s['last'])} {format_accuracy(s['last']['accuracy'])}" if s["last"] else ""
        failures = f"{'at least ' if s['failures_at_least'] else ''}{s['failures']}"
        times = [format_time(s["next"]), format_time(s["missed"])]
        wide = [s["image"], s["claim"]] if style.wide else []
        rows.append([s["name"], state_text(s), f"{s['cron']} {s['timezone']}", *times, last, failures, *wide])
    headings += ["IMAGE", "CLAIM"] if style.wide else []
    return item_table(headings, rows, schedules, style)


def run_header(run: Mapping[str, Any], style: Style) -> str:
    """One run's state, progress and accuracy, a line each."""
    lines = [f"{run['name']}: {state_text(run)}, {format_duration(run['age_s'])} old"]
    lines += [f"waits for Kueue: {run['kueue']}"] if run["kueue"] else []
    progress = run["progress"]
    if progress and progress["steps"] and not run["ended"]:
        figures = [f"step {progress['step'] or 0:,} of {progress['steps']:,}"]
        figures += [] if progress["loss"] is None else [f"loss {progress['loss']:.4f}"]
        figures += [] if progress["examples_per_s"] is None else [f"{progress['examples_per_s']:,.0f} examples/s"]
        figures += [] if progress["eta_s"] is None else [f"{format_duration(progress['eta_s'])} left"]
        lines.append(", ".join(figures))
    if run["accuracy"] is not None:
        lines.append(f"accuracy {run['accuracy']:.4f}")
    if run["time"]:
        lines.append(time_line(run["time"]))
    if style.wide:
        model = f"model {run['model_map']}, " if run["model_map"] else ""
        lines.append(f"image {run['image']}, {model}claim {run['claim']}")
    return printable("\n".join(lines))


def time_line(time: Mapping[str, Any]) -> str:
    """Where the time of a run went."""
    parts = [f"{part} {format_duration(seconds)}" for part, seconds in time["spent_s"].items()]
    cores = [] if time["core_seconds"] is None else [f"{time['core_seconds']:,.0f} core-seconds"]
    return "; ".join([", ".join(parts), f"goodput {100 * time['goodput']:.0f}%", *cores])


def rank_table(ranks: Sequence[Mapping[str, Any]], style: Style) -> str:
    """The workers of a run, a row each."""
    rows = []
    for rank in ranks:
        restarted, replaced = rank["restarted_after"], rank["replaced_after"]
        counts = [with_reasons(rank["restarts"], restarted), with_reasons(sum(replaced.values()), replaced)]
        rows.append([rank["rank"], rank["phase"], rank["node"], *counts, rank["pod"]])
    return aligned(["RANK", "PHASE", "NODE", "RESTARTS", "REPLACED", "POD"], rows, style)


def event_table(events: Sequence[Mapping[str, Any]], style: Style) -> list[str]:
    """The last events in a list of one table, or an empty list without any."""
    rows = [[e["when"], e["about"], e["reason"], " ".join(e["message"].split())] for e in events]
    return [aligned(["LAST SEEN", "OBJECT", "REASON", "MESSAGE"], rows, style)] if rows else []


def item_table(headings: list[str], rows: list[list[Any]], items: Sequence[Mapping[str, Any]], style: Style) -> str:
    """A table of runs or schedules, with their namespaces where that is asked for."""
    if style.namespaces:
        headings = ["NAMESPACE", *headings]
        rows = [[item["namespace"], *row] for item, row in zip(items, rows, strict=True)]
    return aligned(headings, rows, style)


def aligned(headings: Sequence[str], rows: Sequence[Sequence[Any]], style: Style) -> str:
    """Rows under headings, each column as wide as its longest cell."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]

    def line(row: Sequence[str], colour: str = "") -> str:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if colour and style.colour:
            padded = [f"{colour}{cell}{PLAIN}" for cell in padded]
        return GAP.join(padded).rstrip()

    def colour_of(row: Sequence[str]) -> str:
        words = row[headings.index("STATE")].split(":")[0] if "STATE" in headings else ""
        return COLOURS.get(words, "")

    return "\n".join([line(headings, BOLD), *(line(row, colour_of(row)) for row in cells)])


def state_text(item: Mapping[str, Any]) -> str:
    """The state of a run or a schedule, with its detail."""
    return str(State(item["state"], item["detail"]))


def short_state(run: Mapping[str, Any]) -> str:
    """A run's state for a table: without the sentence about `latest` that a published model has."""
    return str(run["state"]) if run["state"] in ("published", "rejected") else state_text(run)


def with_reasons(number: int, reasons: Mapping[str, int]) -> str:
    """A count with its reasons: 3 (2 killed, 1 stalled)."""
    text = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{number} ({text})" if text else str(number)


def format_duration(seconds: float) -> str:
    """A duration in its largest suitable unit: 45s, 12m, 3h, 2d."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def format_accuracy(value: float | None) -> str:
    """An accuracy in four digits; empty without one."""
    return "" if value is None else f"{value:.4f}"


def format_time(timestamp: str | None) -> str:
    """A time in RFC 3339 cut to the minute; empty without one."""
    return timestamp[:16].replace("T", " ") if timestamp else ""
