"""What befalls pods, nodes and the cluster while a run trains: it ends with the same parameters as if nothing had."""

from __future__ import annotations

import os
import random
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.lab import conditions, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.lab import Breaker, Lab

    Quiet = Callable[..., dict[str, Any]]

# 12,000 steps, of which each epoch's last leaves a checkpoint: some ten seconds, in which a moment can be chosen.
TRAINING = ("--epochs=20", "--evaluate-every=0", "--log-every=100")
STEPS, STEP = 12_000, 4000
POINTS = int(os.environ.get("POINTS", "3"))
FAILURES = "batch.kubernetes.io/job-index-failure-count"


def assert_same(lab: Lab, quiet: Quiet, run: str = "run") -> None:
    """The run ends well, with the result of the run that nothing befell."""
    lab.until_published(run)
    assert lab.result(run) == quiet(2, *TRAINING)


@pytest.mark.parametrize("rank", [1, 0])
def test_a_deleted_pod_is_replaced(shared: Lab, quiet: Quiet, rank: int) -> None:
    """A pod of either rank that is deleted with no grace in training is replaced, the other goes on in its own."""
    shared.submit("run", *TRAINING)
    shared.until_step("run", STEP)
    killed, other = shared.pod("run", rank), shared.pod("run", 1 - rank)
    shared.kill(killed)
    shared.pod("run", rank, unlike=[killed])
    assert_same(shared, quiet)
    assert [pod["metadata"]["uid"] for pod in shared.pods("run", 1 - rank)] == [other["metadata"]["uid"]]


def test_a_drained_node_is_not_counted(shared: Lab, quiet: Quiet) -> None:
    """A worker whose node is drained goes on elsewhere; that is not counted, and the other pod is not replaced."""
    shared.submit("run", *TRAINING)
    shared.until_step("run", STEP)
    drained, other = shared.pod("run", 1), shared.pod("run", 0)
    node = drained["spec"]["nodeName"]
    assert node != other["spec"]["nodeName"]
    try:
        shared.kubectl("drain", node, "--force", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=60s")
        replacement = shared.pod("run", 1, unlike=[drained])
        assert replacement["metadata"]["annotations"][FAILURES] == "0"
        assert_same(shared, quiet)
    finally:
        shared.kubectl("uncordon", node)
    assert [pod["metadata"]["uid"] for pod in shared.pods("run", 0)] == [other["metadata"]["uid"]]


def test_a_node_is_cut_off(shared: Lab, quiet: Quiet, breaker: Breaker) -> None:
    """A worker whose node is cut off the network for a minute does not lose the run."""
    shared.submit("run", *TRAINING)
    shared.until_step("run", STEP)
    node = shared.pod("run", 1)["spec"]["nodeName"]
    breaker.cut(node)
    wait_a_minute()
    breaker.mend()
    assert_same(shared, quiet)


def test_the_api_server_is_away(shared: Lab, quiet: Quiet, breaker: Breaker) -> None:
    """An API server that is away for a minute stops no run, and `submit --wait` picks up again."""
    command = shared.command("submit", "--wait", *shared.submission("run", *TRAINING))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as waiting:
        until(lambda: shared.cluster.get("Job", "run"), "the Job")
        shared.until_step("run", STEP)
        breaker.stop("kube-apiserver")
        wait_a_minute()
        breaker.mend()
        printed, _ = waiting.communicate(timeout=240)
    assert waiting.returncode == 0, printed
    assert_same(shared, quiet)


def test_dns_is_away_while_pods_start(shared: Lab, quiet: Quiet, breaker: Breaker) -> None:
    """Workers that cannot find rank 0 by name keep asking, and train once the cluster's DNS answers."""
    breaker.stop("coredns")
    shared.submit("run", *TRAINING)
    pod = shared.pod("run", 1)["metadata"]["name"]
    until(lambda: "does not answer" in shared.kubectl("logs", pod, check=False), "a worker that cannot find rank 0")
    breaker.mend()
    assert_same(shared, quiet)


def test_suspend_and_resume(shared: Lab, quiet: Quiet) -> None:
    """A run that is suspended keeps its checkpoint; resumed, it goes on from there."""
    shared.submit("run", *TRAINING)
    shared.until_step("run", STEP)
    shared.launcher("suspend", "run")
    until(lambda: not shared.pods("run"), "the pods' end")
    assert "Suspended" in conditions(shared.job("run"))
    shared.launcher("resume", "run")
    record = shared.until_step("run", 1)
    assert (record.step or 0) > STEP
    assert_same(shared, quiet)


@pytest.mark.parametrize("seed", range(POINTS))
def test_a_pod_is_killed_at_random(shared: Lab, quiet: Quiet, seed: int) -> None:
    """Pods of any rank, each killed at a seeded moment beyond the last one's step."""
    chance, step = random.Random(seed), 0  # noqa: S311 - no secret
    shared.submit("run", *TRAINING)
    for _ in range(2):
        step += chance.randrange(500, STEPS // 3)
        record = shared.until_step("run", step)
        step = record.step or step
        shared.kill(shared.pod("run", chance.randrange(2)))
    assert_same(shared, quiet)


def wait_a_minute() -> None:
    """The claim is that a minute is survived: no condition ends it sooner."""
    time.sleep(60)
