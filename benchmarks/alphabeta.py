"""The time of a step on N workers as a function of latency and bandwidth: fitted to measurements, and extrapolated.

This is the usual model of message passing: a message of n bytes takes alpha + n * beta. Recursive doubling, by which
job/training/collectives.py sums short vectors, is log2 N messages, one after the other (Thakur, Rabenseifner and Gropp
2005, "Optimization of Collective Communication Operations in MPICH", section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.training.collectives import doubling_messages

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Sample:
    """The time of a step, measured on a network with a one-way delay in seconds and a rate in bytes a second."""

    workers: int
    delay_s: float
    bytes_per_s: float
    step_s: float


@dataclass(frozen=True)
class Fit:
    """The parts of a step for one number of workers.

    own_s is its time on a network without delay, including the effect of shared cores. trips is the number of one-way
    delays, and sent_bytes the number of bytes, that a step waits for in sequence.
    """

    workers: int
    own_s: float
    trips: float
    sent_bytes: float


def fit(samples: Sequence[Sample]) -> Fit:
    """The least-squares fit of own_s + trips * delay_s + sent_bytes / bytes_per_s to samples of one number of workers.

    Residuals are relative to the measured times; otherwise the slowest network would dominate.
    """
    rows = np.array([[1.0, one.delay_s, 1 / one.bytes_per_s] for one in samples])
    seconds = np.array([one.step_s for one in samples])
    own_s, trips, sent_bytes = np.linalg.lstsq(rows / seconds[:, None], np.ones(len(samples)), rcond=None)[0]
    return Fit(samples[0].workers, float(own_s), float(trips), float(sent_bytes))


@dataclass(frozen=True)
class Costs:
    """The parts of a step, in seconds.

    compute_s is one worker's computation, hop_s the software's time for a message, trips the number of one-way delays
    of a message, vector_bytes the size of a worker's vector, and sum_s the time to add one vector.
    """

    compute_s: float
    hop_s: float
    trips: float
    vector_bytes: float
    sum_s: float


def doubling_s(costs: Costs, workers: int, delay_s: float, bytes_per_s: float) -> float:
    """Seconds to sum the workers' vectors by recursive doubling."""
    message_s = costs.hop_s + costs.trips * delay_s + costs.vector_bytes / bytes_per_s
    return doubling_messages(workers) * (message_s + costs.sum_s)
