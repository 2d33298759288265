"""status: show all runs and schedules, or one run rank by rank, or one schedule with its runs.

All runs take one list each of pods, Jobs and CronJobs, and the end of the log of each run that is training.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter, defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.text import Text

from job import telemetry
from job.config import usage_error
from job.local.display import can_redraw
from k8s.api.errors import ApiError
from k8s.api.threads import ask_all
from k8s.commands import flags
from k8s.diagnose import queueing
from k8s.diagnose.evidence import gather_evidence
from k8s.state import schedule as schedules
from k8s.state.events import may_concern
from k8s.state.find import gather_every, job_of, newest_jobs, newest_record
from k8s.state.names import CONTAINER, JOB_UID_LABEL, RUN_SELECTOR, claim_of, pod_selector, run_name
from k8s.state.pods import created, started
from k8s.state.run import Run, state
from k8s.view.output import as_yaml, printable, use_colour
from k8s.view.summary import restart_count, run_details, run_summary, schedule_details, schedule_summary
from k8s.view.tables import Style, draw_result, state_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from job.telemetry import Record
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

EXAMPLES = (
    "mnist-job status",
    "mnist-job status digits --watch",
    "mnist-job status --all-namespaces -o wide",
    "mnist-job status -l team=vision -o json",
)
OUTPUTS = ("text", "wide", "yaml", "name", "json")
REASONS = 8  # ranks whose restarts are explained
EVERY_S = 2.0
TAIL = 2000  # lines of a log that are searched for the reasons of restarts, and for where the time went
LOG_EVERY_S = 60.0  # how often a watch reads them for the latter, if the state stays the same


@dataclasses.dataclass
class Logs:
    """What a watch has read from logs.

    Attributes:
        reasons: of restarts, by the name of a pod and its number of restarts.
        records: the last ones of rank 0, and whether these are all.
        records_of: the name of its pod, the run's state and the minute when they were read.
    """

    reasons: dict[tuple[str, int], Counter[str]] = dataclasses.field(default_factory=dict)
    records: tuple[Sequence[Record], bool] = ((), True)
    records_of: tuple[str, str, int] | None = None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `status`."""
    add = parser.add_argument
    flags.add_name(parser, "a run or a schedule (default: all of them)", nargs="?")
    add("-A", "--all-namespaces", action="store_true", help="show the runs of all namespaces")
    add("-l", "--selector", metavar="LABELS", help="show only the runs with these labels, such as team=vision")
    add("--watch", action="store_true", help="keep showing changes until the run has ended")


def run(arguments: argparse.Namespace, connect: Callable[[], Cluster]) -> int:
    """Show runs and schedules; returns the exit status."""
    check(arguments)
    cluster = connect()
    if arguments.output == "name":
        for name in names(cluster, arguments):
            print(name)
    elif not arguments.watch:
        show_once(collect(cluster, arguments), arguments)
    else:
        watch(cluster, arguments)
    return 0


def check(arguments: argparse.Namespace) -> None:
    """Refuse flags that exclude each other.

    Raises:
        JobError: 64.
    """
    for flag, value in (("--all-namespaces", arguments.all_namespaces), ("--selector", arguments.selector)):
        if value and arguments.name:
            raise usage_error(
                f"{flag} cannot be combined with the name of a run", f"leave out {arguments.name} or {flag}"
            )
    if arguments.watch and arguments.output == "name":
        raise usage_error("--watch cannot be combined with -o name", "leave out --watch")


def names(cluster: Cluster, arguments: argparse.Namespace) -> list[str]:
    """The names of the runs, newest first, then of the schedules; or the one name that is asked for.

    Raises:
        LauncherError: 2, there is no run or schedule of that name.
    """
    if arguments.name:
        if not schedules.find(cluster, arguments.name):
            job_of(cluster, arguments.name)
        return [arguments.name]
    selector, everywhere = selector_of(arguments), arguments.all_namespaces
    jobs = newest_jobs(cluster.select("Job", selector, everywhere=everywhere)).values()
    found = schedules.gather_every_schedule(cluster, (), selector, everywhere=everywhere)
    runs = [run_name(job) for job in sorted(jobs, key=created, reverse=True)]
    return list(dict.fromkeys([*runs, *(schedule.name for schedule in found)]))


