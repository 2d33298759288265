"""Time how a run recovers from kills, and measure the cost of checkpoints and supervisors."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import machine, results
from benchmarks.figures import Figure
from benchmarks.measure import PROJECT, environment
from tests.faults.team import Team

if TYPE_CHECKING:
    from argparse import Namespace

    from job.telemetry import Record
    from tests.job.processes import RunningCommand

# The job's defaults, where a Team has others.
DEFAULTS = ("--log-every=200", "--evaluate-every=1", "--learning-rate=1.25")
ENDLESS = "--epochs=100000"
EPOCH = 600  # steps
KILLS = {  # the rank, and whether its supervisor is killed too
    "worker 1's trainer": (1, False),
    "worker 0's trainer": (0, False),
    "worker 1": (1, True),
    "worker 0": (0, True),
}
TRAINER_BARS_S = {2: 1.5, 4: 3.0}  # by the number of workers
COLD_SHARE = 0.35

# Appended to a copy of train.py: it times each wait of the training loop for a checkpoint.
MEASURED = """

def _measured() -> None:
    import json, os
    save, leave, waits = Checkpointer.save, Checkpointer.__exit__, []

    def timed_save(self, *arguments):
        start = time.perf_counter()
        save(self, *arguments)
        waits.append(time.perf_counter() - start)

    def writing_leave(self, *arguments):
        if self._output:
            with open(os.environ["WAITS"], "w", encoding="utf-8") as file:
                json.dump(waits, file)
        return leave(self, *arguments)

    Checkpointer.save, Checkpointer.__exit__ = timed_save, writing_leave


_measured()
"""


def main() -> int:
    """Measure everything, print the table, write the JSON. Exit status 1 if a bar is not met."""
    args = parse()
    settings = {"rounds": args.rounds, "minutes": args.minutes, "epochs": args.epochs}
    data, context = args.data, {**machine.context(), "settings": settings}
    figures = [
        *recovery(data, 2, args.rounds),
        *recovery(data, 4, args.rounds),
        *checkpoints(data, args.rounds, args.epochs),
        supervisors(data, args.rounds, args.minutes * 60),
    ]
    return results.report(figures, context, args.json, "recovery-")


def parse() -> Namespace:
    """The command line."""
    flags = results.parser("benchmarks.recovery", __doc__)
    add = flags.add_argument
    add("--rounds", type=int, default=3, help="how often to measure each value (default: 3)")
    add("--epochs", type=int, default=50, help="of the runs whose checkpoints are timed (default: 50)")
    add("--minutes", type=float, default=3, help="of each run whose CPU time is measured (default: 3)")
    add("--quick", action="store_true", help="one round, three epochs, a quarter of a minute")
    args = results.parse(flags)
    if args.quick:
        args.rounds, args.epochs, args.minutes = 1, 3, 0.25
    if min(args.rounds, args.epochs, args.minutes) <= 0:
        flags.error("--rounds, --epochs and --minutes must be above 0")
    return args


def recovery(data: Path, count: int, rounds: int) -> list[Figure]:
    """Seconds from a cold start to the first step, and from each kind of kill to a step beyond the last checkpoint.

    A worker that is killed as a whole is restarted at once, like `--workers` does.
    """
    cold: list[float] = []
    seconds: dict[str, list[float]] = {kind: [] for kind in KILLS}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, team_of(data, Path(folder), count) as team:
            start = time.time()
            team.start()
            cold.append(team[0].records[team[0].wait_for_phase("training") - 1].time - start)
            for kind, (rank, whole) in KILLS.items():
                seconds[kind].append(recovered(team, rank, whole=whole))
        times = ", ".join(f"{kind} {values[-1]:.1f} s" for kind, values in seconds.items())
        print(f"round {number + 1} of {rounds}, {count} workers: cold start {cold[-1]:.1f} s; {times}", flush=True)
    figures = [Figure(f"{count} workers, cold start to the first step", "s", cold)]
    for kind, (_, whole) in KILLS.items():
        whole_bar = 10.0 if count == 2 else 1.5 * median(cold)
        bar = whole_bar if whole else TRAINER_BARS_S[count]
        figures.append(Figure(f"{count} workers, {kind} killed", "s", seconds[kind], bar))
        if count == 2 and not whole:
            shares = [killed / start for killed, start in zip(seconds[kind], cold, strict=True)]
            figures.append(Figure(f"{count} workers, {kind} killed, of a cold start", "", shares, COLD_SHARE))
    return figures


def recovered(team: Team, rank: int, *, whole: bool) -> float:
    """Kill a worker or its trainer in the middle of an epoch; returns the seconds to a step beyond the checkpoint."""
    place = len(team[0].records)
    newest = max(record.step or 0 for record in team[0].records)
    team[0].wait_for_step(newest + EPOCH + EPOCH // 2, place)
    place = len(team[0].records)
    killed = time.time()
    if whole:
        team[rank].kill()
        team[rank].exit_code()
        team.start(rank)
    else:
        team[rank].kill_trainer()
    # team[0] is a new worker if it was killed.
    return first_step_beyond_checkpoint(team[0], 0 if rank == 0 and whole else place).time - killed


def first_step_beyond_checkpoint(run: RunningCommand, after: int) -> Record:
    """Rank 0's first record of training after it has restored a checkpoint, beyond the first `after` records."""
    restored = wait_for(run, "restoring", after)
    checkpoint = run.records[restored - 1].step or 0
    first = run.records[wait_for(run, "training", restored) - 1]
    if (first.step or 0) <= checkpoint or checkpoint == 0:
        raise RuntimeError(f"step {first.step} is not beyond the checkpoint at step {checkpoint}")
    return first


