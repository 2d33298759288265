"""What /metrics shows of a worker."""

from __future__ import annotations

import shutil
import subprocess
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from job.supervisor.metrics import Metrics
from job.telemetry import Record

Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(metrics: Metrics) -> Samples:
    """The value of each metric, by its name without `mnist_job_` and its labels' values other than run and rank."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("run"), labels.pop("rank")) == ("r", "1")
            found[sample.name.removeprefix("mnist_job_"), tuple(labels.values())] = sample.value
    return found


def record(phase: str = "training", **values: float) -> Record:
    """A record of worker 1."""
    return Record(time=1.0, run="r", rank=1, phase=phase, **values)  # type: ignore[arg-type]


def everything() -> Metrics:
    """Metrics whose values are all known."""
    metrics = Metrics("r", 1, 4, clock=lambda: 0.0)
    metrics.update(record(step=3, steps=10, loss=0.5, accuracy=0.75, examples_per_s=2e5, joined=4, checkpoint=2))
    metrics.count_restart("killed")
    return metrics


def test_an_unknown_value_is_absent() -> None:
    """At first only the number of workers and the age of the last step are shown, then also what a record says."""
    metrics = Metrics("r", 1, 4, clock=lambda: 0.0)
    spent: Samples = {("spent_seconds_total", ("importing",)): 0, ("core_seconds_total", ()): 0}
    first: Samples = {("workers", ()): 4, ("step_age_seconds", ()): 0, **spent}
    assert samples(metrics) == first
    metrics.update(record("waiting", joined=0))
    waiting: Samples = {
        ("phase", ("waiting",)): 1,
        ("workers_joined", ()): 0,
        ("spent_seconds_total", ("gathering",)): 0,
    }
    assert samples(metrics) == first | waiting


def test_every_metric() -> None:
    """If everything is known."""
    assert samples(everything()) == {
        ("phase", ("training",)): 1,
        ("step", ()): 3,
        ("steps", ()): 10,
        ("loss", ()): 0.5,
        ("accuracy", ()): 0.75,
        ("examples_per_second", ()): 2e5,
        ("workers", ()): 4,
        ("workers_joined", ()): 4,
        ("step_age_seconds", ()): 0,
        ("checkpoint_age_seconds", ()): 0,
        ("restarts_total", ("killed",)): 1,
        ("spent_seconds_total", ("importing",)): 0,
        ("spent_seconds_total", ("training",)): 0,
        ("core_seconds_total", ()): 0,
    }


def test_where_the_time_went() -> None:
    """The counters add up to the worker's age, and to its core-seconds."""
    now = 0.0
    metrics = Metrics("r", 1, 4, clock=lambda: now, cores=2)
    for now, phase, step in ((3.0, "waiting", None), (4.0, "training", 1), (9.0, "restarting", None)):  # noqa: B007
        metrics.update(record(phase, step=step))  # type: ignore[arg-type]
    now = 10.0
    assert {key[1]: value for key, value in samples(metrics).items() if key[0] == "spent_seconds_total"} == {
        ("importing",): 3,
        ("gathering",): 1,
        ("training",): 5,
        ("recovering",): 1,
    }
    assert samples(metrics)["core_seconds_total", ()] == 20


def test_a_value_stays_until_there_is_another() -> None:
    """A record without it changes nothing. Of the phases only the present one is shown."""
    metrics = everything()
    before = samples(metrics)
    metrics.update(record("evaluating", step=4))
    del before["phase", ("training",)]
    evaluating: Samples = {("phase", ("evaluating",)): 1, ("spent_seconds_total", ("evaluating",)): 0}
    assert samples(metrics) == before | {("step", ()): 4, **evaluating}


def test_the_age_of_a_checkpoint() -> None:
    """It grows until a record has another checkpoint."""
    now = 100.0
    metrics = Metrics("r", 1, 4, clock=lambda: now)
    ages = []
    for now, step in ((110.0, 0), (115.0, 0), (121.0, 20), (130.0, 20)):
        metrics.update(record(checkpoint=step))
        metrics.update(record(step=step))
        now += 1  # noqa: PLW2901
        ages.append(samples(metrics)["checkpoint_age_seconds", ()])
    assert ages == [1, 6, 1, 10]


def test_the_age_of_a_step() -> None:
    """It grows from the start, and again from a step beyond all earlier ones; a repeated step does not count."""
    now = 100.0
    metrics = Metrics("r", 1, 4, clock=lambda: now)
    ages = []
    for now, step in ((110.0, None), (120.0, 4), (130.0, 4), (140.0, 2), (150.0, 5)):
        metrics.update(Record(time=1.0, run="r", rank=1, phase="training", step=step))
        now += 1  # noqa: PLW2901
        ages.append(samples(metrics)["step_age_seconds", ()])
    assert ages == [11, 1, 11, 21, 1]


def test_restarts_are_counted_by_cause() -> None:
    """Whatever characters a cause has."""
    metrics = Metrics("r", 1, 4)
    for cause in ("killed", 'a "b"\\\n', "killed"):
        metrics.count_restart(cause)
    counts = {key: value for key, value in samples(metrics).items() if key[0] == "restarts_total"}
    assert counts == {("restarts_total", ("killed",)): 2, ("restarts_total", ('a "b"\\\n',)): 1}


def test_a_loss_that_is_not_finite_is_samples() -> None:
    """The way Prometheus writes it."""
    metrics = Metrics("r", 1, 4)
    metrics.update(record(loss=float("nan")))
    assert b'mnist_job_loss{rank="1",run="r"} NaN\n' in metrics.text()


def test_a_scrape_is_consistent_while_records_come() -> None:
    """Every scrape has exactly one phase."""
    metrics = everything()
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for phase in ("training", "evaluating"):
                metrics.update(record(phase))
                metrics.count_restart(phase)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        phases = [[name for name, _ in samples(metrics)].count("phase") for _ in range(50)]
    finally:
        stop.set()
        thread.join()
    assert phases == [1] * 50


def test_the_names_follow_the_conventions() -> None:
    """Prometheus' own checker reports nothing."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed")
    done = subprocess.run(["promtool", "check", "metrics"], input=everything().text(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
