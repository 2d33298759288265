"""`logs` prints each line of the workers once, across restarts and broken connections."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

from k8s.state.run import Run
from tests.cluster.access import Proxy
from tests.cluster.namespace import DEADLINE_S, ROOT, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object
    from tests.cluster.namespace import Namespace

# Few all-reduces, which are slow on few CPUs, and many lines, so that each cut falls between some.
TRAINING = ("--epochs=160", "--evaluate-every=0", "--log-every=160", "--sync-every=10")


def test_logs_across_a_restart(shared: Namespace, tmp_path: Path) -> None:
    """No line of any rank is lost or doubled when a worker is replaced and the launcher's connections break twice."""
    shared.submit("run", *TRAINING)
    kubelets = {}

    def save_log(pod: Object) -> Path:
        """Let kubectl write a pod's log to a file from its first line on; returns the file."""
        path = tmp_path / str(pod["metadata"]["name"])
        command = ["kubectl", "-n", shared.name, "logs", "--follow", path.name]
        with path.open("wb") as out:
            processes.append(kill_later(subprocess.Popen(command, stdout=out)))
        return path

    def kill_later(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """Kill a process at the end of the test, if it still runs; returns it."""
        stack.enter_context(process)
        stack.callback(process.kill)
        return process

    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(tmp_path / "kubeconfig"))
        pods = [shared.pod("run", rank) for rank in range(2)]
        kubelets = {str(pod["metadata"]["name"]): save_log(pod) for pod in pods}
        shown = stack.enter_context((tmp_path / "shown").open("w+b"))
        environment = {**os.environ, "KUBECONFIG": str(proxy.kubeconfig)}
        command = shared.command("logs", "run", "--output=json")
        logs = kill_later(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=shown))
        shared.wait_for_step("run", 1000)
        wait_until(lambda: (tmp_path / "shown").stat().st_size > 10_000, "the first lines")
        proxy.cut()
        shared.kubectl("exec", str(pods[1]["metadata"]["name"]), "--", "sh", "-c", "kill 1")
        replacement = shared.pod("run", 1, unlike=pods)
        kubelets[str(replacement["metadata"]["name"])] = save_log(replacement)
        shared.wait_for_step("run", 3000)
        proxy.cut()
        shared.wait_until_published("run")
        assert logs.wait(DEADLINE_S) == 0
        for process in processes:
            process.wait(DEADLINE_S)
        assert proxy.cuts > 2
    lines = [json.loads(line) for line in (tmp_path / "shown").read_bytes().splitlines()]
    assert {line["pod"] for line in lines} == set(kubelets)
    for pod, path in kubelets.items():
        assert [line["line"] for line in lines if line["pod"] == pod] == path.read_text("utf-8").splitlines()
    # Without --follow, the lines that exist now are printed.
    again = shared.launcher("logs", "run", "--no-follow", "--rank=0", "--output=json")
    assert [json.loads(line) for line in again.splitlines() if line.startswith("{")] == [
        line for line in lines if line["rank"] == 0
    ]


def test_logs_after_the_pods_are_gone(shared: Namespace, tmp_path: Path) -> None:
    """`logs` and `fetch --run` read what all ranks said from the volume, also once the Job is deleted."""
    shared.submit("run", "--epochs=1", "--log-every=100")
    shared.wait_until_published("run")
    wait_until(lambda: Run(shared.job("run")).condition("Complete"), "the last line of rank 1")
    live = lines_of(shared, "run")
    assert {line["rank"] for line in live} == {0, 1}
    shared.kubectl("delete", "pod", "--selector=batch.kubernetes.io/job-name=run", "--wait")
    assert lines_of(shared, "run") == live
    shared.launcher("fetch", "run", str(tmp_path), "--run")
    assert {path.name for path in (tmp_path / "run" / "run" / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}
    shared.kubectl("delete", "job", "run", "--cascade=foreground", "--wait")
    # Without any run, nothing tells the launcher which claim and which image to use.
    assert lines_of(shared, "run", f"--claim={shared.output_claim}", f"--image={shared.image}") == live


def lines_of(namespace: Namespace, run: str, *flags: str) -> list[dict[str, object]]:
    """What each rank has said, in order of rank and time, without the time: a pod's and a log's may differ."""
    printed = namespace.launcher("logs", run, "--no-follow", "--output=json", *flags)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return sorted(
        ({key: line[key] for key in ("rank", "pod", "line")} for line in lines), key=lambda line: line["rank"]
    )
