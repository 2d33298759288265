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
from tests.cluster.lab import Lab, until
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
def monitor(image: str) -> Iterator[Lab]:
    """A namespace apart from the runs, with a pod in which Prometheus can be started."""
    if not PROMETHEUS:
        pytest.skip("prometheus is not installed")
    monitor = Lab(f"test-monitoring-{uuid.uuid4().hex[:8]}", image)
    try:
        monitor.open()
        # With the job's image, which the nodes have, and without a volume.
        pod = volume_pod(base_template(image), POD)
        spec = pod["spec"]
        [container] = spec["containers"]
        del spec["serviceAccountName"]
        for part, key in ((spec, "volumes"), (container, "volumeMounts")):
            part[key] = [found for found in part[key] if found["name"] == "tmp"]
        pod["metadata"]["labels"] = {NAME_LABEL: "prometheus"}
        monitor.cluster.create(pod)
        monitor.kubectl("wait", "pod", POD, "--for=condition=Ready", "--timeout=120s")
        yield monitor
    finally:
        monitor.close()


def put(lab: Lab, name: str, content: bytes) -> None:
    """Write an executable file in the pod's /tmp."""
    command = ["kubectl", "-n", lab.namespace, "exec", "-i", POD, "--", "sh", "-c", f"cat >/tmp/{name}"]
    subprocess.run([*command[:-1], f"{command[-1]} && chmod 755 /tmp/{name}"], input=content, check=True)


def ask(lab: Lab, *paths: str) -> list[Any]:
    """The answers of Prometheus' API; empty if it does not answer."""
    said = lab.kubectl("exec", "-i", POD, "--", "python", "-c", ASK, given=json.dumps(paths), check=False)
    found: list[Any] = json.loads(said) if said else []
    return found


def answers(lab: Lab, queries: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The results of queries by their names; empty as long as one of them has no result."""
    found = ask(lab, *(f"query?{urlencode({'query': query})}" for query in queries.values()))
    results = [answer["result"] for answer in found]
    return dict(zip(queries, results, strict=True)) if results and all(results) else {}


def alerts(lab: Lab) -> dict[tuple[str, str], str]:
    """The summaries of the firing alerts, by name and run."""
    found = [alert for answer in ask(lab, "alerts") for alert in answer["alerts"] if alert["state"] == "firing"]
    return {(a["labels"]["alertname"], a["labels"]["run"]): a["annotations"]["summary"] for a in found}


def start(monitor: Lab, lab: Lab) -> None:
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
    config = monitoring.configuration(lab.cluster.select("Pod"), **settings)
    put(monitor, "prometheus.yaml", config.replace("scrape_interval: 10s", "scrape_interval: 1s").encode())
    monitor.kubectl("exec", POD, "--", "sh", "-c", START)


def test_prometheus(lab: Lab, monitor: Lab) -> None:
    """It reaches the workers once the NetworkPolicy allows it, has their metrics, and reports the run that is stuck."""
    lab.claim("output", "ReadWriteOnce", os.environ.get("RWX_CLASS") or os.environ.get("RWO_CLASS"))
    lab.submit("run", "--epochs=100000")
    # Worker 0 of two; the other one does not exist.
    stuck = lab.render("stuck", workers=1, cpu="250m")
    variables(trainer_of(stuck["spec"]["template"]))["WORKERS"]["value"] = "2"
    lab.send(stuck)
    workers = [lab.pod("run", rank) for rank in range(2)]
    waiting = lab.pod("stuck", 0)
    lab.until_step("run", 200)

    address = workers[0]["status"]["podIP"]
    assert connection(monitor, POD, address, SUPERVISOR_PORT) == "TimeoutError"
    objects = monitoring.objects()
    [rule] = objects["NetworkPolicy"]["spec"]["ingress"]
    rule["from"][0]["namespaceSelector"]["matchLabels"] = {"kubernetes.io/metadata.name": monitor.namespace}
    for kind in ("NetworkPolicy", "ConfigMap"):
        lab.kubectl("create", "--validate=strict", "-f", "-", given=json.dumps(objects[kind]))
    until(lambda: connection(monitor, POD, address, SUPERVISOR_PORT) == "open", "the scraper's access", 60)
    assert connection(monitor, POD, address, TENSORFLOW_PORT) == "TimeoutError"

    start(monitor, lab)
    expected = {("MnistJobNoProgress", "stuck"): "The run stuck makes no progress"}
    until(lambda: alerts(monitor) == expected, "the alert of the run that is stuck, alone", 120)
    [targets] = ask(monitor, "targets?state=active")
    names = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in [*workers, waiting]}
    assert {target["labels"]["pod"]: target["scrapeUrl"] for target in targets["activeTargets"]} == {
        name: f"http://{ip}:{SUPERVISOR_PORT}/metrics" for name, ip in names.items()
    }
    assert {target["health"] for target in targets["activeTargets"]} == {"up"}

    # For the panel of restarts: the trainer is the child of the container's first process.
    lab.kubectl("exec", workers[1]["metadata"]["name"], "--", "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")
    # The other queries need kube-state-metrics.
    queries = {
        title: query for title, query in monitoring.queries(lab.namespace, "run").items() if "kube_" not in query
    }
    assert len(queries) == 12
    found = until(lambda: answers(monitor, queries), "an answer to every query of the dashboard", 120)
    shown = {title: {tuple(sorted(series["metric"].items())) for series in result} for title, result in found.items()}
    ranks = [{("rank", str(rank)), ("pod", pod["metadata"]["name"])} for rank, pod in enumerate(workers)]
    assert {frozenset(label for label in labels if label[0] != "phase") for labels in shown.pop("Workers")} == {
        frozenset(each) for each in ranks
    }
    assert shown.pop("Step") == {(("rank", "0"),), (("rank", "1"),)}
    assert (("cause", "killed"), ("rank", "1")) in shown.pop("Trainer restarts by cause")
    assert set(map(frozenset, shown.values())) == {frozenset({()})}  # one figure of the run

    monitor.kubectl("label", "pod", POD, f"{NAME_LABEL}=stranger", "--overwrite")
    refused = "the end of its access, as a pod of that namespace that is not Prometheus"
    until(lambda: connection(monitor, POD, address, SUPERVISOR_PORT) == "TimeoutError", refused, 60)
