"""Runs in a queue of the real Kueue. Each test has a queue, `night`, with room for one run of two workers."""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from k8s.diagnose import queueing
from k8s.state.names import NO_QUEUE, QUEUE_LABEL, SUBMITTED, trainer_of
from tests.cluster.namespace import wait_until
from tests.cluster.systems import kueue
from tests.cluster.systems.programs import run
from tests.cluster.test_faults import TRAINING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.objects import Object
    from tests.cluster.namespace import Namespace

ROOM = {"cpu": "500m", "memory": "8Gi"}  # for one run
QUEUED = ("--overlay=local", "--queue=night")  # that overlay requests 250m of CPU for each worker
LONG = ("--epochs=100", "--evaluate-every=0", "--log-every=100")  # 30 s on a quiet machine
ENDLESS = ("--epochs=100000", *LONG[1:])
SHORT = ("--epochs=1", "--evaluate-every=0")
NO_ROOM = "insufficient unused quota for cpu in flavor plain, 500m more needed"
SLOT = "example.com/slot"
WAIT_FOR_PODS = """
waitForPodsReady:
  timeout: 20s
  blockAdmission: true
  requeuingStrategy:
    backoffBaseSeconds: 10
"""


@pytest.fixture(scope="module")
def installed(kind: str) -> Iterator[None]:
    """Kueue, for as long as the tests of this file run."""
    kueue.install(kind)
    try:
        yield
    finally:
        kueue.remove()


