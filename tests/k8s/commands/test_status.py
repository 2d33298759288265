"""status: what it reads from the cluster, and what it shows."""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from job.errors import JobError
from k8s.api.errors import LauncherError
from k8s.commands import status
from k8s.state.names import JOB_NAME_LABEL, QUEUE_LABEL, RUN_SELECTOR, pod_selector
from k8s.state.run import Run
from tests.k8s.changing_cluster import ChangingCluster
from tests.k8s.objects import ended, event, job, pod, record, running, termination, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.objects import Object

PAGE = (Path(__file__).parents[3] / "docs/launcher.md").read_text(encoding="utf-8")
LONG = "a-name-that-is-as-long-as-the-names-of-runs-may-be-in-kubernetes"


def renamed(one: Object, name: str) -> Object:
    """The Job or pod, with another run's name."""
    one["metadata"]["name"] = one["metadata"]["name"].replace("demo", name)
    if JOB_NAME_LABEL in one["metadata"]["labels"]:
        one["metadata"]["labels"][JOB_NAME_LABEL] = name
    return one


def run(cluster: ChangingCluster, name: str | None = None, output: str = "text", **flags: Any) -> None:
    """Run the command."""
    flags = {"watch": False, "all_namespaces": False, "selector": None} | flags
    assert status.run(argparse.Namespace(name=name, output=output, **flags), cluster.given) == 0


def two_runs() -> ChangingCluster:
    """A published run, and a newer one of a team in the namespace `ml` that is training."""
    done = job(2, "Complete", "SuccessPolicy")
    done_pods = [
        ended(0, 0, message=termination(0, "kept", "a, was tested on other data", accuracy=0.9261)),
        ended(1, 0),
    ]
    new = renamed(job(2), LONG)
    new["metadata"] |= {"uid": "new", "creationTimestamp": "2026-01-02T00:00:00Z", "namespace": "ml"}
    new["metadata"]["labels"]["team"] = "vision"
    new_pods = [renamed(running(rank), new["metadata"]["name"]) for rank in range(2)]
    for pod_of_new in new_pods:
        pod_of_new["metadata"]["namespace"] = "ml"
    log = f"{new['metadata']['name']}-0-aaaa0".replace("-", "_")
    return ChangingCluster([done, new, *done_pods, *new_pods], **{log: [record("training", step=45, steps=100)]})


def test_a_run_that_kueue_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    """A preempted run differs from one that never started, in the list and alone; Kueue's reason is shown."""
    waits = job(2)
    waits["spec"]["suspend"] = True
    waits["metadata"]["labels"][QUEUE_LABEL] = "night"
    evicted = {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "to accommodate a workload"}
    workload = {"kind": "Workload", "metadata": {"name": "job-demo", "labels": {"kueue.x-k8s.io/job-uid": "job"}}}
    cluster = ChangingCluster([waits, workload | {"spec": {}, "status": {"conditions": [evicted]}}])
    run(cluster)
    assert re.search(r"^demo +queued preempted ", capsys.readouterr().out, re.MULTILINE)
    run(cluster, "demo", "json")
    result = json.loads(capsys.readouterr().out)
    said = "Kueue stopped it (Preempted): to accommodate a workload"
    assert (result["state"], result["detail"], result["kueue"]) == ("queued", "preempted", said)
    run(cluster, "demo")
    assert f"\nwaits for Kueue: {said}\n" in capsys.readouterr().out


def test_all_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """They need three lists, and the log of each run that is training; the newest is first."""
    cluster = two_runs()
    run(cluster, output="json")
    assert cluster.requests == ["Pod", "Job", "in ml", f"log {LONG}-0-aaaa0", "CronJob"]
    first, second = json.loads(capsys.readouterr().out)["runs"]
    assert first.pop("age_s") < second.pop("age_s")
    template = {"workers": 2, "image": "registry.example/mnist-job:1", "model_map": None, "claim": "output"}
    template |= {"nodes": ["node-1"]}
    training = {"state": "training", "detail": "45%", "ended": False, "code": None, "accuracy": None}
    assert first == {"name": LONG, "namespace": "ml", **training, **template}
    detail = "kept because a, was tested on other data"
    published = {"state": "published", "detail": detail, "ended": True, "code": 0, "accuracy": 0.9261}
    assert second == {"name": "demo", "namespace": "", **published, **template}
    [row] = re.findall(r"^\| `status` \|.*$", PAGE, re.MULTILINE)
    assert first.keys() - {"age_s"} <= set(re.findall("`(.*?)`", row))


