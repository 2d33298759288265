"""status: show all runs and schedules, or one run rank by rank, or one schedule with its runs.

All of them take three lists, and a look into the log of those that train just now.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from job import telemetry
from k8s.api.errors import ApiError
from k8s.diagnose.evidence import gather_evidence
from k8s.state import schedule as schedules
from k8s.state.names import CONTAINER, RUNS, pods_of
from k8s.state.run import Run, State, gather_every, last_record, state
from k8s.view.summary import restart_count, run_details, run_summary, schedule_details, schedule_summary

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType

    from k8s.api.cluster import Cluster

AT_A_TIME = 8
EVERY_S = 2.0
TAIL = 2000  # lines of a log, for the reasons of restarts


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `status` takes."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="the run or the schedule; all of them without it")
    parser.add_argument("--watch", action="store_true", help="show it again and again, until the run has ended")


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Show the runs; returns the exit status."""
    cluster = connect()
    if not arguments.watch:
        show(look(cluster, arguments.name), arguments.output)
        return 0
    cluster.patience_s = float("inf")
    # What may be a long list; the Job of one run is not.
    if arguments.name and not schedules.find(cluster, arguments.name):
        cluster.keep("Pod", pods_of(arguments.name))
    else:
        cluster.keep("Pod", RUNS)
        cluster.keep("Job", RUNS)
    if arguments.output == "text" and sys.stdout.isatty():
        watch_live(cluster, arguments.name)
    else:
        watch_lines(cluster, arguments.name, arguments.output)
    return 0


def look(cluster: Cluster, name: str | None) -> dict[str, Any]:
    """What is shown, as JSON."""
    now = datetime.now(UTC)
    if name is None:
        runs = every(cluster)
        times = [schedule_summary(seen, now) for seen in schedules.every(cluster, runs)]
        return {"runs": [run_summary(seen, now) for seen in runs], "schedules": times}
    if cronjob := schedules.find(cluster, name):
        return schedule_details(schedules.gather(cluster, cronjob), now)
    seen = gather_evidence(cluster, name)
    return run_details(seen, now, restart_reasons(cluster, seen))


def every(cluster: Cluster) -> list[Run]:
    """All runs, the newest first; those at work with the newest record of their log."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(lambda seen: with_record(cluster, seen), gather_every(cluster)))


def with_record(cluster: Cluster, seen: Run) -> Run:
    """A run with the newest record of its log, if it is at work."""
    if state(seen).ended or seen.job["spec"].get("suspend"):
        return seen
    return dataclasses.replace(seen, record=last_record(cluster, seen))


def restart_reasons(cluster: Cluster, seen: Run) -> dict[int, Counter[str]]:
    """Why the trainers of workers were started again, from their own logs; of a few workers only."""
    ranks = [rank for rank in range(seen.workers) if rank in seen.newest and restart_count(seen, rank)][:AT_A_TIME]

    def read(rank: int) -> Counter[str]:
        try:
            lines = list(cluster.logs(seen.newest[rank]["metadata"]["name"], CONTAINER, tail=TAIL))
        except (ApiError, OSError):
            return Counter()
        records = [record for line in lines if (record := telemetry.parse(line))]
        return Counter(record.reason or "unknown" for record in records if record.phase == "restarting")

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return dict(zip(ranks, pool.map(read, ranks), strict=True))


def show(seen: dict[str, Any], output: str) -> None:
    """Print once."""
    if output == "json":
        print(json.dumps(seen))
        return
    from rich.console import Console  # noqa: PLC0415

    Console(highlight=False).print(drawn(seen))


def drawn(seen: dict[str, Any]) -> RenderableType:
    """What is shown on a terminal."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if "runs" in seen:
        found = run_table(seen["runs"]) if seen["runs"] else Text("there are no runs")
        return Group(found, Text(""), schedule_table(seen["schedules"])) if seen["schedules"] else found
    if "cron" in seen:
        return drawn_schedule(seen)
    parts: list[RenderableType] = [Text(f"{seen['name']}: {shown(seen)}, {ago(seen['age_s'])} old")]
    if (progress := seen["progress"]) and progress["steps"] and not seen["ended"]:
        left = "" if progress["eta_s"] is None else f", {ago(progress['eta_s'])} left"
        loss = "" if progress["loss"] is None else f", loss {progress['loss']:.4f}"
        rate = "" if progress["examples_per_s"] is None else f", {progress['examples_per_s']:,.0f} examples/s"
        parts += [Text(f"step {progress['step'] or 0:,} of {progress['steps']:,}{loss}{rate}{left}")]
    if seen["accuracy"] is not None:
        parts += [Text(f"accuracy {seen['accuracy']:.4f}")]
    rows = [rank_row(found) for found in seen["ranks"]]
    parts += [table(["rank", "phase", "node", "restarts", "replaced", "pod"], rows)]
    return Group(*parts, *event_table(seen["events"]))