@pytest.fixture
def team(installed: None, namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with a claim and the queue."""
    del installed
    namespace.claim("output", "ReadWriteOnce", os.environ.get("RWO_CLASS"))
    kueue.queue(namespace.name, ROOM)
    yield namespace
    run("kubectl", "delete", "clusterqueue", namespace.name, "--wait=false")


def shown(team: Namespace, name: str) -> tuple[str, str]:
    """A run's state and its detail."""
    found = team.told("status", name)
    return found["state"], found["detail"]


def workloads(team: Namespace, name: str) -> list[Object]:
    """The Workloads that Kueue has made for a run's newest Job."""
    selector = f"--selector=kueue.x-k8s.io/job-uid={team.job(name)['metadata']['uid']}"
    found: list[Object] = json.loads(team.kubectl("get", "workloads", selector, "--output=json"))["items"]
    return found


def test_a_run_waits_and_is_preempted(team: Namespace) -> None:
    """A run waits for quota; a preempted run continues from its checkpoint, with the result of an undisturbed one."""
    team.submit("first", *LONG, flags=QUEUED)
    step = team.wait_for_step("first", 1000).step or 0
    urgent = team.render("urgent", *ENDLESS, workers=2, overlay="local", queue="night")
    urgent["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] = kueue.PRIORITY_CLASS
    team.send(urgent)
    wait_until(lambda: shown(team, "first") == ("queued", "preempted"), "the preemption")
    assert re.search(r"^first +queued preempted ", team.launcher("status"), re.MULTILINE)
    assert "Kueue stopped it (Preempted): Preempted to accommodate a workload" in team.why("first")

    # Kueue gives no reason for a run with the same requests as one that waits.
    team.submit("same", *SHORT, flags=QUEUED)
    team.submit("second", *LONG, flags=[*QUEUED, "--memory=1500Mi"])
    wait_until(lambda: NO_ROOM in team.why("second"), "Kueue's reason")
    said = team.why("same")
    assert queueing.NO_REASON in said or NO_ROOM in said
    assert NO_ROOM in team.launcher("status", "second")
    assert shown(team, "second") == ("queued", "")
    assert "Kueue decides when second runs" in team.launcher("suspend", "second", code=2)
    team.launcher("cancel", "same")

    team.launcher("cancel", "urgent")
    assert (team.wait_for_step("first", 1).step or 0) > step
    team.wait_until_published("first")
    team.wait_until_published("second")
    assert team.result("first") == team.result("second")
    assert shown(team, "same") == ("cancelled", "")


def test_a_run_starts_with_the_workers_that_the_quota_allows(team: Namespace) -> None:
    """Kueue starts one of two workers where the quota has room for one; it trains alone, and the report says so."""
    team.submit("holder", *ENDLESS, workers=1, flags=QUEUED)
    team.wait_for_step("holder", 1)
    team.submit("run", *SHORT, flags=[*QUEUED, "--min-workers=1"])
    team.wait_until_published("run")
    spec = team.job("run")["spec"]
    assert (spec["parallelism"], spec["completions"], team.pods("run", 1)) == (1, 2, [])
    assert json.loads(team.read("models/run/report.json"))["sizes"] == [{"step": 0, "workers": 1}]


def test_a_cancelled_run_stays_cancelled(team: Namespace) -> None:
    """Kueue does not start a run that is cancelled before it makes a Workload, or while it runs; `retry` does."""
    with without_workloads():
        team.submit("run", *LONG, flags=QUEUED)
        assert not workloads(team, "run")
        team.launcher("cancel", "run")
    wait_until(lambda: workloads(team, "run"), "the Workload")
    refusal = wait_until(lambda: conditions(workloads(team, "run")[0]).get("QuotaReserved"), "Kueue's decision")
    assert (refusal["status"], NO_QUEUE in refusal["message"]) == ("False", True)
    assert (shown(team, "run"), team.pods("run")) == (("cancelled", ""), [])

    team.launcher("retry", "run")
    team.wait_for_step("run", 1000)
    team.launcher("cancel", "run")
    wait_until(lambda: not team.pods("run"), "the end of the pods")
    assert [each["spec"]["active"] for each in workloads(team, "run")] == [False]
    assert shown(team, "run") == ("cancelled", "")
    team.launcher("retry", "run")
    team.wait_until_published("run")


def test_a_namespace_with_a_default_queue(team: Namespace) -> None:
    """Kueue puts a run without a queue into the queue `default`; a cancelled one leaves it for good."""
    queue = {"clusterQueue": team.name}
    kueue.apply(
        {
            "apiVersion": kueue.API,
            "kind": "LocalQueue",
            "metadata": {"name": "default", "namespace": team.name},
            "spec": queue,
        }
    )
    team.submit("run", *ENDLESS, flags=QUEUED[:1])
    assert team.job("run")["metadata"]["labels"][QUEUE_LABEL] == "default"
    team.wait_for_step("run", 1)
    team.launcher("cancel", "run")
    wait_until(lambda: not team.pods("run"), "the end of the pods")
    assert team.job("run")["metadata"]["labels"][QUEUE_LABEL] == NO_QUEUE
    assert shown(team, "run") == ("cancelled", "")


@pytest.mark.parametrize(
    ("sender", "flavour"), [("launcher", kueue.FLAVOUR), ("kubectl", kueue.FLAVOUR), ("kubectl", kueue.TOPOLOGY)]
)
def test_a_failed_run_starts_again(team: Namespace, sender: str, flavour: str) -> None:
    """`retry` starts a run that failed after Kueue had admitted it, also with topology-aware scheduling."""
    kueue.queue(team.name, ROOM, flavour)
    if sender == "launcher":
        team.submit("run", *TRAINING, flags=[*QUEUED, "--deadline=1s"])
    else:
        job = team.render("run", *TRAINING, workers=2, overlay="local", queue="night", deadline_s=1)
        job["metadata"].get("annotations", {}).pop(SUBMITTED, None)
        team.send(job)
    failed = team.wait_until_failed("run")
    template = failed["spec"]["template"]
    assert "kueue.x-k8s.io/workload" in template["metadata"]["annotations"]
    assert bool(template["spec"].get("schedulingGates")) == (flavour == kueue.TOPOLOGY)
    team.launcher("retry", "run", "--deadline=1h")
    team.wait_until_published("run")


def test_the_runs_of_a_schedule_wait(team: Namespace) -> None:
    """A run that a schedule starts waits for quota, and runs once there is some; so does a triggered one."""
    team.submit("holder", *ENDLESS, flags=QUEUED)
    team.wait_for_step("holder", 1)
    # A run's deadline is shorter than the time between two starts.
    submission = team.submission("nightly", *SHORT, flags=[*QUEUED, "--deadline=179s"])
    team.launcher("schedule", "*/3 * * * *", *submission)
    scheduled = wait_until(lambda: team.told("status", "nightly")["history"], "a run")[0]["name"]
    team.launcher("suspend", "nightly")
    assert QUEUE_LABEL not in json.loads(team.kubectl("get", "cronjob", "nightly", "-o", "json"))["metadata"]["labels"]
    wait_until(lambda: NO_ROOM in team.why(scheduled), "Kueue's reason")
    team.launcher("cancel", "holder")
    team.wait_until_published(scheduled)
    triggered = team.launcher("trigger", "nightly", "-o", "name").strip()
    team.wait_until_published(triggered)


def test_preflight_knows_the_queue(team: Namespace) -> None:
    """A queue that does not exist is refused; a run that is larger than the quota gets a warning that names both."""
    refusal = team.launcher("preflight", *team.submission("run", flags=[*QUEUED, "--queue=day"]), code=2)
    assert f"queue: local queue day does not exist in namespace {team.name}; choose another --queue (night)" in refusal
    team.submit("run", flags=[*QUEUED, "--queue=day", "--skip-checks"])
    wait_until(lambda: "LocalQueue day doesn't exist" in team.why("run"), "Kueue's reason")

    four = team.submission("large", workers=4, flags=QUEUED)
    asked = f"4 workers ask for 1 cpu, and ClusterQueue {team.name} has a nominal quota of 0.5 cpu"
    assert f"warning     queue: Kueue would never start the run: {asked} (flavor plain)" in preflight(team, four)
    team.launcher("submit", *four)
    wait_until(lambda: "insufficient quota for cpu in flavor plain" in team.why("large"), "Kueue's reason")
    two = team.submission("small", flags=QUEUED)
    assert "ok          queue: local queue night exists, and its quota is enough for the run" in preflight(team, two)
    four = team.submission("other", workers=4, flags=QUEUED)
    run("kubectl", "patch", "clusterqueue", team.name, "--type=merge", f"--patch={json.dumps(borrowing(team, '250m'))}")
    assert f"{asked} and a borrowing limit of 0.25 cpu" in preflight(team, four)
    run("kubectl", "patch", "clusterqueue", team.name, "--type=merge", f"--patch={json.dumps(borrowing(team, '1'))}")
    assert "ok          queue: local queue night exists" in preflight(team, four)


def preflight(team: Namespace, submission: list[str]) -> str:
    """What preflight says to a submission that it lets pass."""
    return team.launcher("preflight", *submission)


def borrowing(team: Namespace, limit: str) -> Object:
    """A change to the ClusterQueue: it may borrow as much CPU from a cohort of that name."""
    resources = [{"name": name, "nominalQuota": value} for name, value in ROOM.items()]
    resources[0]["borrowingLimit"] = limit
    group = {"coveredResources": list(ROOM), "flavors": [{"name": kueue.FLAVOUR, "resources": resources}]}
    return {"spec": {"cohortName": team.name, "resourceGroups": [group]}}


def test_its_webhook_is_away(team: Namespace) -> None:
    """While Kueue's controller does not run, preflight names the webhook that does not answer."""
    run("kubectl", "-n", kueue.NAMESPACE, "scale", kueue.DEPLOYMENT, "--replicas=0")
    try:
        run("kubectl", "-n", kueue.NAMESPACE, "wait", "pod", "--all", "--for=delete", "--timeout=120s")
        refusal = team.launcher("preflight", *team.submission("run", flags=QUEUED), code=2)
    finally:
        run("kubectl", "-n", kueue.NAMESPACE, "scale", kueue.DEPLOYMENT, "--replicas=1")
        kueue.wait_for_rollout()
    where = r"at kueue-webhook-service\.kueue-system\.svc does not answer: .+; wait until it runs again"
    assert re.search(rf"failed +job: .*the admission webhook \S*job\.kb\.io {where}", refusal), refusal
    assert re.search(rf"failed +pod: .*the admission webhook \S*pod\.kb\.io {where}", refusal), refusal


def test_runs_that_hold_half_of_what_they_need(team: Namespace) -> None:
    """Without waitForPodsReady, a run that lacks a node holds what another one needs; with it, it gives way."""
    kueue.queue(team.name, {**ROOM, "cpu": "2", SLOT: "5"})
    node = slots(2)
    try:
        team.send(with_slots(team, "large", workers=3))
        sentence = "so it keeps its quota of the queue night meanwhile"
        wait_until(lambda: sentence in team.why("large"), "the worker without a node")
        team.send(with_slots(team, "small", workers=2))
        wait_until(lambda: sentence in team.why("small"), "the second run, without nodes")
        assert (shown(team, "large")[0], shown(team, "small")[0]) == ("waiting for nodes", "waiting for nodes")
        before = kueue.configure(WAIT_FOR_PODS)
        try:
            # Kueue starts it again after the backoff, so one look must show both.
            stopped = r"^large: queued pods-ready-timeout\n.* Kueue stopped it \(PodsReadyTimeout\): Exceeded the Pods"
            wait_until(lambda: re.match(stopped, team.why("large")), "the eviction")
            team.launcher("cancel", "large")
            team.wait_until_published("small")
        finally:
            kueue.restore(before)
    finally:
        slots(None, node)


def slots(number: int | None, node: str = "") -> str:
    """Make a node advertise as many slots, or none; returns its name."""
    nodes = json.loads(run("kubectl", "get", "nodes", "-o", "json"))["items"]
    node = node or next(each["metadata"]["name"] for each in nodes if not each["spec"].get("taints"))
    capacity = {"capacity": {SLOT: number and str(number)}, "allocatable": {SLOT: number and str(number)}}
    patch = json.dumps({"status": capacity})
    run("kubectl", "patch", "node", node, "--subresource=status", "--type=merge", f"--patch={patch}")
    return node


def with_slots(team: Namespace, name: str, workers: int) -> Object:
    """The Job of a run each of whose workers needs a slot."""
    job = team.render(name, *SHORT, workers=workers, overlay="local", queue="night")
    resources = trainer_of(job["spec"]["template"])["resources"]
    resources["requests"] |= {"cpu": "100m", SLOT: "1"}
    resources["limits"] |= {SLOT: "1"}
    return job


def test_jobs_that_others_suspend(team: Namespace) -> None:
    """Kueue starts its own run again when somebody else suspends it, and leaves runs without a queue alone."""
    team.submit("own", *TRAINING, flags=QUEUED[:1])
    team.launcher("suspend", "own")
    team.submit("run", *TRAINING, flags=QUEUED)
    team.wait_for_step("run", 1000)
    pod = team.pod("run", 0)
    team.kubectl("patch", "job", "run", "--type=merge", '--patch={"spec":{"suspend":true}}')
    team.pod("run", 0, unlike=[pod])
    team.wait_until_published("run")
    assert shown(team, "own") == ("suspended", "")
    team.launcher("resume", "own")
    team.wait_until_published("own")


@contextmanager
def without_workloads() -> Iterator[None]:
    """Meanwhile, Kueue's controller may not create Workloads."""
    role: Any = json.loads(run("kubectl", "get", "clusterrole", "kueue-manager-role", "-o", "json"))
    for rule in role["rules"]:
        if "workloads" in rule["resources"] and "create" in rule["verbs"]:
            rule["verbs"].remove("create")
    patched = json.dumps({"rules": role["rules"]})
    before = run("kubectl", "get", "clusterrole", "kueue-manager-role", "-o", "json")
    run("kubectl", "patch", "clusterrole", "kueue-manager-role", "--type=merge", f"--patch={patched}")
    try:
        yield
    finally:
        again = json.dumps({"rules": json.loads(before)["rules"]})
        run("kubectl", "patch", "clusterrole", "kueue-manager-role", "--type=merge", f"--patch={again}")


def conditions(workload: Object) -> dict[str, Object]:
    """A Workload's conditions by type."""
    return {each["type"]: each for each in workload.get("status", {}).get("conditions", [])}
