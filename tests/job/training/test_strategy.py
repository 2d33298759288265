"""How TensorFlow is set up for a device, as far as it can be seen without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tensorflow as tf

from job.cluster import Cluster
from job.errors import Exit, JobError
from job.training import internals, strategy

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = ("127.0.0.1:1", "127.0.0.1:2")
NCCL = tf.distribute.experimental.CommunicationImplementation.NCCL
RING = tf.distribute.experimental.CommunicationImplementation.RING


class Asked(list[tuple[str, Any]]):
    """What TensorFlow was asked, in order."""

    def note(self, what: str) -> Any:
        """A function in TensorFlow's place that notes its arguments."""
        return lambda *given: self.append((what, *given))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """TensorFlow's settings, of which this process has made its own long since."""
    noted = Asked()
    for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, name, noted.note(name))
    monkeypatch.setattr(tf.config, "set_visible_devices", noted.note("visible"))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", noted.note("growth"))
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    yield noted
    tf.config.experimental.enable_tensor_float_32_execution(before)


def test_one_gpu_is_taken_and_not_all_of_its_memory(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that this worker sees, memory as it is needed, and products in whole float32."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind} 0", f"{kind} 1"])
    tf.config.experimental.enable_tensor_float_32_execution(True)
    strategy.configure("gpu", 4)
    expected = [("set_intra_op_parallelism_threads", 4), ("visible", "GPU 0", "GPU"), ("growth", "GPU 0", True)]
    assert asked == expected
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_no_gpu_is_refused(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """64, before anything is made visible: never a silent run on the CPU."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    with pytest.raises(JobError, match="--device gpu: TensorFlow finds no GPU here; use --device cpu") as caught:
        strategy.configure("gpu", 4)
    assert caught.value.code == Exit.USAGE
    assert asked == [("set_intra_op_parallelism_threads", 4)]


def test_a_gpu_is_left_alone_on_cpus(asked: Asked) -> None:
    """No GPU is visible to a worker on CPUs."""
    strategy.configure("cpu", 2)
    assert asked[1:] == [("set_inter_op_parallelism_threads", 1), ("visible", [], "GPU")]


@pytest.mark.parametrize(("device", "implementation"), [("gpu", NCCL), ("cpu", RING)])
def test_workers_talk_by_nccl_on_gpus(device: str, implementation: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL between GPUs, rings of sockets between CPUs."""
    made: list[Any] = []

    def make(*, communication_options: Any) -> None:
        made.append(communication_options.implementation)

    monkeypatch.setenv("TF_CONFIG", "")  # which join() sets
    monkeypatch.setattr(strategy, "configure", lambda *_: None)
    monkeypatch.setattr(internals, "limit_wait_for_peers", lambda *_: None)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", make)
    strategy.join(Cluster("demo", "uid", 0, HOSTS, HOSTS), device, 1, 5)
    assert made == [implementation]
