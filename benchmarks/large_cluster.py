"""A large cluster that is played: a server on this machine with an API server's answers for many nodes and pods."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

from job import telemetry
from job.telemetry import Record
from k8s.api.objects import matches
from k8s.render import render
from k8s.render.submission import Submission
from k8s.state.names import INDEX_LABEL, JOB_NAME_LABEL, NAME_LABEL, UID_LABEL

if TYPE_CHECKING:
    from pathlib import Path

    from k8s.api.objects import Object

RUN, NAMESPACE = "digits", "team"
WORKERS = 4
STARTED = "2026-01-01T00:00:00Z"
EVENTS = 10_000  # of other pods in the namespace
# The sizes of the objects of a cluster in use, in bytes of JSON: what the kubelet and the controllers write into them.
NODE_BYTES, POD_BYTES = 12_000, 8_000
LOG = "\n".join(telemetry.to_logfmt(Record(1.0, RUN, 0, "training", step=step, steps=6000)) for step in range(300))
READY = [{"type": kind, "status": "True", "lastTransitionTime": STARTED} for kind in ("Ready", "ContainersReady")]


class LargeCluster:
    """The server, with one run that trains in the namespace `team`. It ends with the context.

    Args:
        nodes: how many there are.
        pods: how many run in all namespaces.
        folder: for its kubeconfig.

    Attributes:
        kubeconfig: its path.
        sent: how many bytes the server has sent.
    """

    def __init__(self, nodes: int, pods: int, folder: Path) -> None:
        self._counts = {"nodes": nodes, "pods": pods}
        job = render.job(Submission(RUN, workers=WORKERS))
        job["metadata"] |= {"uid": "run-uid", "namespace": NAMESPACE, "creationTimestamp": STARTED}
        job["status"] = {"active": WORKERS, "ready": WORKERS, "startTime": STARTED}
        workers = [worker(job, rank) for rank in range(WORKERS)]
        claim = next(each for each in render.setup_objects() if each["kind"] == "PersistentVolumeClaim")
        claim |= {"status": {"phase": "Bound"}}
        claim["spec"]["accessModes"] = ["ReadWriteMany"]
        setup = {f"{each['kind'].lower()}s/{each['metadata']['name']}": each for each in render.setup_objects()}
        self._objects = {**setup, f"jobs/{RUN}": job, f"namespaces/{NAMESPACE}": {"metadata": {"name": NAMESPACE}}}
        self._objects[f"persistentvolumeclaims/{claim['metadata']['name']}"] = claim
        self._objects |= {f"nodes/node-{number}": node(number) for number in range(WORKERS)}
        of_workers = [event(each["metadata"]["name"], "Started", 0) for each in workers]
        of_others = [event(f"other-{number}", "Started", number) for number in range(EVENTS)]
        self._lists = {"jobs": [job], "pods": workers, "events": [*of_workers, *of_others]}
        self._pages = {"nodes": page_of(node, min(nodes, 500)), "pods": page_of(other_pod, min(pods, 500))}
        self._folder, self.sent, self._stop = folder, 0, threading.Event()

    def __enter__(self) -> Self:
        played = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, content = played.answer(self.path, json.loads(body) if body else None)
                played.sent += len(content)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do  # noqa: N815 - the base class's names

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Say nothing about a command that ends while it reads."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        server = f"http://127.0.0.1:{self._server.server_address[1]}"
        context = {"name": "large", "context": {"cluster": "large", "user": "me", "namespace": NAMESPACE}}
        users, clusters = [{"name": "me", "user": {}}], [{"name": "large", "cluster": {"server": server}}]
        content = {"apiVersion": "v1", "kind": "Config", "current-context": "large", "contexts": [context]}
        self.kubeconfig = self._folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump({**content, "users": users, "clusters": clusters}))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: Object | None) -> tuple[int, bytes]:
        """The status and the body of the answer to a request."""
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        plural, found = parts[-1], self._objects.get("/".join(parts[-2:]))
        if body is not None:  # a new object, or a question about permissions
            metadata = {**body.get("metadata", {}), "uid": "new", "creationTimestamp": STARTED}
            found = {**body, "metadata": metadata, "status": {"allowed": True}}
        elif plural == "version":
            found = {"major": "1", "minor": "35"}
        elif "watch" in query:
            self._stop.wait(float(query["timeoutSeconds"]))
            return 200, b""
        if found:
            return 200, json.dumps(found).encode()
        if plural == "log":
            return 200, LOG.encode()
        if not plural.endswith("s"):
            return 404, b'{"kind": "Status", "reason": "NotFound", "message": "not found"}'
        everywhere = plural in self._pages and "namespaces" not in parts
        return 200, self._page(plural, int(query.get("continue", 0))) if everywhere else self._list(plural, query)

    def _page(self, plural: str, first: int) -> bytes:
        """A page of the nodes or of the pods of all namespaces: all pages have the same objects."""
        items, count = self._pages[plural], self._counts[plural]
        more = str(first + 500) if first + 500 < count else ""
        return b'{"metadata": {"resourceVersion": "1", "continue": "%s"}, "items": %s}' % (more.encode(), items)

    def _list(self, plural: str, query: dict[str, str]) -> bytes:
        selector = dict(term.split("=") for term in query.get("labelSelector", "").split(",") if "=" in term)
        items = [
            each
            for each in self._lists.get(plural, [])
            if selector.items() <= each["metadata"].get("labels", {}).items()
            and matches(query.get("fieldSelector", ""), each)
        ]
        first = int(query.get("continue", 0))
        more = str(first + 500) if first + 500 < len(items) else ""
        metadata = {"resourceVersion": "1", "continue": more}
        return json.dumps({"metadata": metadata, "items": items[first : first + 500]}).encode()


def page_of(make: Any, count: int) -> bytes:
    """The objects of a page, as JSON."""
    return json.dumps([make(number) for number in range(count)]).encode()


def filled(one: Object, size: int, fill: Object) -> Object:
    """An object that is as large as those of a cluster in use: fill is a part of it, and gets more entries."""
    entry = {"names": ["registry.example/team/image@sha256:" + "0" * 64], "sizeBytes": 10**8}
    missing = size - len(json.dumps(one))
    fill["entries"] = [entry] * max(0, missing // len(json.dumps(entry)))
    return one


def node(number: int) -> Object:
    """A node with 32 cores, most of its JSON the images on it."""
    name = f"node-{number}"
    conditions = [{**READY[0], "type": "Ready", "reason": "KubeletReady", "message": "kubelet is posting ready status"}]
    room = {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "100Gi"}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    labels |= {f"topology.example.com/label-{i}": str(i) for i in range(15)}
    status: Object = {"allocatable": room, "capacity": room, "conditions": conditions}
    made: Object = {"metadata": {"name": name, "uid": f"{name}-uid", "labels": labels}, "spec": {}, "status": status}
    filled(made, NODE_BYTES, status.setdefault("filler", {}))
    status["images"] = status.pop("filler")["entries"]
    return made


def other_pod(number: int) -> Object:
    """A pod of somebody else with two containers, a third of its JSON the managers of its fields."""
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}
    variables = [{"name": f"VARIABLE_{i}", "value": "a value of somebody's own"} for i in range(12)]
    containers = [
        {"name": name, "image": "registry.example/team/image:1", "resources": resources, "env": variables}
        for name in ("main", "proxy")
    ]
    fields: Object = {}
    metadata = {"name": f"other-{number}", "uid": f"other-{number}", "namespace": NAMESPACE, "managedFields": [fields]}
    states = [{"name": one["name"], "state": {"running": {"startedAt": STARTED}}, "ready": True} for one in containers]
    spec = {"nodeName": f"node-{number}", "containers": containers}
    made = {"metadata": metadata, "spec": spec, "status": {"phase": "Running", "containerStatuses": states}}
    return filled(made, POD_BYTES, fields)


def worker(job: Object, rank: int) -> Object:
    """A worker's pod, whose trainer runs."""
    template, name = job["spec"]["template"], f"{RUN}-{rank}-aaaaa"
    labels = {**template["metadata"]["labels"], NAME_LABEL: job["metadata"]["labels"][NAME_LABEL]}
    labels |= {JOB_NAME_LABEL: RUN, UID_LABEL: "run-uid", INDEX_LABEL: str(rank)}
    metadata = {"name": name, "uid": name, "namespace": NAMESPACE, "labels": labels, "creationTimestamp": STARTED}
    states = [{"name": "trainer", "state": {"running": {"startedAt": STARTED}}, "ready": True}]
    status = {"phase": "Running", "conditions": READY, "containerStatuses": states}
    return {"metadata": metadata, "spec": {**template["spec"], "nodeName": f"node-{rank}"}, "status": status}


def event(pod: str, reason: str, number: int) -> Object:
    """An event of a pod."""
    about = {"kind": "Pod", "name": pod, "uid": pod, "namespace": NAMESPACE}
    metadata = {"name": f"{pod}.{number}", "uid": f"{pod}-{number}", "namespace": NAMESPACE}
    text = "Container image is already present on machine and can be accessed by the pod"
    return {"metadata": metadata, "involvedObject": about, "reason": reason, "message": text, "lastTimestamp": STARTED}
