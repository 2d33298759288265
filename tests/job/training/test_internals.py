"""Tests of what TensorFlow does not promise. When the first one fails, read its message."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import tensorflow as tf

from job.dataset.rows import aligned
from job.training import internals

if TYPE_CHECKING:
    from pathlib import Path

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


@pytest.mark.parametrize(("start", "shared"), [(0, True), (16, False)])
def test_only_an_aligned_array_is_shared_with_tensorflow(start: int, shared: bool) -> None:
    """An aligned array is shared, and another one is copied. TensorFlow can compute with either."""
    room = aligned(1000)
    array = room[start : start + 900].reshape(30, 30)
    array[:] = 1
    tensor = internals.shared_tensor(array)
    array[0, 0] = 2
    assert int(tf.reduce_sum(tf.cast(tensor[:2], tf.int32))) == 60 + shared
    assert (tensor.shape, tensor.dtype) == ([30, 30], tf.uint8)


def python(code: str, *arguments: object) -> str:
    """Run code in a new Python, with arguments in sys.argv[1:]; what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def test_a_run_of_the_default_model_imports_no_keras_and_no_compat_v1(prepared: Path, tmp_path: Path) -> None:
    """It trains and publishes without Keras, tensorflow.python.keras or tf.compat.v1."""
    code = """
import sys
from pathlib import Path
from job.training import internals
assert "tensorflow" not in sys.modules
from job.cluster import Cluster
from job.config import Config
from job.supervisor.trainer import run_trainer
from job.telemetry import Reporter
config = Config(data=Path(sys.argv[1]), output=Path(sys.argv[2]), epochs=1)
cluster = Cluster("run", "local", 0, ("127.0.0.1:1",), ("127.0.0.1:2",))
assert run_trainer(config, cluster, Reporter("run", 0, sys.stderr, 0)) == 0
print(*sorted({"keras", "requests", "tensorflow.python.keras", "tensorflow._api.v2.compat.v1"} & sys.modules.keys()))
"""
    assert python(code, prepared, tmp_path / "output") == "\n"
    assert (tmp_path / "output" / "models" / "run" / "report.html").exists()


def test_a_light_import_has_every_public_name() -> None:
    """The public modules have the same names as after the usual import, also tf.lite, which is a package's name too."""
    code = """
import sys, types
from contextlib import nullcontext
from job.training.internals import light_import
with light_import() if sys.argv[1] == "light" else nullcontext():
    import tensorflow as tf

seen = set()

def print_names(module, path):
    seen.add(module)
    for name in sorted(set(dir(module))):
        if name.startswith("_") and name != "__internal__":
            continue
        value = getattr(module, name)
        print(path, name, getattr(value, "__name__", ""), value if isinstance(value, (str, int)) else "")
        if isinstance(value, types.ModuleType) and value.__name__.startswith("tensorflow._api") and value not in seen:
            print_names(value, f"{path}.{name}")

print_names(tf, "tf")
"""
    light, usual = (python(code, kind) for kind in ("light", "usual"))
    assert len(usual.splitlines()) > 5000
    assert light == usual


def test_keras_can_be_imported_later() -> None:
    """A Keras model works after a light import."""
    code = """
from job.training.internals import light_import
with light_import():
    import tensorflow as tf
import keras
from tensorflow.keras import layers
assert layers.Dense is keras.layers.Dense is tf.keras.layers.Dense
print(keras.Sequential([layers.Dense(1, kernel_initializer="ones")])(tf.ones([1, 3])).numpy())
"""
    assert python(code) == "[[3.]]\n"


def test_a_public_module_whose_run_fails_can_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first use of a name raises the module's exception; the next one runs the module again."""
    (tmp_path / "late.py").write_text(
        "import sys\nif not hasattr(sys, 'may_run'): raise OSError('too early')\nname = 1\n"
    )
    monkeypatch.setattr(internals, "ON_FIRST_USE", re.compile("late$"))
    monkeypatch.setattr(sys, "meta_path", [internals.OnFirstUse(), *sys.meta_path])
    monkeypatch.syspath_prepend(tmp_path)
    late = importlib.import_module("late")
    monkeypatch.delitem(sys.modules, "late")
    with pytest.raises(OSError, match="too early"):
        late.name  # noqa: B018 - its use is under test
    monkeypatch.setattr(sys, "may_run", True, raising=False)
    assert late.name == 1
    assert "name" in dir(late)
    with pytest.raises(AttributeError, match="module 'late' has no attribute 'nothing'"):
        late.nothing  # noqa: B018
