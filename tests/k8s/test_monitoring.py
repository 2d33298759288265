"""Monitoring: alerts and dashboard use only existing metrics and labels, and alerts fire when they should."""

from __future__ import annotations

import re
import shutil
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from job.cluster import SUPERVISOR_PORT
from k8s.render.kustomize import MANIFESTS, kustomize
from k8s.state.names import APP, NAME_LABEL, PART_OF_LABEL, trainer_of
from tests import monitoring
from tests.job.supervisor.test_metrics import everything
from tests.k8s.render.test_manifests import check_schemas

if TYPE_CHECKING:
    from k8s.api.objects import Object

HERE = Path(__file__).parent
JOB_NAME = "batch_kubernetes_io_job_name"  # the pods' label, as Prometheus writes it
UNDERSCORES = str.maketrans("./-", "___")  # how Prometheus writes a label's name
# Metrics of kube-state-metrics. Its documentation calls all of them stable except the last, which is experimental.
KUBE = {
    "kube_service_info": {"namespace", "service"},
    "kube_job_failed": {"namespace", "job_name", "condition"},
    "kube_job_complete": {"namespace", "job_name", "condition"},
    "kube_job_status_start_time": {"namespace", "job_name"},
    "kube_job_spec_active_deadline_seconds": {"namespace", "job_name"},
    "kube_cronjob_next_schedule_time": {"namespace", "cronjob"},
    "kube_cronjob_spec_starting_deadline_seconds": {"namespace", "cronjob"},
    "kube_cronjob_spec_suspend": {"namespace", "cronjob"},
    "kube_job_status_suspended": {"namespace", "job_name"},
}
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


def metrics() -> dict[str, set[str]]:
    """The labels of every metric, by its name; those of the supervisors have the labels of a pod too."""
    families = text_string_to_metric_families(everything().text().decode())
    own = {sample.name: {"namespace", "pod", *sample.labels} for family in families for sample in family.samples}
    return KUBE | own


def expressions() -> list[str]:
    """The expressions of all alerts and panels."""
    return [rule["expr"] for rule in monitoring.rules()] + list(monitoring.queries("ml", "digits").values())


def check_rules(spec: Object, folder: Path) -> None:
    """Check a rule file with promtool."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    monitoring.promtool("check", "rules", folder / "rules.yaml")


@needs_promtool
def test_when_alerts_fire(tmp_path: Path) -> None:
    """The PrometheusRule's spec is a rule file; alerts.yaml lists when its alerts fire and stop."""
    check_rules(monitoring.objects()["PrometheusRule"]["spec"], tmp_path)
    shutil.copy(HERE / "alerts.yaml", tmp_path)
    monitoring.promtool("test", "rules", tmp_path / "alerts.yaml")


def test_three_alerts() -> None:
    """Each names its run or schedule in the summary, and the command that explains it."""
    found = {rule["alert"]: rule for rule in monitoring.rules()}
    assert sorted(found) == ["MnistJobNoProgress", "MnistJobRunFailed", "MnistJobScheduleMissed"]
    for name, rule in found.items():
        label = "cronjob" if name == "MnistJobScheduleMissed" else "run"
        assert f"{{{{ $labels.{label} }}}}" in rule["annotations"]["summary"]
        command = f"`mnist-job why {{{{ $labels.{label} }}}} --namespace {{{{ $labels.namespace }}}}` explains"
        assert command in rule["annotations"]["description"]


def test_only_existing_metrics() -> None:
    """Alerts and panels use only metrics of the supervisors and kube-state-metrics, with labels that these have."""
    known = metrics()
    variables = " ".join(variable.get("definition", "") for variable in monitoring.dashboard()["templating"]["list"])
    used = set()
    for expression in [*expressions(), variables]:
        for name, labels in re.findall(r"\b((?:mnist_job|kube)_\w+)(?:\{([^}]*)\})?", expression):
            assert set(re.findall(r"(\w+)=", labels)) <= known[name], name
            used.add(name)
    assert KUBE.keys() <= used
    # Every metric of the supervisors must be shown somewhere.
    assert {name for name in known if name.startswith("mnist_job_")} <= used


