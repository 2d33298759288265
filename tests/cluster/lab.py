"""A namespace in which tests submit runs, watch them and read what they left; and what breaks the cluster around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from job import telemetry
from k8s.api.errors import ApiError
from k8s.api.kubeconfig import connect
from k8s.commands import submit
from k8s.render import render
from k8s.render.submission import Submission
from k8s.state.find import find_job
from k8s.state.names import pods_of, rank_of
from k8s.view.output import note
from k8s.volume.template import base_template, volume_pod

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from job.telemetry import Record
    from k8s.api.objects import Object

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240.0
POLL_S = 0.5
T = TypeVar("T")


class Lab:
    """One namespace.

    Args:
        namespace: its name.
        image: the job's.
    """

    def __init__(self, namespace: str, image: str) -> None:
        self.namespace, self.image = namespace, image
        self.cluster = connect(None, namespace, note)
        self.output_claim = "output"
        self.storage_class: str | None = None

    def open(self) -> None:
        """Make the namespace."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": self.namespace, "labels": labels}
        self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        until(lambda: self.cluster.get("ServiceAccount", "default"), "the namespace's service account")

    def close(self) -> None:
        """Delete the namespace, and its pods at once: they would take the next test's CPUs."""
        for kind in ("cronjob", "job", "pod"):
            self.kubectl("delete", kind, "--all", "--grace-period=0", "--force", "--wait=false", check=False)
        self.kubectl("delete", "namespace", self.namespace, "--wait=false", check=False)

    def kubectl(self, *arguments: str, check: bool = True, given: str | None = None) -> str:
        """What kubectl prints in this namespace."""
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def launcher(self, command: str, *arguments: str, code: int = 0, kubeconfig: Path | None = None) -> str:
        """What a command of the launcher prints; it must end with that code."""
        words = self.command(command, *arguments)
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)} if kubeconfig else None
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
        assert done.returncode == code, f"{command} {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def command(self, command: str, *arguments: str) -> list[str]:
        """The launcher's command line."""
        return [sys.executable, "-m", "k8s", command, f"--namespace={self.namespace}", *arguments]

    def claim(self, name: str, mode: str, storage_class: str | None, storage: str = "1Gi") -> None:
        """Make a claim, for the runs to come."""
        spec: Object = {"accessModes": [mode], "resources": {"requests": {"storage": storage}}}
        if storage_class:
            spec["storageClassName"] = storage_class
        metadata = {"name": name}
        self.cluster.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
        self.output_claim, self.storage_class = name, storage_class

    def submission(self, name: str, *training: str, workers: int = 2, flags: Sequence[str] = ()) -> list[str]:
        """The arguments of a submission of a run to the claim."""
        own = [f"--name={name}", f"--image={self.image}", f"--workers={workers}", f"--claim={self.output_claim}"]
        return [*own, *flags, "--", *training]

    def submit(self, name: str, *training: str, workers: int = 2, flags: Sequence[str] = ()) -> None:
        """Submit a run."""
        self.launcher("submit", *self.submission(name, *training, workers=workers, flags=flags))

    def nodes(self) -> list[Object]:
        """The cluster's nodes."""
        return self.cluster.select("Node")

    def render(self, name: str, *training: str, workers: int = 1, **flags: Any) -> Object:
        """The Job that a submission would send, to be changed and sent with send()."""
        given = {"image": self.image, "claim": self.output_claim, **flags}
        return render.job(Submission(name, workers=workers, arguments=training, **given))

    def send(self, job: Object) -> None:
        """Create a Job, whatever preflight would say of it, and what every run uses."""
        submit.create_setup(self.cluster, job)
        self.cluster.create(job)

    def job(self, run: str) -> Object:
        """The newest Job of a run."""
        found = find_job(self.cluster, run)
        assert found, f"no Job of the run {run}"
        return found

    def pods(self, run: str, rank: int | None = None) -> list[Object]:
        """A run's pods, or those of a rank, the newest last."""
        job = find_job(self.cluster, run)
        found = self.cluster.select("Pod", pods_of(job["metadata"]["name"] if job else run))
        found = [pod for pod in found if rank is None or rank_of(pod) == rank]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def pod(self, run: str, rank: int, unlike: Sequence[Object] = ()) -> Object:
        """The pod of a rank whose container runs; waits for it.

        Args:
            run: its run.
            rank: its rank.
            unlike: pods that are not meant, those that it replaces.
        """
        uids = {pod["metadata"]["uid"] for pod in unlike}

        def running() -> Object | None:
            for pod in reversed(self.pods(run, rank)):
                if pod["metadata"]["uid"] not in uids and pod["status"]["phase"] == "Running":
                    return pod
            return None

        return until(running, f"a running pod of rank {rank} of {run}")

    def until_step(self, run: str, step: int, rank: int = 0) -> Record:
        """Wait until a rank has made a step of the training, or a later one; gives the record that says so."""

        def reached() -> Record | None:
            pod = self.pod(run, rank)["metadata"]["name"]
            try:
                for line in self.cluster.logs(pod, "trainer", follow=True):
                    record = telemetry.parse(line)
                    if record and record.phase == "training" and (record.step or 0) >= step:
                        return record
            except (ApiError, OSError):
                pass  # replaced meanwhile, or not begun
            return None

        return until(reached, f"step {step} of {run}")

    def kill(self, pod: Object) -> None:
        """Delete a pod with no grace."""
        self.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")

    def until_ended(self, run: str, seconds: float = DEADLINE_S) -> Object:
        """Wait until a run's Job has the verdict; gives the Job."""

        def ended() -> Object | None:
            job = self.job(run)
            return job if conditions(job) & {"SuccessCriteriaMet", "Complete", "FailureTarget", "Failed"} else None

        return until(ended, f"the end of {run}", seconds)

    def until_published(self, run: str, seconds: float = DEADLINE_S) -> None:
        """Wait until a run has succeeded."""
        job = self.until_ended(run, seconds)
        assert not conditions(job) & {"FailureTarget", "Failed"}, job["status"]

    def until_failed(self, run: str, seconds: float = DEADLINE_S) -> Object:
        """Wait until a run has failed; gives the Job."""
        job = self.until_ended(run, seconds)
        assert conditions(job) & {"FailureTarget", "Failed"}, job["status"]
        return job

    def read(self, path: str) -> bytes:
        """The content of a file on the volume, by a pod that is made for it."""
        pod = self.reader()
        command = ["kubectl", "-n", self.namespace, "exec", pod, "--", "cat", f"/output/{path}"]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def reader(self) -> str:
        """The name of a pod in which the volume can be looked at."""
        if not self.cluster.get("Pod", "reader"):
            pod = volume_pod(base_template(self.image, self.output_claim), "reader", writes=True)
            del pod["spec"]["serviceAccountName"]  # tests may read the volume before anything was submitted
            del pod["spec"]["tolerations"]  # the pod must outlive a node that is cut off for a minute
            self.cluster.create(pod)
        until(
            lambda: (self.cluster.get("Pod", "reader") or {}).get("status", {}).get("phase") == "Running", "the reader"
        )
        return "reader"

    def result(self, run: str) -> dict[str, Any]:
        """What 'the same' means: the parameters' SHA-256 and the report's test figures."""
        report = json.loads(self.read(f"models/{run}/report.json"))
        return {"parameters_sha256": report["parameters_sha256"], "test": report["test"]}

    def why(self, run: str) -> str:
        """What the launcher says of a run."""
        return self.launcher("why", run)

    def describe(self) -> str:
        """Pods, events and logs, for who has to find out why a test failed."""
        parts = [f"\n--- namespace {self.namespace}\n"]
        parts += [self.kubectl("get", "jobs,pods,pvc", "-o", "wide", check=False)]
        parts += [self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)]
        for pod in self.cluster.select("Pod"):
            name = pod["metadata"]["name"]
            parts += [f"--- {name}: {json.dumps(pod['status'].get('containerStatuses', []))}\n"]
            parts += [self.kubectl("logs", name, "--tail=40", check=False)]
        return "".join(parts)