def selector_of(arguments: argparse.Namespace) -> str:
    """The label selector of the runs and schedules that are asked for."""
    return f"{RUN_SELECTOR},{arguments.selector}" if arguments.selector else RUN_SELECTOR


def collect(cluster: Cluster, arguments: argparse.Namespace, logs: Logs | None = None) -> dict[str, Any]:
    """Everything that is shown, as printed in JSON; `logs` keeps what earlier calls read from logs."""
    if arguments.name is None:
        return collect_all(cluster, arguments)
    if cronjob := schedules.find(cluster, arguments.name):
        return schedule_details(schedules.gather(cluster, cronjob), cluster.now())
    evidence = gather_evidence(cluster, arguments.name)
    logs = logs or Logs()
    restarted = restart_reasons(cluster, evidence, logs)
    records, whole = last_records(cluster, evidence, logs)
    return run_details(evidence, cluster.now(), restarted, records, whole=whole)


def collect_all(cluster: Cluster, arguments: argparse.Namespace) -> dict[str, Any]:
    """All runs, newest first, and all schedules by name."""
    selector, everywhere = selector_of(arguments), arguments.all_namespaces
    runs = gather_every(cluster, everywhere=everywhere)
    shown = runs = with_evictions(cluster, runs, everywhere=everywhere)
    if arguments.selector:
        selected = {job["metadata"]["uid"] for job in cluster.select("Job", selector, everywhere=everywhere)}
        shown = [each for each in runs if each.job["metadata"]["uid"] in selected]
    shown = ask_all(lambda each: with_record(cluster, each), shown)
    # The figures of a schedule need all of its runs, whatever their labels.
    found = schedules.gather_every_schedule(cluster, runs, selector, everywhere=everywhere)
    now = cluster.now()
    return {
        "runs": [run_summary(each, now) for each in shown],
        "schedules": [schedule_summary(each, now) for each in found],
    }


def with_evictions(cluster: Cluster, runs: list[Run], *, everywhere: bool) -> list[Run]:
    """The runs; each that waits because Kueue stopped it also has the word for why."""
    if not any(state(run).word == "queued" for run in runs):
        return runs
    found: dict[str, list[Object]] = defaultdict(list)
    with suppress(ApiError):  # Kueue is not installed, or this user may not list them
        for workload in cluster.select("Workload", everywhere=everywhere):
            found[workload["metadata"].get("labels", {}).get(JOB_UID_LABEL, "")].append(workload)
    return [dataclasses.replace(run, evicted=queueing.stopped(found[run.job["metadata"]["uid"]])) for run in runs]


def with_record(cluster: Cluster, run: Run) -> Run:
    """A run with the newest record of its log, if it is running."""
    if state(run).ended or run.job["spec"].get("suspend"):
        return run
    there = cluster.in_namespace(run.namespace) if run.namespace else cluster
    return dataclasses.replace(run, record=newest_record(there, run))


def last_records(cluster: Cluster, run: Run, logs: Logs) -> tuple[Sequence[Record], bool]:
    """The last records in the log of rank 0's newest pod, and whether these are all; none if it cannot be read.

    The log is read again after LOG_EVERY_S, and when the run is in another state.
    """
    pod = run.newest.get(0)
    if pod is None or not started(pod):
        return [], True
    wanted = (pod["metadata"]["name"], state(run).word, int(time.monotonic() / LOG_EVERY_S))
    if logs.records_of != wanted:
        read = read_records(cluster, wanted[0])
        if read is None:
            return [], True
        logs.records, logs.records_of = read, wanted
    return logs.records


def read_records(cluster: Cluster, pod: str) -> tuple[Sequence[Record], bool] | None:
    """The last records in a pod's log, and whether these are all; None if it cannot be read."""
    try:
        lines = cluster.last_lines(pod, CONTAINER, TAIL)
    except (ApiError, OSError):
        return None
    # A last line that is being written is left out, but the node has counted it.
    return [record for line in lines if (record := telemetry.parse(line))], len(lines) < TAIL - 1


