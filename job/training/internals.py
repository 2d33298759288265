"""Everything that this job uses of TensorFlow and that TensorFlow does not promise; check it after an upgrade.

tests/job/training/test_internals.py lists what to check. TensorFlow is imported inside the functions, because a trainer
classifies its errors, and loads its data, before that import.
"""

from __future__ import annotations

import gc
import re
import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from job.error_table import is_tensorflows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec

    import tensorflow as tf
    from numpy.typing import NDArray

# Modules that run on first use. There are two exceptions: modules within tf.compat replace themselves in sys.modules,
# so they run with tf.compat. Running tf.distribute imports the package tensorflow.distribute, which would take the
# place of the public module.
ON_FIRST_USE = re.compile(r"tensorflow\._api\.v2\.(?!compat\.|distribute\b)")

# Names of the errors with which a collective ends when a peer has left or, the last one, hangs.
LOST_PEER_ERRORS = {"AbortedError", "CancelledError", "UnavailableError", "DeadlineExceededError"}
# NCCL reports a lost peer in these words, in an InternalError: the texts of ncclRemoteError and ncclSystemError in NCCL
# 2.32.3. If it reports nothing, the supervisors end the trainers.
NCCL_LOST_PEER = re.compile("remote process exited or there was a network error|unhandled system error")
# The first line of an error only says that a graph failed. The cause is further down, in one of these forms.
CAUSE = re.compile(r"aborted by: (?P<aborted>.+)|(?P<nccl>NCCL: .+)")
PORT_TAKEN = "Could not start gRPC server"

# Workers send each other heartbeats by the wall clock: if the time-out were the default 10 s, every trainer would end
# when the clock is set forward. The supervisors detect a lost worker instead, by the monotonic clock.
HEARTBEAT_TIMEOUT_MS = 365 * 86_400_000  # a year

# Group and instance of this job's own collectives. The strategy numbers its own from 1.
COLLECTIVE_KEY = 1 << 20


class OnFirstUse(MetaPathFinder, Loader):
    """Finds and loads modules that run when a name in them is first used.

    A public module of TensorFlow only imports other modules. What tf.compat, tf.lite and tf.nn import is a third of
    TensorFlow's import, and a run of the default model uses none of it. importlib.util.LazyLoader is not enough:
    inspect, which TensorFlow uses when it saves a model, asks each module for its file, and so would run all of them.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's specification; None if the next finder is to find it."""
        spec = PathFinder.find_spec(fullname, path, target) if ON_FIRST_USE.match(fullname) else None
        if spec:
            spec.loader_state, spec.loader = spec.loader, self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Give the module the functions that Python calls for a name that is not there, and for all names."""
        loader: Loader = cast("ModuleSpec", module.__spec__).loader_state
        lock, ran = threading.RLock(), False

        def run() -> None:
            nonlocal ran
            with lock:
                if ran:
                    return
                ran = True  # already now: while it runs, the module may ask for its own names
                try:
                    loader.exec_module(module)
                except BaseException:
                    ran = False
                    raise

        def find(name: str) -> Any:
            run()
            if name in vars(module):
                return vars(module)[name]
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        def names() -> list[str]:
            run()
            return list(vars(module))

        vars(module).update(__getattr__=find, __dir__=names)


@contextmanager
def light_import() -> Iterator[None]:
    """Make the first import of TensorFlow, within this block, faster.

    TensorFlow's public modules run on first use. Keras is hidden, because TensorFlow works without Keras; a model that
    needs Keras can import it after the block.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    sys.meta_path.insert(0, OnFirstUse())  # it stays, for the modules within those modules
    modules: dict[str, Any] = sys.modules
    # Python raises ImportError for None. TensorFlow uses requests only to ask Google's machines about themselves.
    hidden = {"keras": None, "requests": ModuleType("requests")}
    hidden = {name: module for name, module in hidden.items() if name not in modules}
    modules.update(hidden)
    gc.disable()  # an import leaves little garbage: looking for it took a sixth of the time
    try:
        yield
    finally:
        gc.freeze()  # no later collection looks at these objects
        gc.enable()
        for name in hidden:
            del modules[name]
    complete()


