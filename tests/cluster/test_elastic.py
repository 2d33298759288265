"""Runs with --min-workers on a cluster: a worker is lost, finds no room, comes back, and the run goes on meanwhile."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from k8s.state.names import INDEX_LABEL, RUN_SELECTOR
from k8s.state.pods import has_finished
from tests.cluster.namespace import ROOT, conditions, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.namespace import Namespace

    Undisturbed = Callable[..., dict[str, Any]]

WORKERS = 2
TRAINING = ("--epochs=5", "--evaluate-every=0")
EVERY = 20  # steps between checkpoints
OFTEN = ("--log-every=10", f"--checkpoint-every={EVERY}")
STEP = 2 * EVERY
# Each of the 3,000 steps waits, so that a replacement finds the run training however long it takes, until the test lets
# the run go. It waits without XLA, which cannot call Python.
GO = "/output/go"
SLOW_MODEL = f"""

import os
import time

jit_compile = False
_compute = loss_and_gradient


def _wait(images):
    if not os.path.exists("{GO}"):
        time.sleep(0.2)
    return images


def loss_and_gradient(params, images, labels, weights):
    waited = tf.ensure_shape(tf.numpy_function(_wait, [images], tf.uint8), images.shape)
    return _compute(params, waited, labels, weights)
"""


@pytest.fixture
def training(shared: Namespace, undisturbed: Undisturbed, tmp_path: Path) -> Namespace:
    """A namespace with a run of two slow workers, which trains and has a checkpoint, and needs only one of them."""
    undisturbed(WORKERS, *TRAINING)  # it and the reader start before a test cordons the nodes
    shared.reader()
    file = tmp_path / "slow.py"
    file.write_text((ROOT / "job" / "model.py").read_text(encoding="utf-8") + SLOW_MODEL, encoding="utf-8")
    shared.submit("run", *TRAINING, *OFTEN, workers=WORKERS, flags=["--min-workers=1", f"--model={file}"])
    shared.wait_for_step("run", STEP)
    wait_until_training(shared, WORKERS)
    return shared


def wait_until_training(namespace: Namespace, workers: int) -> None:
    """Wait until `status` says that the run trains with so many workers."""
    fewer = f" with {workers} of {WORKERS} workers" if workers < WORKERS else ""

    def trains() -> bool:
        run = namespace.told("status", "run")
        return bool(re.fullmatch(rf"training \d+%{fewer}", f"{run['state']} {run['detail']}"))

    wait_until(trains, f"training with {workers} of {WORKERS} workers")


def wait_for_a_step(namespace: Namespace) -> None:
    """Wait until the run has made another step."""

    def step() -> int:
        progress = namespace.told("status", "run")["progress"]  # none while the workers start again
        return (progress and progress["step"]) or 0

    before = wait_until(step, "a step")
    wait_until(lambda: step() > before, "another step")


def finish(namespace: Namespace, undisturbed: Undisturbed) -> list[int]:
    """Let the run go; it is published once, as good as the undisturbed one. Returns how many workers trained in turn.

    The first number may be 1: where one worker starts half a minute after the other, that one begins.
    """
    namespace.kubectl("exec", namespace.reader(), "--", "touch", GO)
    namespace.wait_until_published("run")
    # Once the pods have ended too, also those that never started.
    wait_until(lambda: "Complete" in conditions(namespace.job("run")), "the end of the Job")
    published = namespace.kubectl("exec", namespace.reader(), "--", "sh", "-c", "cd /output && ls models serving")
    assert published.split() == ["models:", "run", "serving:", "1"]
    report = json.loads(namespace.read("models/run/report.json"))
    expected = undisturbed(WORKERS, *TRAINING)["test"]
    # The parameters differ by 1e-5 at most, which a picture on the border between two classes may show.
    assert report["test"]["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    assert report["test"]["accuracy"] == pytest.approx(expected["accuracy"], abs=5e-4)
    steps = [size["step"] for size in report["sizes"]]
    assert steps[0] == 0
    assert steps == sorted(set(steps))
    return [size["workers"] for size in report["sizes"]]


def test_a_deleted_pod(training: Namespace, undisturbed: Undisturbed) -> None:
    """The other worker goes on, and takes the replacement in at a checkpoint; its own pod stays."""
    killed, other = training.pod("run", 1), training.pod("run", 0)
    training.kill(killed)
    wait_until_training(training, 1)
    wait_for_a_step(training)
    training.pod("run", 1, unlike=[killed])
    wait_until_training(training, 2)
    assert finish(training, undisturbed)[-3:] == [2, 1, 2]
    assert [pod["metadata"]["uid"] for pod in training.pods("run", 0)] == [other["metadata"]["uid"]]


@pytest.mark.alone
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_drained_node_and_no_room_elsewhere(training: Namespace, undisturbed: Undisturbed, comes_back: bool) -> None:
    """The other worker goes on while the replacement waits for a node, and ends without it if there is none."""
    nodes = [node["metadata"]["name"] for node in training.nodes()]
    drained = training.pod("run", 1)
    # Of worker 1 alone, which may share its node with worker 0.
    pod = f"--pod-selector={RUN_SELECTOR},{INDEX_LABEL}=1"
    training.kubectl("cordon", *nodes)
    try:
        training.kubectl("drain", drained["spec"]["nodeName"], pod, "--force", "--delete-emptydir-data")
        wait_until_training(training, 1)
        said = (
            r"nothing is wrong: training \d+% with 1 of 2 workers; worker 1 cannot be scheduled: .*; once started, it"
        )
        wait_until(lambda: re.search(said, training.why("run")), "the worker that waits for a node")
        wait_for_a_step(training)
        if comes_back:
            training.kubectl("uncordon", *nodes)
            wait_until_training(training, 2)
        sizes = [2, 1, 2] if comes_back else [2, 1]
        assert finish(training, undisturbed)[-len(sizes) :] == sizes
    finally:
        training.kubectl("uncordon", *nodes)


def test_suspend_and_resume(training: Namespace, undisturbed: Undisturbed) -> None:
    """A run that is suspended while a worker is missing continues from its checkpoint with both."""
    training.kill(training.pod("run", 1))
    wait_until_training(training, 1)
    training.launcher("suspend", "run")
    # The Job keeps the object of the killed pod until there is another one of its rank.
    wait_until(lambda: all(map(has_finished, training.pods("run"))), "the end of the pods")
    training.launcher("resume", "run")
    assert (training.wait_for_step("run", 1).step or 0) > EVERY
    wait_until_training(training, 2)
    assert finish(training, undisturbed)[-3:] == [2, 1, 2]
