"""The Prometheus operator, Prometheus and kube-state-metrics: installed in a kind cluster, and asked."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import yaml

from tests.cluster.namespace import Namespace, wait_until
from tests.cluster.systems import programs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.objects import Object

HERE = Path(__file__).parent
OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
PROMETHEUS = ("github.com/prometheus/prometheus", "v0.313.5")  # the release 3.13.5
# Of its ways to discover targets only Kubernetes', because compiling the others takes minutes.
TAGS = ("remove_all_sd", "enable_kubernetes_sd")
KUBE_STATE_METRICS = ("k8s.io/kube-state-metrics/v2", "v2.17.0")
REFUSED = "This module version is not available"  # what a proxy answers that does not serve a module
OPERATED = "prometheus-test-0"  # the pod that the operator makes of prometheus.yaml


@contextmanager
def installed(kind: str, image: str) -> Iterator[Namespace]:
    """Install all three in a kind cluster, and delete them at the end; gives the namespace `monitoring`."""
    bundle = (programs.module(*OPERATOR) / "bundle.yaml").read_text(encoding="utf-8")
    for package in ("operator", "prometheus-config-reloader"):
        [reference] = set(re.findall(rf"[ =](\S+/(?:prometheus-)?{package}:v\S+)", bundle))
        programs.load(
            kind, reference.removeprefix("--prometheus-config-reloader="), programs.program(*OPERATOR, f"cmd/{package}")
        )
    programs.load(kind, "prometheus:test", programs.program(*PROMETHEUS, "cmd/prometheus", *TAGS))
    objects = list(yaml.safe_load_all((HERE / "prometheus.yaml").read_text(encoding="utf-8")))
    try:
        program = programs.program(*KUBE_STATE_METRICS, ".")
    except AssertionError as error:
        if REFUSED not in str(error):
            raise
        objects.append(use_stand_in(objects[-1], image))
    else:
        programs.load(kind, "kube-state-metrics:test", program)
    monitor = Namespace("monitoring", image)
    with ExitStack() as undo:
        for manifest, waited in (
            (bundle, ["--namespace=default", "deployment/prometheus-operator"]),
            (yaml.safe_dump_all(objects), ["deployment/kube-state-metrics", "prometheus/test"]),
        ):
            # Without a namespace of their own: the objects name theirs.
            undo.callback(programs.run, "kubectl", "delete", "--ignore-not-found", "-f", "-", input=manifest)
            programs.run("kubectl", "create", "-f", "-", input=manifest)
            monitor.kubectl("wait", "--for=condition=Available", "--timeout=10m", *waited)
        yield monitor


def use_stand_in(deployment: Object, image: str) -> Object:
    """Make a Deployment run kube_state_metrics.py in the job's image; returns the ConfigMap with the script."""
    metadata = {"name": "kube-state-metrics", "namespace": deployment["metadata"]["namespace"]}
    spec = deployment["spec"]["template"]["spec"]
    [container] = spec["containers"]
    container |= {"image": image, "command": ["python", "/script/kube_state_metrics.py"]}
    container["volumeMounts"] = [{"name": "script", "mountPath": "/script"}]
    spec["volumes"] = [{"name": "script", "configMap": {"name": metadata["name"]}}]
    script = (HERE / "kube_state_metrics.py").read_text(encoding="utf-8")
    data = {"kube_state_metrics.py": script}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def ask(path: str, pod: str = OPERATED) -> Any:
    """The data that Prometheus' HTTP API answers, over the API server."""
    url = f"/api/v1/namespaces/monitoring/pods/{pod}:9090/proxy/api/v1/{path}"

    def answer() -> Any:
        done = subprocess.run(["kubectl", "get", "--raw", url], capture_output=True, check=False)
        return done.returncode == 0 and json.loads(done.stdout)

    return wait_until(answer, f"an answer of {pod} to {path}")["data"]


def query(expression: str) -> list[dict[str, str]]:
    """The labels of each series that a query returns now."""
    return [series["metric"] for series in ask(f"query?{urlencode({'query': expression})}")["result"]]


def targets(pod: str = OPERATED) -> dict[tuple[str, str], tuple[str, str]]:
    """The address and the health of each worker's target, by namespace and pod."""
    found = [
        target for target in ask("targets?state=active", pod)["activeTargets"] if "mnist-job" in target["scrapePool"]
    ]
    return {(t["labels"]["namespace"], t["labels"]["pod"]): (t["scrapeUrl"], t["health"]) for t in found}


def alerts(name: str) -> dict[str, str]:
    """The summaries of the firing alerts with a name, by their run or schedule."""
    found = [alert for alert in ask("alerts")["alerts"] if alert["labels"]["alertname"] == name]
    firing = [alert for alert in found if alert["state"] == "firing"]
    return {a["labels"].get("run") or a["labels"]["cronjob"]: a["annotations"]["summary"] for a in firing}
