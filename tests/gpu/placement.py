"""Where the operators of a step run, and what a step copies: `python -m tests.gpu.placement DEVICE` checks it.

It needs a process of its own, in which nothing has used a device yet. DEVICE is GPU:0, or CPU:1, a second device on the
same CPUs in the place of a GPU: as with a GPU, tensors are copied to it, and TensorFlow creates int32 numbers on CPU:0.
Only with a GPU does the profiler record the copies.
"""

from __future__ import annotations

import re
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from job import model
from job.training import input as inputs
from job.training import step, strategy
from job.training.packing import Packing
from job.training.step import BlockInput, BlockState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from job.training.step import RunSteps

STEPS, BATCH = 50, 20
PACKING = Packing.of(model.init(0))
SIZE = 7850
# TensorFlow makes these parts of a loop on each device on which the loop's body has an operator.
LOOP = {"Enter", "Merge", "Switch", "NextIteration"}
# The largest copies between host and GPU in a call: a loop's counter or condition, or a number for other workers.
NUMBERS_BYTES = 8
HOST_COPIES = {"MemcpyH2D", "MemcpyD2H"}


def main(device: str) -> None:
    """Check everything on a device."""
    if device == "CPU:1":
        cpus = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        tf.config.experimental.enable_op_determinism()
    else:
        strategy.configure("gpu", 1)
    check_rows_stay_on_the_cpu(device)
    on_cpu = train(step.on_device(functions(device)["alone"], "CPU:0"), block_on_the_cpu(), "CPU:0")
    for name, run_steps in functions(device).items():
        vector = check_steps(name, step.on_device(run_steps, device), device)
        np.testing.assert_allclose(vector, on_cpu.vector, atol=1e-6, err_msg=name)


def functions(device: str) -> dict[str, RunSteps]:
    """The functions that train, by name. A strategy for one device takes the place of that for several workers."""
    replica, alone = tf.distribute.OneDeviceStrategy(device), tf.distribute.get_strategy()

    def same(value: Any) -> Any:
        return value

    return {
        "alone": step.local_sgd(alone, PACKING, 1, same, same),
        "alone without XLA": step.local_sgd(alone, PACKING, 1, same, same, jit_compile=False),
        "synchronous": step.synchronous(replica, PACKING, 1, same),
        "synchronous without XLA": step.synchronous(replica, PACKING, 1, same, jit_compile=False),
    }


def block_on_the_cpu() -> BlockInput:
    """A block as the input pipeline gives it."""
    random = np.random.default_rng(3)
    with tf.device("CPU:0"):
        images = tf.constant(random.integers(0, 256, (STEPS, BATCH, 28, 28), np.uint8))
        labels = tf.constant(random.integers(0, 10, (STEPS, BATCH)), tf.int32)
        weights = tf.ones([STEPS, BATCH])
    # With a rate above 0.02, training on these images diverges, and each step multiplies the earlier rounding errors.
    sizes, rates = np.full(STEPS, BATCH, np.float32), np.full(STEPS, 0.01, np.float32)
    return BlockInput(images, labels, weights, sizes, rates, np.int32(STEPS))


def train(run_steps: RunSteps, block: BlockInput, device: str, done: int = STEPS) -> BlockState:
    """The state after the first call of a block that has made this many steps."""
    with tf.device(device):
        state = BlockState(tf.zeros([SIZE]))
    while state.done < done:
        state = run_steps(state, block, False)
    return state


def check_rows_stay_on_the_cpu(device: str) -> None:
    """A dataset's rows are not copied to the device, even if it is the one that TensorFlow prefers."""
    for array in (np.zeros((40, 28, 28), np.uint8), np.arange(40, dtype=np.int32)):
        with tf.device(device):
            read: Any = inputs._from_memory(array)
        [tensor] = read.args
        assert (tensor.dtype, tensor.device[-5:]) == (array.dtype, "CPU:0")


def check_steps(name: str, run_steps: RunSteps, device: str) -> tf.Tensor:
    """All operators of a step run on the device, and nothing is copied from or to it. Gives the parameters."""
    block = step.place(block_on_the_cpu(), device)
    for tensor in (block.images, block.labels, block.weights, block.batch_sizes, block.rates):
        assert tensor.device.endswith(device), (name, tensor.device)
    assert block.labels.dtype == tf.int64, "a GPU's int32 tensors may be in the host's memory"
    with loops() as devices:
        state = train(run_steps, block, device, done=1)
    # If XLA compiles the steps of a single worker, their loop is within one operator.
    assert devices == (set() if name == "alone" else {device}), (name, devices)
    assert state.vector.device.endswith(device), (name, state.vector.device)
    with copied_bytes() as found:
        while state.done < STEPS:
            state = run_steps(state, block, False)
        vector = state.vector.numpy()  # the only large copy, which also shows that the profiler records copies
    large = [size for size in found if size > NUMBERS_BYTES]
    assert large == ([vector.nbytes] if device.startswith("GPU") else []), (name, found)
    sys.stdout.write(f"{name}: {len(found) - len(large)} small copies in {STEPS - 1} steps\n")
    return vector


@contextmanager
def loops() -> Iterator[set[str]]:
    """Yields a set, which gets the devices that have a part of a loop in the graphs that the `with` block traces."""
    devices: set[str] = set()
    context.enable_graph_collection()
    try:
        yield devices
        graphs = context.export_run_metadata().partition_graphs
    finally:
        context.disable_graph_collection()
    devices.update(node.device[-5:] for graph in graphs for node in graph.node if node.op in LOOP)


@contextmanager
def copied_bytes() -> Iterator[list[int]]:
    """Fills the list with the sizes of the copies between host and GPU that the block of code makes."""
    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            yield sizes
        finally:
            tf.profiler.experimental.stop()
        profiles = list(Path(folder).glob("**/*.xplane.pb"))
        assert profiles, "the profiler wrote nothing"
        for profile in profiles:
            sizes += copies(xplane_pb2.XSpace.FromString(profile.read_bytes()))


def copies(space: Any) -> Iterator[int]:
    """The sizes, in bytes, of the copies between host and GPU in a profile, an XSpace."""
    for plane in space.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        names = {number: metadata.name for number, metadata in plane.stat_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            if plane.event_metadata[event.metadata_id].name not in HOST_COPIES:
                continue
            details = {names[stat.metadata_id]: stat.str_value or names.get(stat.ref_value, "") for stat in event.stats}
            size = re.search(r"\bsize:(\d+)", details.get("memcpy_details", ""))
            assert size, details
            yield int(size[1])


if __name__ == "__main__":
    main(sys.argv[1])
