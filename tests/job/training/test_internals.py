"""Tests of what TensorFlow does not promise. When the first one fails, read its message."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import tensorflow as tf

from job.training import internals

CHECKED = "2.21"


def test_tensorflow_is_the_version_that_was_checked() -> None:
    """An upgrade is a reason to check everything in job/training/internals.py again, by hand where no test does."""
    version = tf.__version__.rpartition(".")[0]
    assert version == CHECKED, (
        f"TensorFlow {version}: check job/training/internals.py, then set CHECKED. By tests: the other tests of this "
        "module, tests/faults/test_workers.py (errors of a lost peer and of a taken port, a clock that is set forward) "
        "and tests/job/training/test_train.py (gather on CPUs). By hand: start one of two trainers alone and see that "
        "it gives up after --join-timeout; on two GPUs, kill a worker and compare NCCL's words with NCCL_LOST_PEER."
    )


def test_errors_have_the_names_that_are_looked_for() -> None:
    """Each name of LOST_PEER_ERRORS is a public error class, defined in a module of TensorFlow's."""
    for name in internals.LOST_PEER_ERRORS:
        assert internals.is_lost_peer(getattr(tf.errors, name)(None, None, "gone"))
    assert not internals.is_lost_peer(type("AbortedError", (Exception,), {})("not TensorFlow's"))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "Graph execution error:\n\nDetected at node x\nCollective ops is aborted by: Socket closed\nmore",
            "Socket closed",
        ),
        ("one\nNCCL: unhandled system error. Set NCCL_DEBUG=WARN", "NCCL: unhandled system error. Set NCCL_DEBUG=WARN"),
        ("something else", None),
    ],
)
def test_cause_is_found_below_the_first_line(text: str, cause: str | None) -> None:
    """An error's text says why a collective failed only far below its first line."""
    assert internals.cause_of(RuntimeError(text)) == cause


def test_coordination_service_takes_these_settings() -> None:
    """The private function and message that limit_wait_for_peers() uses have the parameters that it sets."""
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2  # noqa: PLC0415 - what is under test
    from tensorflow.python.eager import context  # noqa: PLC0415

    parameters = inspect.signature(context.Context.configure_coordination_service).parameters
    used = {"service_type", "service_leader", "cluster_register_timeout_in_ms", "heartbeat_timeout_in_ms"}
    assert used | {"coordinated_jobs"} <= parameters.keys()
    job = coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=2)
    assert (job.name, job.num_tasks) == ("worker", 2)


def test_send_and_receive() -> None:
    """The raw operations exist, and take these arguments."""

    def exchange(vector: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return internals.send(vector, 1, 2), internals.receive(vector.shape, vector.dtype, 1, 3)

    build = tf.function(exchange).get_concrete_function(tf.TensorSpec([3]))
    assert [(output.shape, output.dtype) for output in build.structured_outputs] == [([3], tf.float32)] * 2
    kinds = [op.type for op in build.graph.get_operations()]
    assert (kinds.count("CollectiveBcastSendV2"), kinds.count("CollectiveBcastRecvV2")) == (1, 1)


def test_keras_stays_hidden_and_the_module_alone_is_light() -> None:
    """TensorFlow and the job are imported without Keras, which is not missed; internals itself imports neither."""
    code = """
import sys
from job.training import internals
assert "tensorflow" not in sys.modules
with internals.without_keras():
    from job.training import strategy
import tensorflow as tf
from job import train
assert "keras" not in sys.modules
assert float(tf.reduce_sum(tf.constant([1.0, 2.0]))) == 3
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
