"""What an error of TensorFlow's means for the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tensorflow as tf

from job import telemetry
from job.errors import Exit
from job.supervisor.child import failure_of

if TYPE_CHECKING:
    from collections.abc import Iterator

REMOTE = "NCCL: remote process exited or there was a network error. Set NCCL_DEBUG=WARN for detail."
SYSTEM = "NCCL: unhandled system error. Set NCCL_DEBUG=WARN for detail."
CUDA = "NCCL: unhandled cuda error. Set NCCL_DEBUG=WARN for detail."


def raised(error: Exception) -> Exception:
    """The error as it comes out of this project's code."""

    def lines() -> Iterator[str]:
        yield ""
        raise error

    with pytest.raises(type(error)) as caught:
        list(telemetry.read_records(lines()))
    return caught.value


@pytest.mark.parametrize("message", [REMOTE, SYSTEM])
def test_a_peer_that_nccl_lost(message: str) -> None:
    """On GPUs the others learn of a lost worker by NCCL, and gather again: it is no bug."""
    found = failure_of(raised(tf.errors.InternalError(None, None, message)), 2)
    assert (found.code, found.reason, found.message) == (
        Exit.TRY_AGAIN,
        "peer-lost",
        f"a peer was lost: InternalError: {message}",
    )


@pytest.mark.parametrize(("message", "workers"), [(CUDA, 2), (REMOTE, 1)])
def test_what_is_wrong_with_this_worker_is_a_bug(message: str, workers: int) -> None:
    """Another error of NCCL's, or a worker that has no peer, is no lost peer."""
    assert failure_of(raised(tf.errors.InternalError(None, None, message)), workers).code == Exit.BUG


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("unable to allocate 3 GiB"), "MemoryError: unable to allocate 3 GiB"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM on GPU:0"), "ResourceExhaustedError: OOM on GPU:0"),
    ],
)
def test_memory_that_is_refused(error: Exception, words: str) -> None:
    """NumPy's or a GPU's: as out of memory as a worker that the kernel kills, and no bug."""
    found = failure_of(raised(error), 2)
    assert (found.code, found.reason, str(found)) == (
        Exit.OUT_OF_MEMORY,
        "out-of-memory",
        f"memory ran out: {words}; give it more memory, or a smaller --batch-size",
    )