def test_other_things_with_the_label(capsys: pytest.CaptureFixture[str]) -> None:
    """A Job or a CronJob with this application's label but without a trainer is neither a run nor a schedule."""
    cleanup = job(1)
    cleanup["spec"]["template"]["spec"]["containers"][0]["name"] = "cleanup"
    cleanup["metadata"] |= {"name": "cleanup", "uid": "cleanup"}
    nightly = {"schedule": "0 2 * * *", "jobTemplate": {"spec": cleanup["spec"]}}
    cronjob = {"kind": "CronJob", "metadata": {**cleanup["metadata"], "name": "nightly-cleanup"}, "spec": nightly}
    cluster = ChangingCluster([job(2, "Complete"), cleanup, cronjob])
    run(cluster, output="json")
    shown = json.loads(capsys.readouterr().out)
    assert ([each["name"] for each in shown["runs"]], shown["schedules"]) == (["demo"], [])
    with pytest.raises(LauncherError, match="the Job cleanup in namespace here does not belong to mnist-job"):
        run(cluster, "cleanup")


def test_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is one line, however long; only a terminal gets colours; wide adds columns."""
    monkeypatch.setenv("COLUMNS", "40")
    cluster = two_runs()
    run(cluster)
    headings, new, done = capsys.readouterr().out.splitlines()
    assert headings.split() == ["RUN", "STATE", "WORKERS", "AGE", "ACCURACY"]
    assert new.startswith(f"{LONG}   training 45%   2 ")
    assert re.fullmatch(r"demo +published +2 +\d+d +0\.9261", done)
    assert {headings.index("WORKERS")} == {new.index(" 2 ") + 1, done.index(" 2 ") + 1}

    run(cluster, output="wide")
    headings, new, done = capsys.readouterr().out.splitlines()
    assert headings.split()[5:] == ["IMAGE", "CLAIM", "NODES", "DETAIL"]
    assert done.endswith("registry.example/mnist-job:1   output   node-1   kept because a, was tested on other data")

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run(cluster)
    assert "\x1b[32mpublished" in (text := capsys.readouterr().out)
    assert "\x1b[" in text.splitlines()[0]
    assert "\x1b" not in text.splitlines()[1]
    monkeypatch.setenv("NO_COLOR", "1")
    run(cluster)
    assert "\x1b" not in capsys.readouterr().out


def test_all_namespaces(capsys: pytest.CaptureFixture[str]) -> None:
    """The lists are of all namespaces, and each run is shown with its own."""
    cluster = two_runs()
    run(cluster, all_namespaces=True)
    assert [kind for kind in cluster.requests if "everywhere" in kind] == [
        f"{k} everywhere" for k in ("Pod", "Job", "CronJob")
    ]
    headings, new, _ = capsys.readouterr().out.splitlines()
    assert headings.split()[:2] == ["NAMESPACE", "RUN"]
    assert new.split()[:2] == ["ml", LONG]


def test_selector(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the runs with these labels are shown."""
    run(two_runs(), selector="team=vision")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["RUN", LONG]


def test_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    """YAML has the fields of JSON."""
    run(two_runs(), output="json")
    as_json = json.loads(capsys.readouterr().out)
    run(two_runs(), output="yaml")
    as_yaml = yaml.safe_load(capsys.readouterr().out)
    for each in [*as_json["runs"], *as_yaml["runs"]]:
        del each["age_s"]
    assert as_yaml == as_json


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    """-o name prints one name on each line, for scripts, and needs no pods and no logs."""
    cluster = two_runs()
    run(cluster, output="name")
    assert cluster.requests == ["Job", "CronJob"]
    run(cluster, "demo", output="name")
    assert capsys.readouterr().out == f"{LONG}\ndemo\ndemo\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"name": "demo", "all_namespaces": True}, "--all-namespaces cannot be combined with the name of a run"),
        ({"name": "demo", "selector": "a=b"}, "--selector cannot be combined with the name of a run"),
        ({"watch": True, "output": "name"}, "--watch cannot be combined with -o name"),
    ],
)
def test_flags_that_exclude_each_other(flags: dict[str, Any], message: str) -> None:
    """64, without a request to the cluster."""
    cluster = ChangingCluster([])
    with pytest.raises(JobError, match=message) as refused:
        run(cluster, **flags)
    assert (refused.value.code, cluster.requests) == (64, [])