class Breaker:
    """Breaks the cluster by a program that knows how, and mends what it has broken.

    Args:
        tool: the program.
    """

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._mends: list[list[str]] = []

    def run(self, *words: str) -> None:
        """Call the program."""
        subprocess.run([self._tool, *words], check=True, capture_output=True)

    def cut(self, node: str) -> None:
        """Cut a node off the network."""
        self._mends.append(["net", "join", node])
        self.run("net", "cut", node)

    def stop(self, daemon: str) -> None:
        """Stop a daemon of the cluster."""
        self._mends.append(["daemon", "start", daemon])
        self.run("daemon", "stop", daemon)

    def advertise(self, node: str, gpus: int) -> None:
        """Have a node say that it has GPUs."""
        self._mends.append(["gpus", node, "0"])
        self.run("gpus", node, str(gpus))

    def mend(self) -> None:
        """Undo all, and wait until the API server answers and all nodes are ready."""
        for words in self._mends:
            self.run(*words)
        if self._mends:
            until(nodes_are_ready, "all nodes ready", 120)
        self._mends.clear()


def nodes_are_ready() -> bool:
    """Whether every node is ready."""
    command = ["kubectl", "get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0 and set(done.stdout.split()) == {"True"}


def conditions(job: Object) -> set[str]:
    """The conditions of a Job that hold."""
    return {c["type"] for c in job["status"].get("conditions", []) if c["status"] == "True"}


def until(condition: Callable[[], T | None], what: str, seconds: float = DEADLINE_S) -> T:
    """Wait until a condition holds; gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(POLL_S)
    return found
