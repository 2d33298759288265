"""One worker's process: who it is, and how it reaches its peers and its supervisor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import tensorflow as tf

    from job.cluster import Cluster
    from job.telemetry import Reporter


@dataclass(frozen=True)
class Worker:
    """This process among the workers that train together.

    Attributes:
        cluster: this worker's rank and the addresses of all workers.
        strategy: connects the workers, one replica each.
        report: sends a progress record.
        stop_requested: returns whether this worker was asked to stop.
        threads: CPU threads that share one matrix product.
        started: when the process started, in seconds of time.perf_counter().
    """

    cluster: Cluster
    strategy: tf.distribute.Strategy
    report: Reporter
    stop_requested: Callable[[], bool]
    threads: int
    started: float