def test_no_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty list is said in words."""
    run(ChangingCluster([]))
    assert capsys.readouterr().out == "there are no runs\n"


def test_a_run_by_rank(capsys: pytest.CaptureFixture[str]) -> None:
    """Each rank's phase, node, restarts and replacements; progress; events; docs/launcher.md lists all keys."""
    replaced = running(1, number=2)
    replaced["metadata"]["annotations"] = {"batch.kubernetes.io/job-index-failure-count": "2"}
    workers = {"1": {"phase": "restarting", "restarts": 1}}
    now = record(
        "training", epoch=2, step=45, steps=100, loss=0.25, examples_per_s=1234.5, eta_s=150.0, workers=workers
    )
    said = event("Pod", "demo-1-aaaa2", "Started", "Container started")
    cluster = ChangingCluster(
        [job(3), running(0), ended(1, 137, 0, "OOMKilled"), replaced, waiting(2, "ErrImagePull"), said],
        demo_0_aaaa0=[now],
        demo_1_aaaa2=[record("restarting", reason="killed"), record("waiting")],
    )
    run(cluster, "demo", "json")
    found = json.loads(capsys.readouterr().out)
    figures = {"epoch": 2, "step": 45, "steps": 100, "loss": 0.25, "examples_per_s": 1234.5, "eta_s": 150.0}
    assert found["progress"] == {**figures, "checkpoint": None, "joined": None}
    none: dict[str, Any] = {"restarts": 0, "restarted_after": {}, "replaced_after": {}}
    again = {"restarted_after": {"killed": 1}, "replaced_after": {"out-of-memory": 1, "unknown, the pod is gone": 1}}
    assert list(found["time"]) == ["spent_s", "goodput", "core_seconds"]
    assert found["ranks"] == [
        {"rank": 0, "phase": "training", "node": "node-1", "pod": "demo-0-aaaa0", **none},
        {"rank": 1, "phase": "restarting", "node": "node-1", "pod": "demo-1-aaaa2", "restarts": 1, **again},
        {"rank": 2, "phase": "ErrImagePull", "node": "node-1", "pod": "demo-2-aaaa0", **none},
    ]
    assert found["events"] == [
        {"when": "2026-01-01T00:00:20Z", "about": "demo-1-aaaa2", "reason": "Started", "message": "Container started"}
    ]
    for part in ("progress", "ranks", "events"):
        row = re.search(rf"\n\| `{part}`,[^|]*\| (.*) \|\n", PAGE)
        [keys, *_] = found[part] if isinstance(found[part], list) else [found[part]]
        assert row
        assert re.findall("`(.*?)`", row[1]) == list(keys)
    run(cluster, "demo")
    text = " ".join(capsys.readouterr().out.split())
    assert "step 45 of 100, loss 0.2500, 1,234 examples/s, 2m left" in text
    assert "1 (1 killed)" in text


