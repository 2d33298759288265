"""This process among the workers that train together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import tensorflow as tf

    from job.cluster import Cluster
    from job.supervisor.task import Teller


@dataclass(frozen=True)
class Worker:
    """This process among those that train together.

    strategy joins them, one replica on each. tell sends the fields of a progress record. told_to_stop says whether this
    worker was asked to leave. began is the process's start, in seconds of time.perf_counter().
    """

    cluster: Cluster
    strategy: tf.distribute.Strategy
    tell: Teller
    told_to_stop: Callable[[], bool]
    began: float
