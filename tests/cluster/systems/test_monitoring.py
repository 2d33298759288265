"""What docs/monitoring.md installs, under the real Prometheus operator and the real Prometheus.

The tests follow one another on the same runs: what must last for minutes begins before the first of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

from job.cluster import SUPERVISOR_PORT, TENSORFLOW_PORT
from k8s.state.names import APP, NAME_LABEL, RUN_SELECTOR, SCHEDULE_LABEL
from k8s.volume.template import base_template, volume_pod
from tests import monitoring
from tests.cluster.namespace import ROOT, Namespace, wait_until
from tests.cluster.systems import programs
from tests.cluster.systems.monitoring import stack
from tests.cluster.test_network import connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CPU = "--cpu=200m"  # all of it runs on a node with two CPUs
LONG = "--epochs=100000"


class Cluster(NamedTuple):
    """The namespaces of the tests.

    Attributes:
        monitor: with Prometheus.
        runs: with the run `trains`.
        full: with two runs, of which a quota admits one pod: one of two workers of `stuck`, and none of `unheard`.
    """

    monitor: Namespace
    runs: Namespace
    full: Namespace


@pytest.fixture(scope="module")
def cluster(kind: str, image: str) -> Iterator[Cluster]:
    """A cluster with monitoring, as the page installs it, and with runs."""
    with ExitStack() as undo:
        monitor = undo.enter_context(stack.installed(kind, image))
        [block] = re.findall(r"```sh\n(.*?)```", monitoring.PAGE, re.DOTALL)
        namespaces = [Namespace(f"test-{uuid.uuid4().hex[:8]}", image) for _ in range(2)]
        undo.callback(monitor.kubectl, "delete", "--namespace=default", "-k", str(monitoring.FOLDER))
        for namespace in namespaces:
            undo.callback(namespace.delete)
            namespace.create()
            namespace.claim("output", "ReadWriteOnce", os.environ.get("RWX_CLASS") or os.environ.get("RWO_CLASS"))
            programs.run("bash", "-euc", block.replace("-n team", f"-n {namespace.name}"), cwd=ROOT)
        shorten_waiting(monitor)
        runs, full = namespaces
        full.kubectl("create", "quota", "full", "--hard=pods=1")
        wait_until(
            lambda: (full.cluster.get("ResourceQuota", "full") or {}).get("status", {}).get("hard"),
            "the quota's controller",
        )
        full.send(full.render("stuck", workers=2, cpu="200m"))
        wait_until(lambda: full.pods("stuck"), "the first pod of stuck")
        full.send(full.render("unheard", cpu="200m"))
        runs.submit("trains", LONG, flags=[CPU])
        yield Cluster(monitor, runs, full)


def shorten_waiting(monitor: Namespace) -> None:
    """Let alerts fire after ten seconds for which the rules ask for minutes. The expressions stay as they are."""
    rules = monitoring.rules()
    changes = [
        {"op": "replace", "path": f"/spec/groups/0/rules/{index}/for", "value": "10s"}
        for index, rule in enumerate(rules)
        if "for" in rule
    ]
    assert changes
    monitor.kubectl("patch", "prometheusrule", APP, "-n=default", "--type=json", f"--patch={json.dumps(changes)}")


def pod(namespace: Namespace, name: str, **labels: str) -> None:
    """Start a pod of the job's image that does nothing, and wait for it."""
    created = volume_pod(base_template(namespace.image), name)
    spec = created["spec"]
    [container] = spec["containers"]
    del spec["serviceAccountName"]
    for part, key in ((spec, "volumes"), (container, "volumeMounts")):
        part[key] = [each for each in part[key] if each["name"] == "tmp"]
    created["metadata"]["labels"] = labels
    namespace.cluster.create(created)
    namespace.kubectl("wait", "pod", name, "--for=condition=Ready", "--timeout=240s")


