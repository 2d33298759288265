"""A namespace in which tests submit runs, watch them and read their results; and faults of the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from job import telemetry
from k8s.api.errors import ApiError
from k8s.api.kubeconfig import connect
from k8s.checks.matching import accepts
from k8s.commands import submit
from k8s.render import render
from k8s.render.submission import Submission
from k8s.state.find import find_job, is_being_deleted
from k8s.state.names import pod_selector, rank_of
from k8s.state.pods import is_node_ready
from k8s.view.output import note
from k8s.volume.start import node_for
from k8s.volume.template import base_template, volume_pod
from tests.job import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from job.telemetry import Record
    from k8s.api.objects import Object

ROOT = Path(__file__).parents[2]
DEADLINE_S = 600.0  # a machine with other work may need minutes where a quiet one needs seconds
POLL_S = 0.5
T = TypeVar("T")


class Namespace:
    """One namespace.

    Args:
        name: its name.
        image: the job's image.
    """

    def __init__(self, name: str, image: str) -> None:
        self.name, self.image = name, image
        self.cluster = connect(None, name, note)
        self.output_claim = "output"
        self.storage_class: str | None = None
        self.access_mode = "ReadWriteMany"

    def create(self) -> None:
        """Create the namespace."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": self.name, "labels": labels}
        self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        wait_until(lambda: self.cluster.get("ServiceAccount", "default"), "the namespace's service account")

    def delete(self) -> None:
        """Delete the namespace, and first its pods, because they would use the next test's CPUs."""
        for kind in ("cronjob", "job", "pod"):
            self.kubectl("delete", kind, "--all", "--grace-period=0", "--force", "--wait=false", check=False)
        self.kubectl("delete", "namespace", self.name, "--wait=false", check=False)

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """Run kubectl in this namespace; returns its standard output."""
        command = ["kubectl", "--namespace", self.name, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def launcher(self, command: str, *arguments: str, code: int = 0, kubeconfig: Path | None = None) -> str:
        """Run a command of the launcher, which must exit with this code; returns its standard output and error."""
        done = self._run(command, arguments, code, kubeconfig)
        return done.stdout + done.stderr

    def told(self, command: str, *arguments: str) -> Any:
        """What a command of the launcher prints as JSON; warnings on its standard error are left out."""
        return json.loads(self._run(command, [*arguments, "--output=json"], 0, None).stdout)

    def _run(
        self, command: str, arguments: Sequence[str], code: int, kubeconfig: Path | None
    ) -> subprocess.CompletedProcess[str]:
        words = self.command(command, *arguments)
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)} if kubeconfig else None
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
        assert done.returncode == code, f"{command} {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def command(self, command: str, *arguments: str) -> list[str]:
        """The command line of a command of the launcher in this namespace."""
        return [sys.executable, "-m", "k8s", command, f"--namespace={self.name}", *arguments]

    def claim(self, name: str, mode: str, storage_class: str | None, storage: str = "1Gi") -> None:
        """Create a claim, which later submissions use."""
        spec: Object = {"accessModes": [mode], "resources": {"requests": {"storage": storage}}}
        if storage_class:
            spec["storageClassName"] = storage_class
        metadata = {"name": name}
        self.cluster.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
        self.output_claim, self.storage_class, self.access_mode = name, storage_class, mode

    def submission(self, name: str, *training: str, workers: int = 2, flags: Sequence[str] = ()) -> list[str]:
        """The arguments with which `submit` starts a run on the claim."""
        own = [f"--name={name}", f"--image={self.image}", f"--workers={workers}", f"--claim={self.output_claim}"]
        return [*own, *flags, "--", *training]

    def submit(self, name: str, *training: str, workers: int = 2, flags: Sequence[str] = ()) -> None:
        """Submit a run."""
        self.launcher("submit", *self.submission(name, *training, workers=workers, flags=flags))

    def nodes(self) -> list[Object]:
        """The nodes that accept pods."""
        return [node for node in self.cluster.select("Node") if accepts(node, {"spec": {}})]

    def render(self, name: str, *training: str, workers: int = 1, **flags: Any) -> Object:
        """The Job that `submit` would create. Tests change it and send it with send()."""
        given = {"image": self.image, "claim": self.output_claim, **flags}
        job = render.job(Submission(name, workers=workers, arguments=training, **given))
        if self.access_mode != "ReadWriteMany":
            render.put_on_one_node(job)
        return job

    def send(self, job: Object) -> None:
        """Create a Job without preflight, and the objects that all runs share."""
        submit.create_setup(self.cluster, job)
        self.cluster.create(job)

    def job(self, run: str) -> Object:
        """The newest Job of a run."""
        job = find_job(self.cluster, run)
        assert job, f"no Job of the run {run}"
        return job

    def pods(self, run: str, rank: int | None = None) -> list[Object]:
        """The pods of a run, or of one of its ranks, the newest last."""
        job = find_job(self.cluster, run)
        pods = self.cluster.select("Pod", pod_selector(job["metadata"]["name"] if job else run))
        pods = [pod for pod in pods if rank is None or rank_of(pod) == rank]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def pod(self, run: str, rank: int, unlike: Sequence[Object] = ()) -> Object:
        """Wait for a running pod of a rank that is not being deleted; returns it.

        Args:
            run: the run.
            rank: the rank.
            unlike: pods that do not count, such as the one that it replaces.
        """
        uids = {pod["metadata"]["uid"] for pod in unlike}

        def running() -> Object | None:
            for pod in reversed(self.pods(run, rank)):
                counts = pod["metadata"]["uid"] not in uids and not is_being_deleted(pod)
                if counts and pod["status"]["phase"] == "Running":
                    return pod
            return None

        return wait_until(running, f"a running pod of rank {rank} of {run}")

    def wait_for_step(self, run: str, step: int, rank: int = 0) -> Record:
        """Wait until a rank has completed this step or a later one; returns its record."""

        def reached() -> Record | None:
            pod = self.pod(run, rank)["metadata"]["name"]
            try:
                for line in self.cluster.logs(pod, "trainer", follow=True):
                    record = telemetry.parse(line)
                    if record and record.phase == "training" and (record.step or 0) >= step:
                        return record
            except (ApiError, OSError):
                pass  # the pod was replaced meanwhile, or has not started
            return None

        return wait_until(reached, f"step {step} of {run}")

    def kill(self, pod: Object) -> None:
        """Delete a pod without a grace period, and without waiting for its object to go, which its Job delays."""
        self.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")

    def wait_for_end(self, run: str) -> Object:
        """Wait until a run's Job has succeeded or failed; returns the Job."""

        def ended() -> Object | None:
            job = self.job(run)
            return job if conditions(job) & {"SuccessCriteriaMet", "Complete", "FailureTarget", "Failed"} else None

        return wait_until(ended, f"the end of {run}")

    def wait_until_published(self, run: str) -> None:
        """Wait until a run has succeeded."""
        job = self.wait_for_end(run)
        assert not conditions(job) & {"FailureTarget", "Failed"}, job["status"]

    def wait_until_failed(self, run: str) -> Object:
        """Wait until a run has failed; returns the Job."""
        job = self.wait_for_end(run)
        assert conditions(job) & {"FailureTarget", "Failed"}, job["status"]
        return job

    def read(self, path: str) -> bytes:
        """The content of a file on the volume, read by the reader pod."""
        pod = self.reader()
        command = ["kubectl", "-n", self.name, "exec", pod, "--", "cat", f"/output/{path}"]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def reader(self) -> str:
        """The name of a pod that mounts the volume; creates it if necessary."""
        if not self.cluster.get("Pod", "reader"):
            node = node_for(self.cluster, self.output_claim, new=True)
            pod = volume_pod(base_template(self.image, self.output_claim), "reader", writes=True, node=node)
            del pod["spec"]["serviceAccountName"]  # it does not exist before the first submission
            del pod["spec"]["tolerations"]  # the pod must outlive a node that is cut off for a minute
            self.cluster.create(pod)
        wait_until(
            lambda: (self.cluster.get("Pod", "reader") or {}).get("status", {}).get("phase") == "Running", "the reader"
        )
        return "reader"

    def result(self, run: str) -> dict[str, Any]:
        """What two runs with the same result have in common: the parameters' SHA-256 and the test figures."""
        report = json.loads(self.read(f"models/{run}/report.json"))
        return {"parameters_sha256": report["parameters_sha256"], "test": report["test"]}

    def why(self, run: str) -> str:
        """The output of the launcher's command `why`."""
        return self.launcher("why", run)

    def describe(self) -> str:
        """The state of the namespace after a failed test: pods, events and logs."""
        parts = [f"\n--- namespace {self.name}\n"]
        parts += [self.kubectl("get", "jobs,pods,pvc", "-o", "wide", check=False)]
        parts += [self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)]
        for pod in self.cluster.select("Pod"):
            name = pod["metadata"]["name"]
            parts += [f"--- {name}: {json.dumps(pod['status'].get('containerStatuses', []))}\n"]
            parts += [self.kubectl("logs", name, "--tail=40", check=False)]
        return "".join(parts)


