"""status: what is asked of the cluster, and what is shown."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from job import telemetry
from job.errors import JobError
from k8s.api.errors import ApiError, LauncherError
from k8s.commands import status
from k8s.state.names import JOB_NAME_LABEL, pods_of
from tests.k8s.objects import ended, event, job, pod, record, running, termination, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from job.telemetry import Record
    from k8s.api.cluster import Cluster
    from k8s.api.objects import Object

PAGE = (Path(__file__).parents[3] / "docs/launcher.md").read_text(encoding="utf-8")
LONG = "a-name-that-is-as-long-as-the-names-of-runs-may-be-in-kubernetes"


class Asked:
    """Plays a cluster that changes each time when it was looked at; counts what is asked.

    Args:
        moments: the Jobs, pods and events of each.
        logs: by pod, the records of each.
    """

    namespace, flags, patience_s = "here", "-n here", 30.0

    def __init__(self, *moments: list[Object], **logs: list[Record]) -> None:
        self._moments, self._logs = list(moments), logs
        self.asked: list[str] = []

    def given(self) -> Cluster:
        """This, as the commands take it."""
        return cast("Cluster", self)

    def get(self, kind: str, name: str) -> Object | None:
        """The Job, or nothing else; a new moment begins with it."""
        self.asked.append(f"{kind} {name}")
        if kind != "Job":
            return None
        return next((one for one in self._now(kind) if one["metadata"]["name"] == name), None)

    def select(self, kind: str, selector: str = "", *, everywhere: bool = False) -> list[Object]:
        """All of a kind, of a team if the selector names it; no nodes may be asked for."""
        self.asked.append(f"{kind} everywhere" if everywhere else kind)
        if kind == "Node":
            raise ApiError(403, "Forbidden", "no", "list nodes")
        found = self._now(kind)
        if "team=" in selector:
            found = [one for one in found if f"team={one['metadata']['labels'].get('team')}" in selector]
        if kind == "Event" or (kind == "Job" and len(self._moments) > 1):
            self._moments[1:] and self._moments.pop(0)
        return found

    def in_namespace(self, namespace: str) -> Cluster:
        """The same, for all of them share the logs."""
        self.asked.append(f"in {namespace}")
        return self.given()

    def keep(self, kind: str, selector: str) -> None:
        """What is kept changes as what is asked for does."""
        self.asked.append(f"watch of {kind} {selector}")

    def logs(self, name: str, _container: str, *, tail: int) -> Iterator[str]:
        """The last lines, with a torn one."""
        self.asked.append(f"log {name}")
        lines = [telemetry.to_logfmt(found) for found in self._logs[name.replace("-", "_")]]
        yield from ["I0000 a note", *lines][-tail:]

    def _now(self, kind: str) -> list[Object]:
        parts = {"Job": "completions", "Event": "involvedObject"}
        return [one for one in self._moments[0] if kind == kind_of(one, parts)]


def kind_of(one: Object, parts: dict[str, str]) -> str:
    """The kind of an object, by what it has."""
    if parts["Event"] in one:
        return "Event"
    return "Job" if parts["Job"] in one["spec"] else "Pod"


def renamed(one: Object, name: str) -> Object:
    """A Job or a pod of another run."""
    one["metadata"]["name"] = one["metadata"]["name"].replace("demo", name)
    if JOB_NAME_LABEL in one["metadata"]["labels"]:
        one["metadata"]["labels"][JOB_NAME_LABEL] = name
    return one


def run(cluster: Asked, name: str | None = None, output: str = "text", **flags: Any) -> None:
    """Run the command."""
    flags = {"watch": False, "all_namespaces": False, "selector": None} | flags
    assert status.run(argparse.Namespace(name=name, output=output, **flags), cluster.given) == 0


def two_runs() -> Asked:
    """One run that is published, and a newer one of a team in the namespace `ml` that trains."""
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
    return Asked([done, new, *done_pods, *new_pods], **{log: [record("training", step=45, steps=100)]})


def test_all_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """They take three lists, and the log of those that are training; the newest comes first."""
    cluster = two_runs()
    run(cluster, output="json")
    assert cluster.asked == ["Pod", "Job", "in ml", f"log {LONG}-0-aaaa0", "CronJob"]
    first, second = json.loads(capsys.readouterr().out)["runs"]
    assert first.pop("age_s") < second.pop("age_s")
    template = {"workers": 2, "image": "registry.example/mnist-job:1", "claim": "output", "nodes": ["node-1"]}
    training = {"state": "training", "detail": "45%", "ended": False, "code": None, "accuracy": None}
    assert first == {"name": LONG, "namespace": "ml", **training, **template}
    detail = "kept, for a, was tested on other data"
    published = {"state": "published", "detail": detail, "ended": True, "code": 0, "accuracy": 0.9261}
    assert second == {"name": "demo", "namespace": "", **published, **template}
    [row] = re.findall(r"^\| `status` \|.*$", PAGE, re.MULTILINE)
    assert first.keys() - {"age_s"} <= set(re.findall("`(.*?)`", row))


def test_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each run, however long, with colours on a terminal alone; wide has more columns."""
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
    assert done.endswith("registry.example/mnist-job:1   output   node-1   kept, for a, was tested on other data")

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run(cluster)
    assert "\x1b[32mpublished" in (text := capsys.readouterr().out)
    assert "\x1b[" in text.splitlines()[0]
    assert "\x1b" not in text.splitlines()[1]
    monkeypatch.setenv("NO_COLOR", "1")
    run(cluster)
    assert "\x1b" not in capsys.readouterr().out


