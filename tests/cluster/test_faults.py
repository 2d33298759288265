"""Faults of pods, nodes and the cluster while a run trains. The result is that of the run without a fault."""

from __future__ import annotations

import os
import random
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from k8s.state.names import RUN_SELECTOR
from tests.cluster.namespace import DEADLINE_S, conditions, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.namespace import Breaker, Namespace

    Undisturbed = Callable[..., dict[str, Any]]

# 24,000 steps with a checkpoint after each epoch: about twenty seconds, long enough for a fault at a chosen step.
TRAINING = ("--epochs=40", "--evaluate-every=0", "--log-every=100")
STEP = 4000
POINTS = int(os.environ.get("POINTS", "3"))
FAILURES = "batch.kubernetes.io/job-index-failure-count"


def assert_same(namespace: Namespace, undisturbed: Undisturbed, run: str = "run") -> None:
    """The run succeeds with the result of the run without a fault."""
    namespace.wait_until_published(run)
    assert namespace.result(run) == undisturbed(2, *TRAINING)


@pytest.mark.parametrize("rank", [1, 0])
def test_a_deleted_pod_is_replaced(shared: Namespace, undisturbed: Undisturbed, rank: int) -> None:
    """A pod that is deleted without a grace period is replaced, and the other rank keeps its pod."""
    shared.submit("run", *TRAINING)
    shared.wait_for_step("run", STEP)
    killed, other = shared.pod("run", rank), shared.pod("run", 1 - rank)
    shared.kill(killed)
    shared.pod("run", rank, unlike=[killed])
    assert_same(shared, undisturbed)
    # Once rank 0 has ended, the Job may delete rank 1's pod.
    assert {pod["metadata"]["uid"] for pod in shared.pods("run", 1 - rank)} <= {other["metadata"]["uid"]}


@pytest.mark.alone
def test_a_drained_node_is_not_counted(spread: Namespace, undisturbed: Undisturbed) -> None:
    """A worker on a drained node moves to another one; no failure is counted, and the other rank keeps its pod."""
    spread.submit("run", *TRAINING)
    spread.wait_for_step("run", STEP)
    drained, other = spread.pod("run", 1), spread.pod("run", 0)
    node = drained["spec"]["nodeName"]
    assert node != other["spec"]["nodeName"]
    try:
        # Of the run's pods alone: while other pods take their time, the run could end, and its pods with it.
        pods = f"--pod-selector={RUN_SELECTOR}"
        spread.kubectl("drain", node, pods, "--force", "--delete-emptydir-data", "--ignore-daemonsets")
        replacement = spread.pod("run", 1, unlike=[drained])
        assert replacement["metadata"]["annotations"][FAILURES] == "0"
        assert_same(spread, undisturbed)
    finally:
        spread.kubectl("uncordon", node)
    assert [pod["metadata"]["uid"] for pod in spread.pods("run", 0)] == [other["metadata"]["uid"]]


def test_a_node_is_cut_off(spread: Namespace, undisturbed: Undisturbed, breaker: Breaker) -> None:
    """A run survives a node that is disconnected for a minute."""
    spread.submit("run", *TRAINING)
    spread.wait_for_step("run", STEP)
    node = spread.pod("run", 1)["spec"]["nodeName"]
    breaker.cut(node)
    wait_a_minute()
    breaker.repair()
    assert_same(spread, undisturbed)


def test_the_api_server_is_away(shared: Namespace, undisturbed: Undisturbed, breaker: Breaker) -> None:
    """A run survives a minute without the API server, and `submit --wait` continues."""
    command = shared.command("submit", "--wait", *shared.submission("run", *TRAINING))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as waiting:
        wait_until(lambda: shared.cluster.get("Job", "run"), "the Job")
        shared.wait_for_step("run", STEP)
        breaker.stop("kube-apiserver")
        wait_a_minute()
        breaker.repair()
        printed, _ = waiting.communicate(timeout=DEADLINE_S)
    assert waiting.returncode == 0, printed
    assert_same(shared, undisturbed)


def test_dns_is_away_while_pods_start(shared: Namespace, undisturbed: Undisturbed, breaker: Breaker) -> None:
    """Workers that cannot resolve rank 0's name keep trying, and train once DNS answers."""
    breaker.stop("coredns")
    shared.submit("run", *TRAINING)
    pod = shared.pod("run", 1)["metadata"]["name"]
    wait_until(
        lambda: "does not answer" in shared.kubectl("logs", pod, check=False), "a worker that cannot find rank 0"
    )
    breaker.repair()
    assert_same(shared, undisturbed)


def test_suspend_and_resume(shared: Namespace, undisturbed: Undisturbed) -> None:
    """A suspended run keeps its checkpoint, and resumes from it."""
    shared.submit("run", *TRAINING)
    shared.wait_for_step("run", STEP)
    shared.launcher("suspend", "run")
    wait_until(lambda: not shared.pods("run"), "the end of the pods")
    assert "Suspended" in conditions(shared.job("run"))
    shared.launcher("resume", "run")
    record = shared.wait_for_step("run", 1)
    assert (record.step or 0) > STEP
    assert_same(shared, undisturbed)


@pytest.mark.parametrize("seed", range(POINTS))
def test_random_pods_are_killed(shared: Namespace, undisturbed: Undisturbed, seed: int) -> None:
    """A run survives two kills of random pods, each at a seeded step beyond the last one."""
    rng, step = random.Random(seed), 0  # noqa: S311 - no secret
    shared.submit("run", *TRAINING)
    for _ in range(2):
        step += rng.randrange(500, STEP)
        record = shared.wait_for_step("run", step)
        step = record.step or step
        shared.kill(shared.pod("run", rng.randrange(2)))
    assert_same(shared, undisturbed)


def wait_a_minute() -> None:
    """Wait, because the length of the fault is what is tested."""
    time.sleep(60)
