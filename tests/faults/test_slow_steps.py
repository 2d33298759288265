"""A model whose steps take long: progress and a request to stop are seen after each step."""

from __future__ import annotations

import re
import urllib.request
from typing import TYPE_CHECKING

import pytest

from job.errors import Exit
from job.supervisor.supervisor import STOP_S
from tests.faults.team import Team, assert_same, copy_with
from tests.job import processes
from tests.job.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.faults

STEPS = 100  # an epoch, and a block
FLAGS = ("--epochs=2", "--batch-size=60", f"--log-every={STEPS}", "--stall-timeout=5")
# Each step waits, without XLA, which cannot call Python. A block takes longer than --stall-timeout.
SLOW_MODEL = """

import os
import time

_compile, _compute = tf.function, loss_and_gradient


def _without_xla(*args, **options):
    options.pop("jit_compile", None)
    return _compile(*args, **options)


def _wait(images):
    time.sleep(float(os.environ["STEP_S"]))
    return images


def loss_and_gradient(params, images, labels, weights):
    waited = tf.ensure_shape(tf.numpy_function(_wait, [images], tf.uint8), images.shape)
    return _compute(params, waited, labels, weights)


tf.function = _without_xla
"""


def step_in_metrics(team: Team) -> int:
    """The last step of rank 0 that Prometheus would read."""
    with urllib.request.urlopen(f"http://{team.peers[0][1]}/metrics", timeout=5) as answer:
        found = re.search(r"^mnist_job_step\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
    return int(float(found[1])) if found else 0


@pytest.mark.parametrize(("workers", "sync_every"), [(1, 1), (2, 1), (2, STEPS)])
def test_slow_steps_are_no_stall_and_a_stop_keeps_them(
    digits: Path, tmp_path: Path, workers: int, sync_every: int
) -> None:
    """A worker is terminated within a block of slow steps, leaves in time with a checkpoint, and is replaced.

    No trainer is taken for stalled. The result is that of the same run with fast steps, to the bit.
    """
    model = (processes.ROOT / "job" / "model.py").read_text(encoding="utf-8")
    code = copy_with(tmp_path, "model.py", model + SLOW_MODEL)
    flags = (*FLAGS, f"--sync-every={sync_every}")
    with Team(digits, tmp_path / "fast", workers, flags, code | {"STEP_S": "0"}).start() as fast:
        assert fast.exit_codes() == [0] * workers, fast[0].errors
    with Team(digits, tmp_path / "slow", workers, flags, code | {"STEP_S": "0.07"}).start() as slow:
        team = slow
        team[0].wait_for_phase("training")
        seen = wait_until(lambda: (step := step_in_metrics(team)) >= 10 and step, "the tenth step")
        assert seen < STEPS
        last = team[workers - 1]
        last.terminate()
        assert last.exit_code(STOP_S) == Exit.TRY_AGAIN
        assert last.reasons("failed") == ["stopped"]
        team[0].wait_for_phase("restarting" if workers > 1 else "failed")
        # Between two averages of local SGD the workers' parameters differ: the steps since the last one are lost.
        kept = [int(name.partition(".")[0]) for name in team.sound_checkpoints()]
        assert (kept == [0]) if sync_every > 1 else (seen <= kept[0] < STEPS)
        assert_same(team.start(workers - 1), fast.result())
        assert {reason for worker in team.workers.values() for reason in worker.reasons()} <= {"stopped-by-peer"}