def checkpoints(data: Path, rounds: int, epochs: int) -> list[Figure]:
    """How long rank 0's training loop waits for its checkpoints, with two workers and the default interval."""
    shares: list[float] = []
    longest: list[float] = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            copy = folder / "project"
            shutil.copytree(PROJECT / "job", copy / "job", ignore=shutil.ignore_patterns("__pycache__"))
            with (copy / "job" / "train.py").open("a", encoding="utf-8") as source:
                source.write(MEASURED)
            variables = {"PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1", "WAITS": str(folder / "waits.json")}
            with team_of(data, folder, 2, f"--epochs={epochs}", variables).start() as team:
                if team.exit_codes() != [0, 0]:
                    raise RuntimeError(f"it failed: {[worker.errors[-5:] for worker in team.workers.values()]}")
                training_s = json.loads((team.model / "report.json").read_bytes())["timing"]["training_s"]
            waits = json.loads((folder / "waits.json").read_bytes())
        shares.append(100 * sum(waits) / training_s)
        longest.append(1000 * max(waits))
        measured = (
            f"{len(waits)} checkpoints, {1000 * sum(waits):.1f} ms in {training_s:.1f} s, longest {longest[-1]:.2f} ms"
        )
        print(f"round {number + 1} of {rounds}, 2 workers: {measured}", flush=True)
    return [
        Figure("checkpoints' share of the training time", "%", shares, 1.0),
        Figure("longest wait for a checkpoint", "ms", longest, 5.0, worst=True),
    ]


def supervisors(data: Path, rounds: int, seconds: float) -> Figure:
    """The CPU time of two supervisors since their start, as a share of their trainers'."""
    shares: list[float] = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, team_of(data, Path(folder), 2).start() as team:
            team[0].wait_for_phase("training")
            time.sleep(seconds)
            own = sum(cpu_s(worker.process.pid) for worker in team.workers.values())
            trainers = sum(cpu_s(worker.trainer()) for worker in team.workers.values())
        shares.append(100 * own / trainers)
        measured = f"supervisors {own:.2f} s of CPU time, trainers {trainers:.1f} s, in {seconds:.0f} s"
        print(f"round {number + 1} of {rounds}, 2 workers: {measured}", flush=True)
    return Figure("supervisors' CPU time, as a share of the trainers'", "%", shares, 0.5)


def team_of(
    data: Path, folder: Path, count: int, epochs: str = ENDLESS, variables: dict[str, str] | None = None
) -> Team:
    """Workers with the default settings."""
    clean = environment(os.environ, max(1, machine.cores() // count))
    limits = {name: clean[name] for name in clean.keys() - os.environ.keys()}
    return Team(data, folder / "output", count, (*DEFAULTS, epochs), limits | (variables or {}))


def wait_for(run: RunningCommand, phase: str, after: int = 0, since: float = 0.0) -> int:
    """Wait for a record of rank 0, sent in this phase and not before `since`; returns the number of records up to it.

    Args:
        run: the run.
        phase: of the record.
        after: how many records to skip.
        since: seconds since 1970.
    """
    return run.wait_for_record(
        lambda record: record.rank == 0 and record.phase == phase and record.time >= since, after
    )


def steps_within(run: RunningCommand, seconds: float) -> list[Record]:
    """Rank 0's records of training over at least `seconds`, from the next one on."""
    place = wait_for(run, "training", len(run.records))
    end = wait_for(run, "training", place - 1, run.records[place - 1].time + seconds)
    return [record for record in run.records[place - 1 : end] if record.rank == 0 and record.phase == "training"]


def cpu_s(pid: int) -> float:
    """Seconds of CPU time of a process, user and system, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
