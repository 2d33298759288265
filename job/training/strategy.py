"""Connects the workers: configures TensorFlow in this process and makes the strategy."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from job.cluster import LOCAL_UID
from job.config import usage_error
from job.errors import Exit, JobError
from job.training import internals

if TYPE_CHECKING:
    from job.cluster import Cluster

DRIVER = Path("/proc/driver/nvidia/version")


def join(cluster: Cluster, device: str, threads: int, timeout_s: int) -> tf.distribute.Strategy:
    """Wait for all workers and make the strategy, with one replica on each worker.

    Args:
        cluster: this worker and its peers.
        device: cpu or gpu.
        threads: CPU threads that share one matrix product.
        timeout_s: how long to wait for the peers, in seconds.

    Raises:
        JobError: no GPU to train on: 64 without a cluster, 75 with one, because another node may have one; 75 if this
            worker's port is taken or a peer does not come.
    """
    configure(device, threads, in_cluster=cluster.job_uid != LOCAL_UID)
    if cluster.size == 1:
        return tf.distribute.get_strategy()
    os.environ["TF_CONFIG"] = cluster.tf_config()
    internals.limit_wait_for_peers(cluster.size, timeout_s)
    implementation = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=implementation.NCCL if device == "gpu" else implementation.RING
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except tf.errors.DeadlineExceededError as error:
        message = f"not all of the {cluster.size} workers joined within {timeout_s} s"
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


def configure(device: str, threads: int, *, in_cluster: bool = False) -> None:
    """Set devices and threads. Call it before anything else of TensorFlow's."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    if device == "cpu":
        # A second thread for parallel operations only slows them down: a step takes 0.64 ms instead of 0.42 with two
        # workers, 71 us instead of 65 with one.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
        prefer_throughput()
        return
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and in_cluster:
        message = f"--device gpu: TensorFlow finds no GPU on {socket.gethostname()}, which has {_nvidia_driver()}"
        hint = "check the GPU, its driver and NVIDIA's device plugin on the worker's node, or use --device cpu"
        raise JobError(Exit.TRY_AGAIN, "no-gpu", message, hint)
    if not gpus:
        raise usage_error(
            "--device gpu: TensorFlow finds no GPU here",
            "use --device cpu, or give each worker a GPU, a driver and an image for GPUs",
        )
    tf.config.set_visible_devices(gpus[0], "GPU")
    tf.config.experimental.set_memory_growth(gpus[0], True)
    # TF32 rounds factors to 10 bits, so that results would differ from a CPU's in the third digit.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    # Otherwise, a GPU's threads add in any order. TensorFlow now uses only kernels that repeat their bits, or refuses.
    tf.config.experimental.enable_op_determinism()


def prefer_throughput() -> None:
    """Let this thread, and those that it starts from now on, not interrupt another when they are woken.

    A message passes through several threads of TensorFlow. By default, the kernel lets each thread that is woken
    interrupt the one that woke it, which then has to finish later: with two workers, a step takes a sixth longer.
    """
    with suppress(AttributeError, OSError):  # not Linux, or a sandbox forbids it
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # not if the user has chosen another policy
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _nvidia_driver() -> str:
    """NVIDIA's driver as this container sees it, for a sentence."""
    try:
        version = re.search(r"\d+(\.\d+)+", DRIVER.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return "no NVIDIA driver"
    return f"NVIDIA driver {version[0]}" if version else "an NVIDIA driver"