class Breaker:
    """Breaks the cluster with a program, and repairs it.

    Args:
        tool: the program, CLUSTER_TOOL.
    """

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._repairs: list[list[str]] = []

    def run(self, *words: str) -> None:
        """Run the program."""
        subprocess.run([self._tool, *words], check=True, capture_output=True)

    def cut(self, node: str) -> None:
        """Disconnect a node from the network."""
        self._repairs.append(["net", "join", node])
        self.run("net", "cut", node)

    def stop(self, daemon: str) -> None:
        """Stop a daemon of the cluster."""
        self._repairs.append(["daemon", "start", daemon])
        self.run("daemon", "stop", daemon)

    def advertise(self, node: str, gpus: int) -> None:
        """Make a node advertise GPUs."""
        self._repairs.append(["gpus", node, "0"])
        self.run("gpus", node, str(gpus))

    def repair(self) -> None:
        """Undo everything, and wait until the API server answers and all nodes are ready and accept pods."""
        for words in self._repairs:
            self.run(*words)
        if self._repairs:
            wait_until(nodes_are_ready, "all nodes ready")
        self._repairs.clear()


def nodes_are_ready() -> bool:
    """Whether every node is ready and has no taint that says otherwise. Kubernetes removes it a few seconds later."""
    done = subprocess.run(["kubectl", "get", "nodes", "-o", "json"], capture_output=True, text=True, check=False)
    if done.returncode:
        return False
    nodes = json.loads(done.stdout)["items"]
    lost = {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    taints = [taint["key"] for node in nodes for taint in node["spec"].get("taints", [])]
    return all(map(is_node_ready, nodes)) and not lost & set(taints)


def conditions(job: Object) -> set[str]:
    """The types of a Job's conditions that are true."""
    return {c["type"] for c in job["status"].get("conditions", []) if c["status"] == "True"}


def wait_until(condition: Callable[[], T | None], what: str) -> T:
    """Wait until a condition gives a true value; returns it."""
    value = processes.wait_until(condition, what, DEADLINE_S, POLL_S)
    assert value
    return value