def complete() -> None:
    """Set what TensorFlow would have set if its import had been the usual one."""
    import tensorflow as tf  # noqa: PLC0415 - see the module
    from tensorflow.python.tools import module_util  # noqa: PLC0415

    # TensorFlow has a public module tf.lite and a package tensorflow.lite. When the package is first imported, Python
    # sets tf.lite to the package. So import it now, and set tf.lite to the public module again.
    public = tf.lite
    import_module("tensorflow.lite")
    tf.lite = public
    # For `from tensorflow.keras import layers`. TensorFlow did not find this folder because Keras was hidden.
    keras = module_util.get_parent_dir_for_name("keras._tf_keras.keras")
    tf.__path__ = [path for path in (*tf.__path__, keras) if path]


def run_public_modules(*names: str) -> None:
    """Run these public modules of TensorFlow now, so that no child of this process has to run them.

    Args:
        names: names below tf, such as "config.threading".
    """
    for name in names:  # asking for a name that is not there runs a module
        getattr(import_module(f"tensorflow._api.v2.{name}"), "any name that is not there", None)


def limit_wait_for_peers(workers: int, timeout_s: int) -> None:
    """Set how long MultiWorkerMirroredStrategy waits for its peers; TensorFlow's own limit is an hour.

    The other settings are those that the strategy would choose, except for the heartbeats.
    """
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2  # noqa: PLC0415 - see the module
    from tensorflow.python.eager import context  # noqa: PLC0415

    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=timeout_s * 1000,
        heartbeat_timeout_in_ms=HEARTBEAT_TIMEOUT_MS,
        coordinated_jobs=[coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=workers)],
    )


def shared_tensor(array: NDArray[Any]) -> tf.Tensor:
    """A tensor in the host's memory that has the array's elements without a copy, so that processes can share them.

    TensorFlow ends the process if it shares an array whose address is not a multiple of TENSOR_ALIGNMENT. Such an
    array, or one that is read-only or not contiguous, is copied instead, which for a moment needs twice its memory.

    Args:
        array: not changed afterwards.
    """
    import tensorflow as tf  # noqa: PLC0415 - see the module

    from job.dataset.rows import TENSOR_ALIGNMENT  # noqa: PLC0415 - with NumPy

    if array.ctypes.data % TENSOR_ALIGNMENT or not (array.flags.c_contiguous and array.flags.writeable):
        with tf.device("CPU:0"):
            return tf.constant(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def event_messages() -> tuple[Any, Any]:
    """TensorBoard's Event and Summary. tf.compat.v1 has them too, but light_import() avoids running it."""
    from tensorflow.core.framework.summary_pb2 import Summary  # noqa: PLC0415 - see the module
    from tensorflow.core.util.event_pb2 import Event  # noqa: PLC0415

    return Event, Summary


def send(vector: tf.Tensor, group: int, instance: int) -> tf.Tensor:
    """Send a vector to another worker, which receives it; call both within strategy.run.

    A broadcast within a group of two is the only way from one worker to another that TensorFlow has.

    Args:
        vector: of any shape.
        group: a number that only these two workers use.
        instance: a number that only this message uses, among those between the two in one function.

    Returns:
        The vector, once the other worker has it. TensorFlow removes the operation if nothing depends on this.
    """
    from tensorflow.python.ops import gen_collective_ops  # noqa: PLC0415 - see the module

    return gen_collective_ops.collective_bcast_send_v2(input=vector, **_pair(group, instance))


def receive(shape: tf.TensorShape, dtype: tf.DType, group: int, instance: int) -> tf.Tensor:
    """The vector of this shape that another worker sends with the same numbers."""
    from tensorflow.python.ops import gen_collective_ops  # noqa: PLC0415 - see the module

    return gen_collective_ops.collective_bcast_recv_v2(shape=shape, T=dtype, **_pair(group, instance))


def _pair(group: int, instance: int) -> dict[str, int]:
    return {"group_size": 2, "group_key": COLLECTIVE_KEY + group, "instance_key": COLLECTIVE_KEY + instance}


def is_lost_peer(error: Exception) -> bool:
    """Whether TensorFlow raised the error because a peer has left or does not answer."""
    known = type(error).__name__ in LOST_PEER_ERRORS or NCCL_LOST_PEER.search(str(error))
    return is_tensorflows(error) and bool(known)


def cause_of(error: Exception) -> str | None:
    """The cause that the text of a collective's error contains, None if it contains none."""
    match = CAUSE.search(str(error))
    return match and (match["aborted"] or match["nccl"])