def workers(cluster: Cluster) -> dict[tuple[str, str], tuple[str, str]]:
    """What targets() should give: all running workers, healthy."""
    return {
        (namespace.name, found["metadata"]["name"]): (
            f"http://{found['status']['podIP']}:{SUPERVISOR_PORT}/metrics",
            "up",
        )
        for namespace in (cluster.runs, cluster.full)
        for found in namespace.cluster.select("Pod", f"{NAME_LABEL}={APP},batch.kubernetes.io/job-name")
        if found["status"]["phase"] == "Running"
    }


def test_targets(cluster: Cluster) -> None:
    """The operator's Prometheus scrapes every worker, whose NetworkPolicy lets it in."""
    cluster.runs.wait_for_step("trains", 1)
    wait_until(lambda: len(workers(cluster)) == 3 and stack.targets() == workers(cluster), "all workers up")
    phases = stack.query(f'mnist_job_phase{{namespace="{cluster.runs.name}"}}')
    assert {(each["run"], each["rank"]) for each in phases} == {("trains", "0"), ("trains", "1")}


def test_without_the_operator(cluster: Cluster) -> None:
    """With the page's configuration, Prometheus discovers and scrapes the same workers, and reads the rules."""
    rules = {"rule_files": ["/etc/prometheus/rules.yaml"], "scrape_configs": [monitoring.scrape_config()]}
    files = {"prometheus.yaml": rules, "rules.yaml": monitoring.objects()["PrometheusRule"]["spec"]}
    data = {name: yaml.safe_dump(content) for name, content in files.items()}
    meta = {"name": "plain", "labels": {NAME_LABEL: "prometheus"}}
    mounts = [{"name": name, "mountPath": path} for name, path in (("config", "/etc/prometheus"), ("data", "/data"))]
    container = {
        "name": "prometheus",
        "image": "prometheus:test",
        "args": ["--config.file=/etc/prometheus/prometheus.yaml", "--storage.tsdb.path=/data"],
        "volumeMounts": mounts,
    }
    volumes = [{"name": "config", "configMap": {"name": "plain"}}, {"name": "data", "emptyDir": {}}]
    spec = {"serviceAccountName": "prometheus", "containers": [container], "volumes": volumes}
    monitor = cluster.monitor
    for part in ({"kind": "ConfigMap", "data": data}, {"kind": "Pod", "spec": spec}):
        created = {"apiVersion": "v1", "metadata": meta, **part}
        monitor.kubectl("create", "-f", "-", stdin=json.dumps(created))
    monitor.kubectl("wait", "pod", "plain", "--for=condition=Ready", "--timeout=240s")
    wait_until(lambda: stack.targets("plain") == workers(cluster), "the same workers up")

    def health() -> set[str]:
        return {rule["health"] for group in stack.ask("rules", "plain")["groups"] for rule in group["rules"]}

    wait_until(lambda: health() == {"ok"}, "an evaluation of the rules")
    monitor.kubectl("delete", "pod", "plain", "--grace-period=0", "--force")


def test_only_prometheus_is_let_in(cluster: Cluster) -> None:
    """Only its label in its namespace opens the port of the metrics, and no other port."""
    address = cluster.runs.pod("trains", 0)["status"]["podIP"]
    monitor, elsewhere = cluster.monitor, cluster.runs
    for namespace, labels in ((monitor, {}), (elsewhere, {NAME_LABEL: "prometheus"})):
        pod(namespace, "stranger", **labels)
        assert connection(namespace, "stranger", address, SUPERVISOR_PORT) == "TimeoutError"
    monitor.kubectl("label", "pod", "stranger", f"{NAME_LABEL}=prometheus")
    wait_until(lambda: connection(monitor, "stranger", address, SUPERVISOR_PORT) == "open", "access with the label")
    assert connection(monitor, "stranger", address, TENSORFLOW_PORT) == "TimeoutError"
    for namespace in (monitor, elsewhere):
        namespace.kubectl("delete", "pod", "stranger", "--grace-period=0", "--force")