def drawn_schedule(seen: dict[str, Any]) -> RenderableType:
    """One schedule on a terminal."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    runs = [Text("it has no runs yet")] if not seen["history"] else [Text(""), run_table(seen["history"])]
    return Group(schedule_table([seen]), *runs, *event_table(seen["events"]))


def schedule_table(found: list[dict[str, Any]]) -> RenderableType:
    """Schedules, a row each; times are in the schedule's zone."""

    def row(seen: dict[str, Any]) -> list[Any]:
        last, coming, missed = (
            seen["last"],
            *(when and when[:16].replace("T", " ") for when in (seen["next"], seen["missed"])),
        )
        told = f"{shown(last)} {figure(last['accuracy'])}" if last else ""
        failures = f"{'at least ' * seen['failures_at_least']}{seen['failures']}"
        return [seen["name"], shown(seen), f"{seen['cron']} {seen['timezone']}", coming, missed, told, failures]

    return table(["schedule", "state", "starts", "next", "missed", "last run", "failures"], [row(s) for s in found])


def run_table(found: list[dict[str, Any]]) -> RenderableType:
    """Runs, a row each."""
    rows = [[r["name"], shown(r), r["workers"], ago(r["age_s"]), figure(r["accuracy"])] for r in found]
    return table(["run", "state", "workers", "age", "accuracy"], rows)


def event_table(found: list[dict[str, Any]]) -> list[RenderableType]:
    """The last events, if there are any, under an empty line."""
    from rich.text import Text  # noqa: PLC0415

    events = [[e["when"], e["about"], e["reason"], e["message"]] for e in found]
    return [Text(""), table(["last events", "about", "reason", "message"], events)] if events else []


def rank_row(found: dict[str, Any]) -> list[Any]:
    """A worker, in a row."""
    restarts, replaced = found["restarted_after"], found["replaced_after"]
    again = [counted(found["restarts"], restarts), counted(sum(replaced.values()), replaced)]
    return [found["rank"], found["phase"], found["node"], *again, found["pod"]]


def table(columns: list[str], rows: list[list[Any]]) -> RenderableType:
    """Rows under headings."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if value is None else str(value)) for value in row))
    return made


def watch_live(cluster: Cluster, name: str | None) -> None:
    """Show it in one place, again and again."""
    from rich.live import Live  # noqa: PLC0415

    with Live(refresh_per_second=4) as live:
        while True:
            seen = look(cluster, name)
            live.update(drawn(seen))
            if is_last(seen):
                return
            time.sleep(EVERY_S)


def watch_lines(cluster: Cluster, name: str | None, output: str) -> None:
    """Print what changes, a line each: of a run its state, and as JSON all there is of it."""
    told: dict[str, Any] = {}
    if output == "text" and look(cluster, name).get("runs") == []:
        print("there are no runs", flush=True)
    while True:
        seen = look(cluster, name)
        for each in [*seen["runs"], *seen["schedules"]] if "runs" in seen else [seen]:
            news = {**each, "age_s": 0} if output == "json" else shown(each)
            if told.get(each["name"]) != news:
                told[each["name"]] = news
                print(json.dumps(each) if output == "json" else f"{each['name']}: {news}", flush=True)
        if is_last(seen):
            return
        time.sleep(EVERY_S)


def is_last(seen: Mapping[str, Any]) -> bool:
    """Whether nothing comes any more of the one run that is watched."""
    return bool(seen.get("ended")) or seen.get("state") == "cancelled"


def shown(seen: Mapping[str, Any]) -> str:
    """A run's state."""
    return str(State(seen["state"], seen["detail"]))


def counted(number: int, reasons: Mapping[str, int]) -> str:
    """How often, and why: 3 (2 killed, 1 stalled)."""
    why = ", ".join(f"{times} {reason}" for reason, times in reasons.items())
    return f"{number} ({why})" if why else str(number)


def ago(seconds: float) -> str:
    """A duration as a person says it: 45s, 12m, 3h, 2d."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def figure(value: float | None) -> str:
    """An accuracy, if there is one."""
    return "" if value is None else f"{value:.4f}"
