"""What `logs` shows is what the workers wrote: each line once, across restarts and broken connections."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.cluster.access import Proxy
from tests.cluster.lab import DEADLINE_S, ROOT, until

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object
    from tests.cluster.lab import Lab

# Few all-reduces, for they cost most where CPUs are few, and many lines, for each cut to fall among them.
TRAINING = ("--epochs=10", "--evaluate-every=0", "--log-every=10", "--sync-every=10")


def test_logs_across_a_restart(shared: Lab, tmp_path: Path) -> None:
    """A worker is replaced and the launcher's connections break twice: no line is lost or doubled, in any rank."""
    shared.submit("run", *TRAINING)
    kubelets = {}

    def kept(pod: Object) -> Path:
        """A file to which kubectl writes a pod's log, from the first line to the last."""
        path = tmp_path / str(pod["metadata"]["name"])
        command = ["kubectl", "-n", shared.namespace, "logs", "--follow", path.name]
        with path.open("wb") as out:
            processes.append(running(subprocess.Popen(command, stdout=out)))
        return path

    def running(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """A process that is ended after the test in any case."""
        stack.enter_context(process)
        stack.callback(process.kill)
        return process

    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(tmp_path / "kubeconfig"))
        pods = [shared.pod("run", rank) for rank in range(2)]
        kubelets = {str(pod["metadata"]["name"]): kept(pod) for pod in pods}
        shown = stack.enter_context((tmp_path / "shown").open("w+b"))
        environment = {**os.environ, "KUBECONFIG": str(proxy.kubeconfig)}
        command = shared.command("logs", "run", "--output=json")
        logs = running(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=shown))
        shared.until_step("run", 1000)
        until(lambda: (tmp_path / "shown").stat().st_size > 10_000, "lines that are shown")
        proxy.cut()
        shared.kubectl("exec", str(pods[1]["metadata"]["name"]), "--", "sh", "-c", "kill 1")
        replacement = shared.pod("run", 1, unlike=pods)
        kubelets[str(replacement["metadata"]["name"])] = kept(replacement)
        shared.until_step("run", 3000)
        proxy.cut()
        shared.until_published("run")
        assert logs.wait(DEADLINE_S) == 0
        for process in processes:
            process.wait(DEADLINE_S)
        assert proxy.cuts > 2
    lines = [json.loads(line) for line in (tmp_path / "shown").read_bytes().splitlines()]
    assert {line["pod"] for line in lines} == set(kubelets)
    for pod, path in kubelets.items():
        assert [line["line"] for line in lines if line["pod"] == pod] == path.read_text("utf-8").splitlines()
    # And once more, from what is there now.
    again = shared.launcher("logs", "run", "--no-follow", "--rank=0", "--output=json")
    assert [json.loads(line) for line in again.splitlines() if line.startswith("{")] == [
        line for line in lines if line["rank"] == 0
    ]
