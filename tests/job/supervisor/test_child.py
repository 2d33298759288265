"""Tests of which exit code and sentence an exception gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tensorflow as tf

from job import telemetry
from job.errors import Exit
from job.supervisor.child import failure_of
from job.training import internals

if TYPE_CHECKING:
    from collections.abc import Iterator

# TensorFlow puts "NCCL: " before and its own advice after the texts of NCCL 2.32.3, which its library contains.
REMOTE = "NCCL: remote process exited or there was a network error. Set NCCL_DEBUG=WARN for detail."
SYSTEM = "NCCL: unhandled system error (run with NCCL_DEBUG=INFO for details). Set NCCL_DEBUG=WARN for detail."
CUDA = "NCCL: unhandled cuda error (run with NCCL_DEBUG=INFO for details). Set NCCL_DEBUG=WARN for detail."


def raised(error: Exception) -> Exception:
    """The error with a traceback through this project's code."""

    def lines() -> Iterator[str]:
        yield ""
        raise error

    with pytest.raises(type(error)) as caught:
        list(telemetry.read_records(lines()))
    return caught.value


def test_a_bug_is_where_a_name_of_tensorflow_is_used() -> None:
    """It is not in internals, which looks up the name."""

    def lines() -> Iterator[str]:
        yield ""
        internals.run_public_modules("no_such_module")

    with pytest.raises(ModuleNotFoundError) as caught:
        list(telemetry.read_records(lines()))
    failure = failure_of(caught.value, 1)
    assert failure.code == Exit.BUG
    assert failure.message.startswith(f"ModuleNotFoundError at {telemetry.__file__}:")


@pytest.mark.parametrize("message", [REMOTE, SYSTEM])
def test_a_peer_lost_by_nccl_is_no_bug(message: str) -> None:
    """On GPUs NCCL reports a lost worker; the others try again."""
    failure = failure_of(raised(tf.errors.InternalError(None, None, message)), 2)
    assert (failure.code, failure.reason, failure.message) == (
        Exit.TRY_AGAIN,
        "peer-lost",
        f"a peer was lost: InternalError: {message}",
    )


@pytest.mark.parametrize(("message", "workers"), [(CUDA, 2), (REMOTE, 1)])
def test_an_error_of_this_worker_is_a_bug(message: str, workers: int) -> None:
    """Another error of NCCL, or NCCL's report of a lost peer in a run of one worker."""
    assert failure_of(raised(tf.errors.InternalError(None, None, message)), workers).code == Exit.BUG


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("unable to allocate 3 GiB"), "MemoryError: unable to allocate 3 GiB"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM on GPU:0"), "ResourceExhaustedError: OOM on GPU:0"),
    ],
)
def test_an_allocation_that_fails_is_out_of_memory(error: Exception, words: str) -> None:
    """NumPy's or the GPU's allocation, with the exit code of a worker that the kernel kills."""
    failure = failure_of(raised(error), 2)
    assert (failure.code, failure.reason, str(failure)) == (
        Exit.OUT_OF_MEMORY,
        "out-of-memory",
        f"memory ran out: {words}; give it more memory; or use a smaller --batch-size, and another --name",
    )
