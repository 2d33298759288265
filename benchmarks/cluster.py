"""Time a run on a cluster and the same run on this machine, the recovery on the cluster, and the launcher.

The cluster is that of the tests: KUBECONFIG, IMAGE and RWX_CLASS, see tests/cluster/conftest.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, table
from benchmarks.measure import PROJECT
from job import telemetry
from tests.cluster.namespace import Namespace, conditions, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from job.telemetry import Record
    from k8s.api.objects import Object

PUBLISHED_S = 10.0  # the bar, from the submission
LONG = ("--epochs=100000", "--evaluate-every=0", "--log-every=100")
STEP = 3000
# How a run is submitted, the ranks whose pods are deleted, and the bar in seconds.
DELETIONS = (((), (1, 0), 25.0), (("--min-workers=1",), (1,), 3.0))


def main() -> int:
    """Measure everything and print the table. Exit status 1 if a bar is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of prepared datasets (default: data)")
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure each value (default: 3)")
    arguments = parser.parse_args()
    figures = [*runs(arguments.data.resolve(), arguments.rounds), *recovery(arguments.rounds)]
    print(table(figures))
    return int(any(each.met is False for each in figures))


def runs(data: Path, rounds: int) -> Iterator[Figure]:
    """A whole run with two workers and the defaults: on this machine, and on the cluster from its submission."""
    here: list[float] = []
    on_cluster: dict[str, list[float]] = {}
    commands: dict[str, list[float]] = {}
    for number in range(rounds):
        here.append(local(data))
        namespace = opened()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.ExitStack() as stack:
            stack.callback(namespace.delete)
            run = f"run-{number}"
            start = time.time()
            commands.setdefault("submit", []).append(timed(namespace, "submit", *namespace.submission(run)))
            job = namespace.wait_for_end(run)
            moments = {**phases(namespace, run), "the Job says so": time.time()}
            for name, moment in moments.items():
                on_cluster.setdefault(name, []).append(moment - start)
            for command in (
                ("status",),
                ("status", run),
                ("why", run),
                ("logs", run),
                ("fetch", run, folder),
            ):
                name = " ".join(word if word != run else "NAME" for word in command[:2])
                commands.setdefault(name, []).append(timed(namespace, *command))
            if "Failed" in conditions(job):
                raise RuntimeError(job["status"])
        times = f"here {here[-1]:.1f} s, on the cluster {on_cluster['published'][-1]:.1f} s"
        print(f"round {number + 1} of {rounds}: {times}", flush=True)
    yield Figure("two workers here, whole command", "s", here)
    for name, values in on_cluster.items():
        yield Figure(f"from the submission: {name}", "s", values, PUBLISHED_S if name == "published" else None)
    beyond = [cluster_s - local_s for cluster_s, local_s in zip(on_cluster["published"], here, strict=True)]
    yield Figure("published on the cluster, beyond the same run here", "s", beyond, 5.0)
    for name, values in commands.items():
        yield Figure(f"the launcher's {name}", "s", values, 3.0 if name == "submit" else None)


def recovery(rounds: int) -> Iterator[Figure]:
    """Seconds from the deletion of a pod to the next training step."""
    figures: dict[str, Figure] = {}
    for number in range(rounds):
        for flags, ranks, bar in DELETIONS:
            namespace = opened()
            try:
                namespace.submit("run", *LONG, flags=flags)
                for rank in ranks:
                    namespace.wait_for_step("run", STEP)
                    pod, killed = namespace.pod("run", rank), time.time()
                    namespace.kill(pod)
                    after = "".join(f", with {flag}" for flag in flags)
                    name = f"from the deletion of rank {rank}'s pod to the next step{after}"
                    figure = figures.setdefault(name, Figure(name, "s", [], bar))
                    figure.values.append(first_step_after(namespace, killed) - killed)
            finally:
                namespace.delete()
        times = {name: figure.values for name, figure in figures.items()}
        print(f"round {number + 1} of {rounds}: {times}", flush=True)
    yield from figures.values()


def opened() -> Namespace:
    """A new namespace with a claim for workers on several nodes."""
    namespace = Namespace(f"bench-{uuid.uuid4().hex[:8]}", os.environ.get("IMAGE", "mnist-job:dev"))
    namespace.create()
    namespace.claim("output", "ReadWriteMany", os.environ.get("RWX_CLASS"))
    return namespace


def local(data: Path) -> float:
    """Seconds that the whole command takes on this machine."""
    with tempfile.TemporaryDirectory(prefix="bench-") as output:
        start = time.monotonic()
        command = [sys.executable, "-m", "job", "train", "--workers=2", f"--data={data}", f"--output={output}"]
        subprocess.run(command, check=True, capture_output=True, cwd=PROJECT)
        return time.monotonic() - start


def timed(namespace: Namespace, command: str, *arguments: str) -> float:
    """Seconds that a command of the launcher takes."""
    start = time.monotonic()
    namespace.launcher(command, *arguments)
    return time.monotonic() - start


def phases(namespace: Namespace, run: str) -> dict[str, float]:
    """When a finished run reached each phase, in seconds since 1970; Kubernetes gives whole seconds."""
    [pod] = namespace.pods(run, 0)
    records = list(records_of(namespace, pod))
    started = pod["status"]["containerStatuses"][0]["state"]["terminated"]["startedAt"]
    scheduled = next(c["lastTransitionTime"] for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    return {
        "scheduled": seconds_of(scheduled),
        "started": seconds_of(started),
        "joined": next(record.time for record in records if record.joined == 2),
        "first step": next(record.time for record in records if record.phase == "training"),
        "trained": next(record.time for record in records if record.phase == "evaluating"),
        "published": next(record.time for record in records if record.phase == "published"),
    }


def first_step_after(namespace: Namespace, moment: float) -> float:
    """When rank 0 made its first step after a rendezvous that followed a given time."""

    def step_time() -> float | None:
        pod = namespace.pod("run", 0)
        records = [record for record in records_of(namespace, pod) if record.time > moment]
        joining = next((place for place, record in enumerate(records) if record.phase == "joining"), None)
        if joining is None:
            return None
        return next((record.time for record in records[joining:] if record.phase == "training"), None)

    return wait_until(step_time, "the next step")


def records_of(namespace: Namespace, pod: Object) -> Iterator[Record]:
    """The records of a pod."""
    for line in namespace.cluster.logs(pod["metadata"]["name"], "trainer"):
        if record := telemetry.parse(line):
            yield record


def seconds_of(timestamp: str) -> float:
    """A time stamp of RFC 3339 in seconds since 1970."""
    return datetime.fromisoformat(timestamp).timestamp()


if __name__ == "__main__":
    sys.exit(main())