def test_all_namespaces(capsys: pytest.CaptureFixture[str]) -> None:
    """The lists are those of all namespaces, and each run is shown with its own."""
    cluster = two_runs()
    run(cluster, all_namespaces=True)
    assert [kind for kind in cluster.asked if "everywhere" in kind] == [
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
    assert cluster.asked == ["Job", "CronJob"]
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
    """64, before the cluster is asked."""
    cluster = Asked([])
    with pytest.raises(JobError, match=message) as refused:
        run(cluster, **flags)
    assert (refused.value.code, cluster.asked) == (64, [])


def test_no_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """It is said."""
    run(Asked([]))
    assert capsys.readouterr().out == "there are no runs\n"


def test_a_run_by_rank(capsys: pytest.CaptureFixture[str]) -> None:
    """Each rank's phase, node, restarts and replacements with their reasons; progress, events; the page names all."""
    replaced = running(1, number=2)
    replaced["metadata"]["annotations"] = {"batch.kubernetes.io/job-index-failure-count": "2"}
    workers = {"1": {"phase": "restarting", "restarts": 1}}
    now = record(
        "training", epoch=2, step=45, steps=100, loss=0.25, examples_per_s=1234.5, eta_s=150.0, workers=workers
    )
    said = event("Pod", "demo-1-aaaa2", "Started", "Container started")
    cluster = Asked(
        [job(3), running(0), ended(1, 137, 0, "OOMKilled"), replaced, waiting(2, "ErrImagePull"), said],
        demo_0_aaaa0=[now],
        demo_1_aaaa2=[record("restarting", reason="killed"), record("waiting")],
    )
    run(cluster, "demo", "json")
    found = json.loads(capsys.readouterr().out)
    figures = {"epoch": 2, "step": 45, "steps": 100, "loss": 0.25, "examples_per_s": 1234.5, "eta_s": 150.0}
    assert found["progress"] == {**figures, "checkpoint": None}
    none: dict[str, Any] = {"restarts": 0, "restarted_after": {}, "replaced_after": {}}
    again = {"restarted_after": {"killed": 1}, "replaced_after": {"out-of-memory": 1, "unknown, the pod is gone": 1}}
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
def test_a_rank_on_its_way(found: Object | None, phase: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a worker does is told by its pod as long as no record tells it."""
    run(Asked([job(1), *([found] if found else [])], demo_0_aaaa0=[]), "demo", "json")
    (rank,) = json.loads(capsys.readouterr().out)["ranks"]
    assert rank["phase"] == phase


def test_no_such_run() -> None:
    """2, and how to find those that are."""
    with pytest.raises(LauncherError) as refused:
        run(Asked([]), "demo")
    assert str(refused.value) == (
        "there is no run demo in namespace here; `mnist-job status` lists the runs; "
        "`submit --name demo -- --continue` takes up one whose Job is gone"
    )
    assert refused.value.status == 2


@pytest.mark.parametrize("output", ["text", "json"])
def test_watch(output: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no terminal, a line for each change, until the run has ended."""
    monkeypatch.setattr(status, "EVERY_S", 0.0)
    moments = [[job(2), waiting(0), waiting(1)]] * 2 + [[job(2), running(0), waiting(1)]]
    moments += [
        [job(2, "Complete"), ended(0, 0, message=termination(0, "promoted", "first", accuracy=0.9261)), ended(1, 0)]
    ]
    cluster = Asked(*moments, demo_0_aaaa0=[])
    run(cluster, "demo", output, watch=True)
    assert [what for what in cluster.asked if "watch" in what] == [f"watch of Pod {pods_of('demo')}"]
    lines = capsys.readouterr().out.splitlines()
    if output == "text":
        assert lines == ["demo: starting 0 of 2 run", "demo: starting 1 of 2 run", "demo: published"]
    else:
        assert [json.loads(line)["detail"] for line in lines] == ["0 of 2 run", "1 of 2 run", ""]
        assert json.loads(lines[-1])["ended"]
