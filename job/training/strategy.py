"""Connects the workers: configures TensorFlow in this process and makes the strategy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import tensorflow as tf

from job.config import usage_error
from job.errors import Exit, JobError
from job.training import internals

if TYPE_CHECKING:
    from job.cluster import Cluster


def join(cluster: Cluster, device: str, threads: int, timeout_s: int) -> tf.distribute.Strategy:
    """Wait for all workers and make the strategy, with one replica on each worker.

    Args:
        cluster: this worker and its peers.
        device: cpu or gpu.
        threads: CPU threads that share one matrix product.
        timeout_s: how long to wait for the peers, in seconds.

    Raises:
        JobError: 64 if there is no GPU to train on; 75 if this worker's port is taken or a peer does not come.
    """
    configure(device, threads)
    if cluster.workers == 1:
        return tf.distribute.get_strategy()
    os.environ["TF_CONFIG"] = cluster.tf_config()
    internals.limit_wait_for_peers(cluster.workers, timeout_s)
    implementation = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=implementation.NCCL if device == "gpu" else implementation.RING
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except tf.errors.DeadlineExceededError as error:
        message = f"not all of the {cluster.workers} workers joined within {timeout_s} s"
        raise JobError(Exit.TRY_AGAIN, "peers-missing", message, "check why the others did not start") from error
    except tf.errors.UnknownError as error:
        if internals.PORT_TAKEN not in str(error):
            raise
        address = cluster.tensorflow[cluster.rank]
        raise JobError(
            Exit.TRY_AGAIN,
            "port-taken",
            f"another process uses the port of {address}",
            "stop that process, or start the run again",
        ) from error


def configure(device: str, threads: int) -> None:
    """Set devices and threads. Call it before anything else of TensorFlow's."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    if device == "cpu":
        # A second thread for parallel operations only slows them down: a step takes 0.64 ms instead of 0.42 with two
        # workers, 71 us instead of 65 with one.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
        return
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise usage_error(
            "--device gpu: TensorFlow finds no GPU here",
            "use --device cpu, or give each worker a GPU, a driver and an image for GPUs",
        )
    tf.config.set_visible_devices(gpus[0], "GPU")
    tf.config.experimental.set_memory_growth(gpus[0], True)
    # TF32 rounds factors to 10 bits, so that results would differ from a CPU's in the third digit.
    tf.config.experimental.enable_tensor_float_32_execution(False)