@needs_promtool
def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    """Each is valid as the expression of a recording rule; one with a missing brace is not."""
    queries = list(monitoring.queries("ml", "digits").values())
    rules = [{"record": "panel", "expr": query, "labels": {"panel": str(n)}} for n, query in enumerate(queries)]
    check_rules({"groups": [{"name": "panels", "rules": rules}]}, tmp_path)
    rules[0]["expr"] = str(rules[0]["expr"]).replace("}", "", 1)
    with pytest.raises(AssertionError, match="could not parse expression"):
        check_rules({"groups": [{"name": "panels", "rules": rules}]}, tmp_path)


def test_the_dashboard() -> None:
    """Panels have unique ids and do not overlap, and every query goes to the chosen data source."""
    found = monitoring.dashboard()
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"]: variable for variable in found["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [target for panel in panels for target in panel["targets"]]
    for part in [*panels, *targets, variables["namespace"], variables["run"]]:
        assert part["datasource"] == source
    assert {name for target in targets for name in re.findall(r"\$(\w+)", target["expr"])} == {"namespace", "run"}
    for panel in panels:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        assert 0 <= panel["gridPos"]["x"] <= 24 - panel["gridPos"]["w"]
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = [one[x] + one[w] <= other[x] or other[x] + other[w] <= one[x] for x, w in (("x", "w"), ("y", "h"))]
        assert any(apart), f"{one} and {other} overlap"


def test_the_objects() -> None:
    """There are four; Kubernetes' own match the schemas of every version, and Grafana finds the dashboard."""
    found = monitoring.objects()
    assert sorted(found) == ["ConfigMap", "NetworkPolicy", "PodMonitor", "PrometheusRule"]
    for kind in ("ConfigMap", "NetworkPolicy"):
        check_schemas(found[kind])
    for kind in ("PodMonitor", "PrometheusRule"):
        assert found[kind]["apiVersion"] == "monitoring.coreos.com/v1"
        with pytest.raises(kubernetes_validate.SchemaNotFoundError):  # there is no schema to check them against
            check_schemas(found[kind])
    assert found["ConfigMap"]["metadata"] == {
        "name": "mnist-job-dashboard",
        "labels": {PART_OF_LABEL: APP, "grafana_dashboard": "1"},
    }


def test_what_prometheus_scrapes() -> None:
    """PodMonitor and docs/monitoring.md select each worker's supervisor port; the NetworkPolicy opens only that."""
    [job] = kustomize(MANIFESTS / "run")
    labels = {NAME_LABEL: APP}
    assert labels.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    [port] = [port["name"] for port in trainer_of(job["spec"]["template"])["ports"] if port["name"] == "supervisor"]
    found, pod = monitoring.objects(), "__meta_kubernetes_pod"
    assert found["PodMonitor"]["spec"] == {
        "namespaceSelector": {"any": True},
        "selector": {"matchLabels": labels},
        "podMetricsEndpoints": [
            {
                "port": port,
                "interval": "10s",
                "relabelings": [{"sourceLabels": [f"{pod}_label_{JOB_NAME}"], "targetLabel": "job_name"}],
            }
        ],
    }
    scraper = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "podSelector": {"matchLabels": {NAME_LABEL: "prometheus"}},
    }
    assert found["NetworkPolicy"]["spec"] == {
        "podSelector": {"matchLabels": labels},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [scraper], "ports": [{"protocol": "TCP", "port": SUPERVISOR_PORT}]}],
    }
    assert monitoring.scrape_config() == {
        "job_name": APP,
        "scrape_interval": "10s",
        "kubernetes_sd_configs": [{"role": "pod"}],
        # What the operator generates from the PodMonitor, without the labels that nothing here uses.
        "relabel_configs": [
            {"action": "keep", "source_labels": [f"{pod}_label_{NAME_LABEL.translate(UNDERSCORES)}"], "regex": APP},
            {"action": "keep", "source_labels": [f"{pod}_container_port_name"], "regex": port},
            {"action": "drop", "source_labels": [f"{pod}_phase"], "regex": "Failed|Succeeded"},
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": [f"{pod}_name"], "target_label": "pod"},
            {"source_labels": [f"{pod}_label_{JOB_NAME}"], "target_label": "job_name"},
        ],
    }


@needs_promtool
def test_prometheus_accepts_the_pages_configuration(tmp_path: Path) -> None:
    """It is valid, apart from Kubernetes discovery, which promtool may be built without."""
    scrape = monitoring.scrape_config()
    del scrape["kubernetes_sd_configs"]
    path = tmp_path / "prometheus.yaml"
    path.write_text(yaml.safe_dump({"scrape_configs": [scrape]}), encoding="utf-8")
    monitoring.promtool("check", "config", path)
