"""Tests of how TensorFlow is configured for a device, as far as possible without a GPU."""

from __future__ import annotations

import errno
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import tensorflow as tf

from job.cluster import Cluster
from job.errors import Exit, JobError
from job.training import internals, strategy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTS = ("127.0.0.1:1", "127.0.0.1:2")
NCCL = tf.distribute.experimental.CommunicationImplementation.NCCL
RING = tf.distribute.experimental.CommunicationImplementation.RING


class Calls(list[tuple[str, Any]]):
    """Calls of TensorFlow's functions, in order."""

    def recorder(self, name: str) -> Any:
        """A function in place of TensorFlow's that records its arguments."""
        return lambda *arguments: self.append((name, *arguments))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Calls that configure TensorFlow, which this process cannot do any more."""
    recorded = Calls()
    for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, name, recorded.recorder(name))
    monkeypatch.setattr(tf.config, "set_visible_devices", recorded.recorder("visible"))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", recorded.recorder("growth"))
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", recorded.recorder("determinism"))
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    yield recorded
    tf.config.experimental.enable_tensor_float_32_execution(before)


def test_first_gpu_is_used_without_reserving_its_memory(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory grows as needed, products are in full float32, and results repeat their bits."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind} 0", f"{kind} 1"])
    tf.config.experimental.enable_tensor_float_32_execution(True)
    strategy.configure("gpu", 4)
    threads, visible = ("set_intra_op_parallelism_threads", 4), ("visible", "GPU 0", "GPU")
    assert calls == [threads, visible, ("growth", "GPU 0", True), ("determinism",)]
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_no_gpu_is_refused(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 64; the job never falls back to the CPU."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    with pytest.raises(JobError, match="--device gpu: TensorFlow finds no GPU here; use --device cpu") as caught:
        strategy.configure("gpu", 4)
    assert caught.value.code == Exit.USAGE
    assert calls == [("set_intra_op_parallelism_threads", 4)]


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC version: 12",
            "NVIDIA driver 550.54.15",
        ),
        ("something else", "an NVIDIA driver"),
        (None, "no NVIDIA driver"),
    ],
)
def test_no_gpu_on_a_clusters_node_may_be_retried_on_another(
    text: str | None, driver: str, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """75; the sentence names the worker's host and its driver."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    monkeypatch.setattr(socket, "gethostname", lambda: "digits-1-abcde")
    monkeypatch.setattr(strategy, "DRIVER", tmp_path / "version")
    if text:
        (tmp_path / "version").write_text(text)
    with pytest.raises(JobError) as caught:
        strategy.join(Cluster("r", "0f3b", 0, HOSTS, HOSTS), "gpu", 4, 60)
    assert (caught.value.code, caught.value.reason) == (Exit.TRY_AGAIN, "no-gpu")
    message = f"--device gpu: TensorFlow finds no GPU on digits-1-abcde, which has {driver}"
    hint = "check the GPU, its driver and NVIDIA's device plugin on the worker's node, or use --device cpu"
    assert str(caught.value) == f"{message}; {hint}"
    assert calls == [("set_intra_op_parallelism_threads", 4)]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_gpu_without_a_cluster_is_final(workers: int, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine would have no GPU the next time either."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    with pytest.raises(JobError) as caught:
        strategy.join(Cluster("r", "local", 0, HOSTS[:workers], HOSTS[:workers]), "gpu", 4, 60)
    assert (caught.value.code, caught.value.reason) == (Exit.USAGE, "usage")
    assert calls == [("set_intra_op_parallelism_threads", 4)]


def test_no_gpu_is_visible_with_device_cpu(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker on CPUs leaves GPUs to others."""
    monkeypatch.setattr(strategy, "prefer_throughput", lambda: calls.append(("throughput", None)))
    strategy.configure("cpu", 2)
    assert calls[1:] == [("set_inter_op_parallelism_threads", 1), ("visible", [], "GPU"), ("throughput", None)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this scheduling policy")
@pytest.mark.parametrize(("before", "after"), [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")])
def test_later_threads_do_not_interrupt_each_other(before: str, after: str) -> None:
    """They inherit the policy of the thread that configures TensorFlow. A policy that the user chose is kept."""

    def configure() -> int:
        os.sched_setscheduler(0, getattr(os, before), os.sched_param(0))
        strategy.prefer_throughput()
        with ThreadPoolExecutor(1) as later:
            return later.submit(os.sched_getscheduler, 0).result()

    own = os.sched_getscheduler(0)
    with ThreadPoolExecutor(1) as configuring:
        assert configuring.submit(configure).result() == getattr(os, after)
    assert os.sched_getscheduler(0) == own


def test_a_sandbox_may_forbid_the_scheduling_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker then trains without it."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    strategy.prefer_throughput()


@pytest.mark.parametrize(("device", "implementation"), [("gpu", NCCL), ("cpu", RING)])
def test_gpus_communicate_by_nccl(device: str, implementation: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL between GPUs, a ring of sockets between CPUs."""
    implementations: list[Any] = []

    def make(*, communication_options: Any) -> None:
        implementations.append(communication_options.implementation)

    monkeypatch.setenv("TF_CONFIG", "")  # which join() sets
    monkeypatch.setattr(strategy, "configure", lambda *_, **__: None)
    monkeypatch.setattr(internals, "limit_wait_for_peers", lambda *_, **__: None)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", make)
    strategy.join(Cluster("demo", "uid", 0, HOSTS, HOSTS), device, 1, 5)
    assert implementations == [implementation]