@pytest.mark.parametrize(
    ("found", "phase"),
    [
        (None, "no pod"),
        (pod(0, node=None), "waits for a node"),
        (waiting(0), "starting"),
        (waiting(0, sandbox=True), "pulling"),
        (waiting(0, "ImagePullBackOff"), "ImagePullBackOff"),
        (running(0), "starting"),
        (ended(0, 75), "ended with 75"),
        (pod(0, phase="Failed", reason="Evicted"), "ended"),
    ],
)
def test_the_phase_before_records(found: Object | None, phase: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before there are records, a worker's phase comes from its pod."""
    run(ChangingCluster([job(1), *([found] if found else [])], demo_0_aaaa0=[]), "demo", "json")
    (rank,) = json.loads(capsys.readouterr().out)["ranks"]
    assert rank["phase"] == phase


@pytest.mark.parametrize("name", ["demo", None])
def test_ages_go_by_the_clock_of_the_cluster(
    name: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is wrong shows the same ages."""
    cluster = ChangingCluster([job(1), running(0)], demo_0_aaaa0=[])
    monkeypatch.setattr(cluster, "now", lambda: datetime(2026, 1, 1, 0, 1, 30, tzinfo=UTC))
    run(cluster, name, "json")
    found = json.loads(capsys.readouterr().out)
    assert (found if name else found["runs"][0])["age_s"] == 90


def test_no_such_run() -> None:
    """2, with the command that lists the runs."""
    with pytest.raises(LauncherError) as refused:
        run(ChangingCluster([]), "demo")
    assert str(refused.value) == (
        "there is no run demo in namespace here; `mnist-job status -n here` lists the runs; "
        "to continue a run whose Job was deleted, submit it with the same flags and `-- --continue`"
    )
    assert refused.value.status == 2


@pytest.mark.parametrize("output", ["text", "json"])
def test_watch(output: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, each change is a line, until the run has ended."""
    monkeypatch.setattr(status, "EVERY_S", 0.0)
    moments = [[job(2), waiting(0), waiting(1)]] * 2 + [[job(2), running(0), waiting(1)]]
    moments += [
        [job(2, "Complete"), ended(0, 0, message=termination(0, "promoted", "first", accuracy=0.9261)), ended(1, 0)]
    ]
    cluster = ChangingCluster(*moments, demo_0_aaaa0=[])
    run(cluster, "demo", output, watch=True)
    watches = [what for what in cluster.requests if "watch" in what]
    assert watches == [f"watch of Pod {pod_selector('demo')}", "watch of Event some"]
    lines = capsys.readouterr().out.splitlines()
    if output == "text":
        assert lines == ["demo: starting 0 of 2 running", "demo: starting 1 of 2 running", "demo: published"]
    else:
        assert [json.loads(line)["detail"] for line in lines] == ["0 of 2 running", "1 of 2 running", ""]
        assert json.loads(lines[-1])["ended"]


@pytest.mark.parametrize(("lines", "whole"), [(status.TAIL - 2, True), (status.TAIL - 1, False), (status.TAIL, False)])
def test_a_log_is_known_whole_only_if_no_line_can_be_missing(lines: int, *, whole: bool) -> None:
    """The node counts a last line that is being written, and that is left out here."""

    class Cluster(ChangingCluster):
        def last_lines(self, name: str, container: str, count: int) -> list[str]:
            del name, container
            return ["a note"] * min(lines, count)

    cluster = Cluster([job(2), running(0), running(1)])
    assert status.last_records(cluster.given(), Run(job(2), (running(0), running(1))), status.Logs()) == ([], whole)


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_seldom_reads_the_log_for_where_the_time_went(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    """Once a minute, and when the state changes."""
    clock, read = iter([0.0, 2.0, 59.0, 60.0, 62.0, 64.0]), []
    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)

    class Cluster(ChangingCluster):
        def logs(self, name: str, container: str, *, tail: int) -> Iterator[str]:
            if tail == status.TAIL:
                read.append(name)
            return super().logs(name, container, tail=tail)

    moments = [[job(2), running(0), running(1)]] * 5 + [[job(2, "Complete"), ended(0, 0), ended(1, 0)]]
    run(Cluster(*moments, demo_0_aaaa0=[record("training", step=45, steps=100)]), "demo", watch=True)
    assert (read, list(clock)) == (["demo-0-aaaa0"] * 3, [])


def test_watch_of_all_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods and Jobs of all namespaces are listed once and then watched."""
    cluster = two_runs()
    monkeypatch.setattr(status, "watch_changes", lambda *_: None)
    run(cluster, all_namespaces=True, watch=True)
    watches = [what for what in cluster.requests if "watch" in what]
    assert watches == [f"watch of {kind} {RUN_SELECTOR} everywhere" for kind in ("Pod", "Job")]


def test_watch_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal everything is drawn again and again in one place, until the run has ended."""
    monkeypatch.setattr(status, "EVERY_S", 0.0)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    done = [job(2, "Complete"), ended(0, 0), ended(1, 0)]
    run(ChangingCluster([job(2), running(0), waiting(1)], done, demo_0_aaaa0=[]), "demo", watch=True)
    last = capsys.readouterr().out.split("demo: ")[-1]
    assert re.search(r"^published.*RANK.*PHASE.*ended with 0", last, re.DOTALL)
