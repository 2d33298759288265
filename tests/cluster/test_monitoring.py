"""A real Prometheus scrapes real workers; the dashboard's queries and the alerts work on their metrics."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import yaml

from job.cluster import SUPERVISOR_PORT, TENSORFLOW_PORT
from k8s.render.render import variables
from k8s.state.names import NAME_LABEL, trainer_of
from k8s.volume.template import base_template, volume_pod
from tests import monitoring
from tests.cluster.namespace import Namespace, wait_until
from tests.cluster.test_network import connection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROMETHEUS = shutil.which("prometheus")
POD = "prometheus"
START = "cd /tmp && nohup ./prometheus --config.file=prometheus.yaml --storage.tsdb.path=data >log 2>&1 &"
# Sends each path on standard input to Prometheus' HTTP API.
ASK = """
import json, sys, urllib.request
def ask(path):
    with urllib.request.urlopen("http://127.0.0.1:9090/api/v1/" + path) as answer:
        return json.load(answer)["data"]
print(json.dumps([ask(path) for path in json.load(sys.stdin)]))
"""


@pytest.fixture
def monitor(image: str) -> Iterator[Namespace]:
    """Another namespace, with a pod in which Prometheus can be started."""
    if not PROMETHEUS:
        pytest.skip("prometheus is not installed")
    monitor = Namespace(f"test-monitoring-{uuid.uuid4().hex[:8]}", image)
    try:
        monitor.create()
        # It has the job's image, because the nodes have it, and no volume.
        pod = volume_pod(base_template(image), POD)
        spec = pod["spec"]
        [container] = spec["containers"]
        del spec["serviceAccountName"]
        for part, key in ((spec, "volumes"), (container, "volumeMounts")):
            part[key] = [each for each in part[key] if each["name"] == "tmp"]
        pod["metadata"]["labels"] = {NAME_LABEL: "prometheus"}
        monitor.cluster.create(pod)
        monitor.kubectl("wait", "pod", POD, "--for=condition=Ready", "--timeout=600s")
        yield monitor
    finally:
        monitor.delete()


def put(namespace: Namespace, name: str, content: bytes) -> None:
    """Write an executable file in the pod's /tmp."""
    command = ["kubectl", "-n", namespace.name, "exec", "-i", POD, "--", "sh", "-c", f"cat >/tmp/{name}"]
    subprocess.run([*command[:-1], f"{command[-1]} && chmod 755 /tmp/{name}"], input=content, check=True)


def ask(namespace: Namespace, *paths: str) -> list[Any]:
    """The answers of Prometheus' API; empty if it does not answer."""
    output = namespace.kubectl("exec", "-i", POD, "--", "python", "-c", ASK, stdin=json.dumps(paths), check=False)
    answers: list[Any] = json.loads(output) if output else []
    return answers