def restart_reasons(cluster: Cluster, run: Run, logs: Logs) -> dict[int, Counter[str]]:
    """Why trainers were restarted, from the logs of the first few ranks with restarts.

    A log is read again only after another restart.
    """
    counted = logs.reasons
    restarts = {rank: restart_count(run, rank) for rank in range(run.workers) if rank in run.newest}
    ranks = [rank for rank, count in restarts.items() if count][:REASONS]

    def count_reasons(rank: int) -> Counter[str]:
        pod = run.newest[rank]["metadata"]["name"]
        if (pod, restarts[rank]) not in counted:
            read = read_records(cluster, pod)
            if read is None:
                return Counter()
            restarting = [record for record in read[0] if record.phase == "restarting"]
            counted[pod, restarts[rank]] = Counter(record.reason or "unknown" for record in restarting)
        return counted[pod, restarts[rank]]

    return dict(zip(ranks, ask_all(count_reasons, ranks), strict=True))


def show_once(result: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Print everything once, in the format that is asked for."""
    if arguments.output == "json":
        print(json.dumps(result), flush=True)
    elif arguments.output == "yaml":
        print(*(["---"] if arguments.watch else []), as_yaml([result]), sep="\n", flush=True)
    else:
        print(draw_result(result, style_of(arguments)), flush=True)


def style_of(arguments: argparse.Namespace) -> Style:
    """How tables are drawn."""
    return Style(wide=arguments.output == "wide", namespaces=arguments.all_namespaces, colour=use_colour())


def watch(cluster: Cluster, arguments: argparse.Namespace) -> None:
    """Show changes until the run has ended."""
    cluster.patience_s = float("inf")
    # Keep long lists up to date by watches; the Job of one run is read each time.
    if arguments.name and not schedules.find(cluster, arguments.name):
        job = job_of(cluster, arguments.name)
        name, claim = job["metadata"]["name"], claim_of(job["spec"]["template"]) or ""
        cluster.keep("Pod", pod_selector(name))
        cluster.keep("Event", wanted=lambda event: may_concern(event, name, claim))
    else:
        for kind in ("Pod", "Job"):
            cluster.keep(kind, RUN_SELECTOR, everywhere=arguments.all_namespaces)
    if arguments.output in ("text", "wide") and can_redraw():
        watch_in_place(cluster, arguments)
    else:
        watch_changes(cluster, arguments)


def results(cluster: Cluster, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Everything that is shown, every two seconds, until the one run that is watched has ended or is cancelled."""
    logs = Logs()
    while True:
        result = collect(cluster, arguments, logs)
        yield result
        if result.get("ended") or result.get("state") == "cancelled":
            return
        time.sleep(EVERY_S)


def watch_in_place(cluster: Cluster, arguments: argparse.Namespace) -> None:
    """Draw everything in the same place of the terminal again and again."""
    with Live(refresh_per_second=4) as live:
        for result in results(cluster, arguments):
            live.update(Text.from_ansi(draw_result(result, style_of(arguments)), no_wrap=True, overflow="crop"))


def watch_changes(cluster: Cluster, arguments: argparse.Namespace) -> None:
    """Print each change: the state of a run or a schedule as a line of text, or all of its fields."""
    shown: dict[tuple[str, str], Any] = {}
    as_text = arguments.output in ("text", "wide")
    for number, result in enumerate(results(cluster, arguments)):
        items = [*result["runs"], *result["schedules"]] if "runs" in result else [result]
        if as_text and not items and number == 0:
            print("there are no runs", flush=True)
        for item in items:
            key = (item["namespace"], item["name"])
            current = state_text(item) if as_text else {**item, "age_s": 0, "time": None}
            if shown.get(key) == current:
                continue
            shown[key] = current
            if as_text:
                name = "/".join(key) if arguments.all_namespaces else item["name"]
                print(printable(f"{name}: {current}"), flush=True)
            else:
                show_once(item, arguments)
