"""Simulated runs on a real API server: Jobs and pods with their statuses, and a Node that is this process."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from job import telemetry
from job.telemetry import Record
from k8s.api.errors import ApiError
from k8s.api.requests import Api
from k8s.render import render
from k8s.render.submission import Submission
from k8s.state.names import CONTAINER, INDEX_LABEL, JOB_NAME_LABEL, UID_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s.api.objects import Object

AT_A_TIME = 16
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
LEASE_S = 10  # Kubernetes evicts the pods of a Node whose lease is not renewed for 40 s
LOG = [telemetry.to_logfmt(Record(1.0, "run", 0, "training", step=step, steps=6000)) for step in range(300)]
# The events of a pod until it runs.
EVENTS = ("Scheduled", "Pulled", "Created", "Started")


class Crowd:
    """A namespace with simulated runs, and the Node of their pods. Both are deleted when the context ends.

    The Job controller ignores the Jobs, because their managedBy names another controller. The scheduler ignores the
    Node, because it has a taint.

    Attributes:
        namespace: the name of the namespace and of the Node.
        requests: the number of requests sent.
    """

    def __init__(self) -> None:
        from kubernetes import client, config  # noqa: PLC0415

        settings = client.Configuration(connection_pool_maxsize=AT_A_TIME)
        self._client = config.new_client_from_config(client_configuration=settings)
        self._api = Api(lambda: self._client, print)
        self.namespace = f"bench-{uuid.uuid4().hex[:8]}"
        self.requests = 0
        self._namespaced = f"/api/v1/namespaces/{self.namespace}"
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._delete)
            stack.callback(self._ended.set)
            self._post("/api/v1/namespaces", {"metadata": {"name": self.namespace}})
            account = render.job(Submission("any"))["spec"]["template"]["spec"]["serviceAccountName"]
            self._post(f"{self._namespaced}/serviceaccounts", {"metadata": {"name": account}})
            self._add_node(stack.enter_context(Kubelet()).port)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def runs(self, names: Sequence[str], workers: int, *, published: bool = False, events: bool = False) -> None:
        """Create runs whose workers all run, or that are published, on request with the events of their pods."""
        template = render.job(Submission(names[0], workers=workers))
        template["spec"]["managedBy"] = "example.com/nobody"
        jobs = "/apis/batch/v1/namespaces/" + self.namespace + "/jobs"
        with ThreadPoolExecutor(AT_A_TIME) as threads:

            def make(name: str) -> Object:
                job = {**template, "metadata": {**template["metadata"], "name": name}}
                made = self._post(jobs, job)
                self._set_status(f"{jobs}/{name}", job_status(workers, published=published))
                return made

            def make_pod(job: Object, rank: int) -> None:
                new = pod_of(job, rank, self.namespace)
                name = new["metadata"]["name"]
                made = self._post(f"{self._namespaced}/pods", new)
                self._set_status(f"{self._namespaced}/pods/{name}", pod_status(made, published=published))
                for reason in EVENTS if events else ():
                    self._post(f"{self._namespaced}/events", event_of(made, reason))

            made = list(threads.map(make, names))
            for done in [threads.submit(make_pod, job, rank) for job in made for rank in range(workers)]:
                done.result()

    def _post(self, path: str, new: Object) -> Object:
        self.requests += 1
        return self._api.json("POST", path, {}, new)

    def _set_status(self, path: str, status: Object) -> None:
        self.requests += 1
        self._api.json("PATCH", f"{path}/status", {}, {"status": status}, "application/merge-patch+json")

    def _add_node(self, port: int) -> None:
        """Create the Node, whose kubelet listens on a port of this machine, and renew its lease."""
        taints = [{"key": "example.com/bench", "value": "nothing-runs-here", "effect": "NoSchedule"}]
        self._post("/api/v1/nodes", {"metadata": {"name": self.namespace}, "spec": {"taints": taints}})
        server = urlsplit(self._client.configuration.host)
        # The address at which the API server reaches this machine.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((server.hostname, server.port or 443))
            address = probe.getsockname()[0]
        status = {
            "addresses": [{"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [condition("Ready")],
        }
        self._set_status(f"/api/v1/nodes/{self.namespace}", status)
        self._post(LEASES, {"metadata": {"name": self.namespace}, "spec": lease()})
        threading.Thread(target=self._renew_lease, daemon=True).start()

    def _renew_lease(self) -> None:
        while not self._ended.wait(LEASE_S):
            merge = "application/merge-patch+json"
            self._api.json("PATCH", f"{LEASES}/{self.namespace}", {}, {"spec": lease()}, merge)

    def _delete(self) -> None:
        """Delete the pods without a grace period, because no kubelet stops them, then the rest."""
        for path in (f"{self._namespaced}/pods", f"/apis/batch/v1/namespaces/{self.namespace}/jobs"):
            self._remove(path, gracePeriodSeconds=0, propagationPolicy="Background")
        self._remove(self._namespaced)
        self._remove(f"{LEASES}/{self.namespace}")
        self._remove(f"/api/v1/nodes/{self.namespace}")

    def _remove(self, path: str, **options: Any) -> None:
        with suppress(ApiError):
            self._api.json("DELETE", path, {}, options)


class Kubelet:
    """Answers an API server's requests for logs as a Node's kubelet does; every container has the same log."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("", 0), _Logs)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            certificate, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bench"]
            subprocess.run(
                [*command, "-keyout", str(key), "-out", str(certificate)], check=True, stderr=subprocess.DEVNULL
            )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Logs(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Send a container's log."""
        query = parse_qs(urlsplit(self.path).query)
        stamped = [f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z {line}" for number, line in enumerate(LOG)]
        lines = [line for line in stamped if line >= query.get("sinceTime", [""])[0]]
        lines = lines[-int(query.get("tailLines", ["0"])[0]) :]
        if "timestamps" not in query:
            lines = [line.partition(" ")[2] for line in lines]
        text = "".join(f"{line}\n" for line in lines).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def pod_of(job: Object, rank: int, node: str) -> Object:
    """A pod of a Job, as the Job controller creates it and the scheduler binds it."""
    name, uid, template = job["metadata"]["name"], job["metadata"]["uid"], job["spec"]["template"]
    labels = {**template["metadata"]["labels"], JOB_NAME_LABEL: name, INDEX_LABEL: str(rank), UID_LABEL: uid}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": True}
    spec = {**template["spec"], "nodeName": node, "hostname": f"{name}-{rank}"}
    spec["tolerations"] = [{"operator": "Exists"}]
    metadata = {"name": f"{name}-{rank}-{uuid.uuid4().hex[:5]}", "labels": labels, "ownerReferences": [owner]}
    return {"metadata": metadata, "spec": spec}


def job_status(workers: int, *, published: bool) -> Object:
    """A Job's status, as its controller sets it."""
    if not published:
        return {"startTime": now(), "active": workers, "ready": workers}
    conditions = [condition("SuccessCriteriaMet"), condition("Complete")]
    return {
        "startTime": now(),
        "completionTime": now(),
        "succeeded": workers,
        "completedIndexes": f"0-{workers - 1}",
        "conditions": conditions,
        "uncountedTerminatedPods": {},
    }


def pod_status(pod: Object, *, published: bool) -> Object:
    """A pod's status, as a kubelet sets it."""
    ready = "False" if published else "True"
    message = {"code": 0, "reason": "promoted", "message": "promoted: the first", "accuracy": 0.9261, "step": 6000}
    state: Object = {"running": {"startedAt": now()}}
    if published:
        ended = {"exitCode": 0, "reason": "Completed", "message": json.dumps(message), "finishedAt": now()}
        state = {"terminated": {**ended, "startedAt": now()}}
    image = pod["spec"]["containers"][0]["image"]
    container = {
        "name": CONTAINER,
        "image": f"registry.example/{image}",
        "imageID": f"registry.example/mnist-job@sha256:{'5e' * 32}",
        "containerID": f"containerd://{uuid.uuid4().hex * 2}",
        "ready": not published,
        "started": not published,
        "restartCount": 0,
        "state": state,
    }
    kinds = {"PodReadyToStartContainers": ready, "Initialized": "True", "Ready": ready, "ContainersReady": ready}
    return {
        "phase": "Succeeded" if published else "Running",
        "conditions": [condition(kind, status) for kind, status in {**kinds, "PodScheduled": "True"}.items()],
        "hostIP": "198.18.0.11",
        "podIP": "198.18.1.2",
        "podIPs": [{"ip": "198.18.1.2"}],
        "startTime": now(),
        "qosClass": "Burstable",
        "containerStatuses": [container],
    }


def event_of(pod: Object, reason: str) -> Object:
    """An event of a pod."""
    metadata = pod["metadata"]
    involved = {"kind": "Pod", "apiVersion": "v1", **{key: metadata[key] for key in ("name", "namespace", "uid")}}
    return {
        "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}"},
        "involvedObject": involved,
        "reason": reason,
        "message": f"{reason} container {CONTAINER}",
        "type": "Normal",
        "count": 1,
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "source": {"component": "kubelet", "host": "bench"},
    }


def condition(kind: str, status: str = "True") -> Object:
    """A condition of a Job, a pod or a Node."""
    return {"type": kind, "status": status, "reason": "Bench", "lastTransitionTime": now()}


def lease() -> Object:
    """The spec of the lease that a kubelet renews."""
    renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": "bench", "leaseDurationSeconds": 40, "renewTime": renewed}


def now() -> str:
    """The current time in RFC 3339, in whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