def test_a_run_fails(cluster: Cluster) -> None:
    """MnistJobRunFailed fires for a run that misses its accuracy, and ends when that is retried."""
    alert, runs = "MnistJobRunFailed", cluster.runs
    runs.submit("fails", "--epochs=1", "--min-accuracy=0.999", workers=1, flags=[CPU])
    runs.wait_until_failed("fails")
    wait_until(lambda: stack.alerts(alert) == {"fails": "The run fails failed"}, alert)
    runs.launcher("retry", "fails")
    # Not for a moment without an alert: the second try may fail before Prometheus asks again.
    wait_until(lambda: "fails" not in stack.alerts(alert), f"the end of {alert}")
    wait_until(lambda: stack.alerts(alert) == {"fails-2": "The run fails-2 failed"}, f"{alert} of the second try")


def test_a_schedule_misses_a_start(cluster: Cluster) -> None:
    """MnistJobScheduleMissed fires while a run outlasts the next start, and ends with the next run."""
    alert, runs = "MnistJobScheduleMissed", cluster.runs
    flags = [f"--image={runs.image}", "--workers=1", f"--claim={runs.output_claim}", CPU, "--deadline=59s"]
    runs.launcher("schedule", "* * * * *", "--name=minutely", *flags, "--", LONG)
    # `schedule` refuses runs that may outlast the next start.
    longer = {"spec": {"jobTemplate": {"spec": {"activeDeadlineSeconds": 3600}}}}
    runs.cluster.patch("CronJob", "minutely", longer)
    fired = wait_until(lambda: stack.alerts(alert), alert)
    assert re.fullmatch(r"The schedule minutely missed a start .*s ago", fired.pop("minutely"))
    assert not fired
    active = runs.cluster.select("Job", f"{RUN_SELECTOR},{SCHEDULE_LABEL}=minutely")
    # A deleted Job makes room for the next start.
    for job in active:
        runs.launcher("cancel", job["metadata"]["name"])
    wait_until(lambda: stack.alerts(alert) == {}, f"the end of {alert}")


def test_the_dashboards_queries(cluster: Cluster) -> None:
    """Each variable and each panel has data while a run trains."""
    runs = cluster.runs
    # The panel of restarts needs one. The trainer is the second child of the container's first process.
    name = runs.pod("trains", 1)["metadata"]["name"]
    runs.kubectl("exec", name, "--", "sh", "-c", "set -- $(cat /proc/1/task/1/children); shift; kill -9 $@")
    for variable in monitoring.dashboard()["templating"]["list"]:
        if query := variable.get("definition"):
            [(metric, label)] = re.findall(r"^label_values\((.*), (\w+)\)$", query)
            values = {series[label] for series in stack.query(metric.replace("$namespace", runs.name))}
            assert {"namespace": runs.name, "run": "trains"}[label] in values
    for title, query in monitoring.queries(runs.name, "trains").items():
        wait_until(partial(stack.query, query), f"data in the panel {title}")
    runs.launcher("cancel", "minutely")


@pytest.mark.usefixtures("kind")
def test_the_dashboards_schema(tmp_path: Path) -> None:
    """Grafana's schema knows every field of the dashboard, its panels and queries, and misses none."""
    shutil.copytree(stack.HERE / "dashboard", tmp_path, dirs_exist_ok=True)
    environment = os.environ | {"GOFLAGS": "-mod=mod"}
    programs.run("go", "build", "-o=check", ".", cwd=tmp_path, env=environment)
    dashboard = monitoring.dashboard()
    programs.run(str(tmp_path / "check"), input=json.dumps(dashboard))
    dashboard["panels"][0]["targets"][0]["expression"] = dashboard["panels"][0]["targets"][0].pop("expr")
    with pytest.raises(AssertionError, match="unexpected field 'expression'"):
        programs.run(str(tmp_path / "check"), input=json.dumps(dashboard))


def test_runs_that_make_no_progress(cluster: Cluster) -> None:
    """MnistJobNoProgress fires for the runs whose pods a quota refuses, alone, and ends with their first step."""
    alert, full = "MnistJobNoProgress", cluster.full
    expected = {run: f"The run {run} makes no progress" for run in ("stuck", "unheard")}
    wait_until(lambda: stack.alerts(alert) == expected, alert)
    full.kubectl("delete", "quota", "full")
    wait_until(lambda: stack.alerts(alert) == {}, f"the end of {alert}")
