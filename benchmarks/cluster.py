"""Time a run on a cluster and the same run on this machine, the recovery on the cluster, and the launcher.

With --minutes, it then evicts worker 1's pod once a minute from a run with --min-workers, and measures its goodput. The
run trains the Keras CNN, because with the default model one worker is faster than two: a loss would cost nothing.

The cluster is that of the tests: KUBECONFIG, IMAGE and RWX_CLASS, see tests/cluster/conftest.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks import machine, results
from benchmarks.figures import Figure
from benchmarks.goodput import MINUTE_S, rate
from benchmarks.measure import PROJECT
from job import telemetry
from k8s.view.time_spent import seconds_of
from tests.cluster.namespace import Namespace, conditions, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from job.telemetry import Record
    from k8s.api.objects import Object

PUBLISHED_S = 10.0  # the bar, from the submission
LONG = ("--epochs=100000", "--evaluate-every=0", "--log-every=100")
STEP = 3000
GOODPUT = 90.0  # per cent
CNN = PROJECT / "examples" / "keras_cnn" / "model.py"
# How a run is submitted, the ranks whose pods are deleted, and the bar in seconds.
DELETIONS = (((), (1, 0), 25.0), (("--min-workers=1",), (1,), 3.0))


def main() -> int:
    """Measure everything, print the table, write the JSON. Exit status 1 if a bar is not met."""
    flags = results.parser("benchmarks.cluster", __doc__)
    flags.add_argument("--rounds", type=int, default=3, help="how often to measure each value (default: 3)")
    flags.add_argument("--minutes", type=int, default=0, help="of the run whose goodput is measured (default: 0)")
    args = results.parse(flags)
    context = {**machine.context(), "settings": {"rounds": args.rounds, "minutes": args.minutes}}
    figures = [*runs(args.data, args.rounds), *recovery(args.rounds)]
    if args.minutes:
        figures += goodput(args.minutes)
    return results.report(figures, context, args.json, "cluster-")


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


def goodput(minutes: int) -> Iterator[Figure]:
    """Steps of a run that loses worker 1's pod once a minute, as a share of those that it makes without losses."""
    namespace = opened()
    try:
        training = (*LONG, "--batch-size=256", "--log-every=10")
        namespace.submit("run", *training, flags=("--min-workers=1", f"--model={CNN}"))
        namespace.wait_for_step("run", 100)
        time.sleep(30)  # until the cluster is idle again
        began = time.time()
        for minute in range(1, minutes + 1):
            time.sleep(max(0.0, began + MINUTE_S * minute - time.time()))
            evict(namespace, namespace.pod("run", 1))
        last = began + MINUTE_S * (minutes + 1)
        time.sleep(max(0.0, last + MINUTE_S - time.time()))
        records = [record for record in records_of(namespace, namespace.pod("run", 0)) if record.time >= began]
    finally:
        namespace.delete()
    # A minute without losses, so many minutes with one each, and another without.
    first = began + MINUTE_S
    rates = [rate(steps_between(records, began, first)), rate(steps_between(records, last, last + MINUTE_S))]
    share = 100 * rate(steps_between(records, first, last)) / mean(rates)
    stopped_s = sum(pauses(records, first, last))
    yield Figure("steps a second without losses, before and after", "", rates)
    yield Figure("goodput with one evicted pod a minute and --min-workers", "%", [share], GOODPUT, at_least=True)
    yield Figure("the time in which it made steps", "%", [100 - 100 * stopped_s / (last - first)])


def evict(namespace: Namespace, pod: Object) -> None:
    """Evict a pod, as a drain does; a Job's limit of replacements does not count it."""
    metadata = {"name": pod["metadata"]["name"], "namespace": namespace.name}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{namespace.name}/pods/{metadata['name']}/eviction"
    namespace.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def steps_between(records: Sequence[Record], first: float, last: float) -> list[Record]:
    """The records of training from one time to another, in seconds since 1970."""
    return [record for record in records if record.phase == "training" and first <= record.time < last]


def pauses(records: Sequence[Record], first: float, last: float) -> Iterator[float]:
    """The seconds from each last record of training before a restart to the first one after it."""
    before: Record | None = None
    paused = False
    for record in records:
        if record.phase != "training":
            paused = True
        elif first <= record.time < last:
            if before and paused:
                yield record.time - before.time
            before, paused = record, False


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


if __name__ == "__main__":
    sys.exit(main())