def query_results(namespace: Namespace, queries: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The results of queries by their names; empty while one of them has no result."""
    answers = ask(namespace, *(f"query?{urlencode({'query': query})}" for query in queries.values()))
    results = [answer["result"] for answer in answers]
    return dict(zip(queries, results, strict=True)) if results and all(results) else {}


def alerts(namespace: Namespace) -> dict[tuple[str, str], str]:
    """The summaries of the firing alerts, by name and run."""
    firing = [alert for answer in ask(namespace, "alerts") for alert in answer["alerts"] if alert["state"] == "firing"]
    return {(a["labels"]["alertname"], a["labels"]["run"]): a["annotations"]["summary"] for a in firing}


def start(monitor: Namespace, namespace: Namespace) -> None:
    """Start Prometheus with the rules and docs/monitoring.md's configuration for the current pods of a namespace."""
    assert PROMETHEUS
    put(monitor, "prometheus", Path(PROMETHEUS).read_bytes())
    try:
        monitor.kubectl("exec", POD, "--", "/tmp/prometheus", "--version")  # noqa: S108 - a file in a pod
    except AssertionError as error:
        pytest.skip(f"this machine's Prometheus does not run in the image: {error}")
    # Turn minutes into seconds.
    rules = yaml.safe_dump(monitoring.objects()["PrometheusRule"]["spec"]).replace("> 300", "> 15")
    put(monitor, "rules.yaml", rules.replace("for: 5m", "for: 1s").encode())
    settings = {"rule_files": ["rules.yaml"], "global": {"evaluation_interval": "1s"}}
    config = monitoring.configuration(namespace.cluster.select("Pod"), **settings)
    put(monitor, "prometheus.yaml", config.replace("scrape_interval: 10s", "scrape_interval: 1s").encode())
    monitor.kubectl("exec", POD, "--", "sh", "-c", START)


def test_prometheus(namespace: Namespace, monitor: Namespace) -> None:
    """Prometheus scrapes the workers once the NetworkPolicy allows it, answers all queries, and reports a stuck run."""
    namespace.claim("output", "ReadWriteOnce", os.environ.get("RWX_CLASS") or os.environ.get("RWO_CLASS"))
    namespace.submit("run", "--epochs=100000")
    # Worker 0 of two, which waits for a worker 1 that does not exist.
    stuck = namespace.render("stuck", workers=1, cpu="250m")
    variables(trainer_of(stuck["spec"]["template"]))["WORKERS"]["value"] = "2"
    namespace.send(stuck)
    workers = [namespace.pod("run", rank) for rank in range(2)]
    waiting = namespace.pod("stuck", 0)
    namespace.wait_for_step("run", 200)

    address = workers[0]["status"]["podIP"]
    assert connection(monitor, POD, address, SUPERVISOR_PORT) == "TimeoutError"
    objects = monitoring.objects()
    [rule] = objects["NetworkPolicy"]["spec"]["ingress"]
    rule["from"][0]["namespaceSelector"]["matchLabels"] = {"kubernetes.io/metadata.name": monitor.name}
    for kind in ("NetworkPolicy", "ConfigMap"):
        namespace.kubectl("create", "--validate=strict", "-f", "-", stdin=json.dumps(objects[kind]))
    wait_until(lambda: connection(monitor, POD, address, SUPERVISOR_PORT) == "open", "the scraper's access")
    assert connection(monitor, POD, address, TENSORFLOW_PORT) == "TimeoutError"

    start(monitor, namespace)
    expected = {("MnistJobNoProgress", "stuck"): "The run stuck makes no progress"}
    wait_until(lambda: alerts(monitor) == expected, "the alert of the stuck run, alone")
    [targets] = ask(monitor, "targets?state=active")
    names = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in [*workers, waiting]}
    assert {target["labels"]["pod"]: target["scrapeUrl"] for target in targets["activeTargets"]} == {
        name: f"http://{ip}:{SUPERVISOR_PORT}/metrics" for name, ip in names.items()
    }
    assert {target["health"] for target in targets["activeTargets"]} == {"up"}

    # The panel of restarts needs one. The trainer is the child of the container's first process.
    namespace.kubectl(
        "exec", workers[1]["metadata"]["name"], "--", "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)"
    )
    # The other queries need kube-state-metrics.
    queries = {
        title: query for title, query in monitoring.queries(namespace.name, "run").items() if "kube_" not in query
    }
    assert len(queries) == 12
    results = wait_until(lambda: query_results(monitor, queries), "an answer to every query of the dashboard")
    shown = {title: {tuple(sorted(series["metric"].items())) for series in result} for title, result in results.items()}
    ranks = [{("rank", str(rank)), ("pod", pod["metadata"]["name"])} for rank, pod in enumerate(workers)]
    assert {frozenset(label for label in labels if label[0] != "phase") for labels in shown.pop("Workers")} == {
        frozenset(each) for each in ranks
    }
    assert shown.pop("Step") == {(("rank", "0"),), (("rank", "1"),)}
    assert (("cause", "killed"), ("rank", "1")) in shown.pop("Trainer restarts by cause")
    assert set(map(frozenset, shown.values())) == {frozenset({()})}  # one value for the run

    monitor.kubectl("label", "pod", POD, f"{NAME_LABEL}=stranger", "--overwrite")
    refused = "the end of access for a pod that is not Prometheus"
    wait_until(lambda: connection(monitor, POD, address, SUPERVISOR_PORT) == "TimeoutError", refused)
