"""Joins the workers: TensorFlow configured for this process, and the strategy that holds them together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from job.config import usage
from job.errors import Exit, JobError

if TYPE_CHECKING:
    from job.cluster import Cluster

A_YEAR_MS = 365 * 86_400_000


def join(cluster: Cluster, device: str, threads: int, timeout_s: int) -> tf.distribute.Strategy:
    """Wait for all workers and make the strategy, one replica a worker.

    Args:
        cluster: this worker and its peers.
        device: cpu or gpu.
        threads: CPU threads that share a product.
        timeout_s: how long to wait; TensorFlow's own limit is an hour.

    Raises:
        JobError: 64 when there is no GPU to train on; 75 when this worker's port is taken or a peer never comes.
    """
    configure(device, threads)
    if cluster.workers == 1:
        return tf.distribute.get_strategy()
    os.environ["TF_CONFIG"] = cluster.tf_config()
    bound_wait(cluster.workers, timeout_s)
    implementation = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=implementation.NCCL if device == "gpu" else implementation.RING
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except tf.errors.DeadlineExceededError as error:
        message = f"not all of the {cluster.workers} workers came within {timeout_s} s"
        raise JobError(Exit.TRY_AGAIN, "peers-missing", message, "see why the others did not start") from error
    except tf.errors.UnknownError as error:
        if "Could not start gRPC server" not in str(error):
            raise
        address = cluster.tensorflow[cluster.rank]
        raise JobError(
            Exit.TRY_AGAIN,
            "port-taken",
            f"the port of {address} is taken by another process",
            "free it, or start again",
        ) from error


def configure(device: str, threads: int) -> None:
    """Set up devices and threads; must come before TensorFlow makes anything."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    if device == "cpu":
        # Operations in parallel only get into each other's way here: with a second thread for them a step of two
        # workers takes 0.64 ms instead of 0.42, one of one worker 71 us instead of 65.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
        return
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise usage(
            "--device gpu: TensorFlow finds no GPU here",
            "use --device cpu, or a machine, driver and image with one for each worker",
        )
    tf.config.set_visible_devices(gpus[0], "GPU")
    tf.config.experimental.set_memory_growth(gpus[0], True)
    # TF32 rounds factors to 10 bits: results would differ from those on CPUs in the third digit.
    tf.config.experimental.enable_tensor_float_32_execution(False)


def bound_wait(workers: int, timeout_s: int) -> None:
    """Bound the wait for peers, which the strategy itself would not, by the settings it would make and a time-out.

    The workers' heartbeats to each other go by the wall clock: with their 10 s a clock that is set forward ends every
    trainer. Who is stopped or out of reach is found by the supervisors instead, which go by the monotonic clock.
    """
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=timeout_s * 1000,
        heartbeat_timeout_in_ms=A_YEAR_MS,
        coordinated_jobs=[coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=workers)],
    )
