"""Metrics as Prometheus reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def text(
    labels: Mapping[str, str], phase: str, gauges: Mapping[str, tuple[str, float]], restarts: Mapping[str, int]
) -> bytes:
    """What /metrics answers.

    Args:
        labels: of every metric.
        phase: the worker's; empty where it is not known yet.
        gauges: by the name behind `mnist_job_`, the help and the value of each.
        restarts: how often the trainer was started again, by cause.
    """
    registry = CollectorRegistry()
    registry.register(_Collected(labels, phase, gauges, restarts))
    return generate_latest(registry)


class _Collected:
    def __init__(
        self,
        labels: Mapping[str, str],
        phase: str,
        gauges: Mapping[str, tuple[str, float]],
        restarts: Mapping[str, int],
    ) -> None:
        self._shown = labels, phase, gauges, restarts

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        return _families(*self._shown)


def _families(
    labels: Mapping[str, str], phase: str, gauges: Mapping[str, tuple[str, float]], restarts: Mapping[str, int]
) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    if phase:
        yield _gauge("phase", "1 for the phase that the worker is in.", 1, {**labels, "phase": phase})
    for name, (help_, value) in gauges.items():
        yield _gauge(name, help_, value, labels)
    if restarts:
        described = "Restarts of the trainer in place, by cause."
        counter = CounterMetricFamily("mnist_job_restarts", described, labels=[*labels, "cause"])
        for cause, count in restarts.items():
            counter.add_metric([*labels.values(), cause], count)
        yield counter


def _gauge(name: str, help_: str, value: float, labels: Mapping[str, str]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"mnist_job_{name}", help_, labels=list(labels))
    gauge.add_metric(list(labels.values()), value)
    return gauge
