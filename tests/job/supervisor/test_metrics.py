"""What /metrics shows of a worker."""

from __future__ import annotations

import shutil
import subprocess
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from job.supervisor.metrics import Gauges
from job.telemetry import Record

Shown = dict[tuple[str, tuple[str, ...]], float]


def shown(gauges: Gauges) -> Shown:
    """The value of each metric, by its name without `mnist_job_` and its labels' values other than run and rank."""
    found = {}
    for family in text_string_to_metric_families(gauges.text().decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("run"), labels.pop("rank")) == ("r", "1")
            found[sample.name.removeprefix("mnist_job_"), tuple(labels.values())] = sample.value
    return found


def record(phase: str = "training", **values: float) -> Record:
    """A record of worker 1."""
    return Record(time=1.0, run="r", rank=1, phase=phase, **values)  # type: ignore[arg-type]


def everything() -> Gauges:
    """Metrics of which every one is known."""
    gauges = Gauges("r", 1, 4, clock=lambda: 0.0)
    gauges.show(record(step=3, steps=10, loss=0.5, accuracy=0.75, examples_per_s=2e5, joined=4, checkpoint=2))
    gauges.restarted("killed")
    return gauges


def test_what_is_not_known_is_absent() -> None:
    """At first there are only the number of workers and no step, and with a first record what it says."""
    gauges = Gauges("r", 1, 4, clock=lambda: 0.0)
    first = {("workers", ()): 4, ("step_age_seconds", ()): 0}
    assert shown(gauges) == first
    gauges.show(record("waiting", joined=0))
    assert shown(gauges) == first | {("phase", ("waiting",)): 1, ("workers_joined", ()): 0}


def test_every_metric() -> None:
    """One for each thing known."""
    assert shown(everything()) == {
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
    }


def test_a_value_stays_until_there_is_another() -> None:
    """A record that does not say it changes nothing; of the phases only the present one is shown."""
    gauges = everything()
    before = shown(gauges)
    gauges.show(record("evaluating", step=4))
    del before["phase", ("training",)]
    assert shown(gauges) == before | {("phase", ("evaluating",)): 1, ("step", ()): 4}


def test_the_age_of_a_checkpoint() -> None:
    """It is counted at each look, and from zero when the step is another one."""
    now = 100.0
    gauges = Gauges("r", 1, 4, clock=lambda: now)
    ages = []
    for now, step in ((110.0, 0), (115.0, 0), (121.0, 20), (130.0, 20)):
        gauges.show(record(checkpoint=step))
        gauges.show(record(step=step))
        now += 1  # noqa: PLW2901
        ages.append(shown(gauges)["checkpoint_age_seconds", ()])
    assert ages == [1, 6, 1, 10]


def test_the_age_of_a_step() -> None:
    """It is counted from the worker's start, and from zero at a step beyond all before; one made again is no news."""
    now = 100.0
    gauges = Gauges("r", 1, 4, clock=lambda: now)
    ages = []
    for now, step in ((110.0, None), (120.0, 4), (130.0, 4), (140.0, 2), (150.0, 5)):
        gauges.show(Record(time=1.0, run="r", rank=1, phase="training", step=step))
        now += 1  # noqa: PLW2901
        ages.append(shown(gauges)["step_age_seconds", ()])
    assert ages == [11, 1, 11, 21, 1]


def test_restarts_are_counted_by_cause() -> None:
    """Each cause, whatever characters it has, has a count of its own."""
    gauges = Gauges("r", 1, 4)
    for cause in ("killed", 'a "b"\\\n', "killed"):
        gauges.restarted(cause)
    counts = {key: value for key, value in shown(gauges).items() if key[0] == "restarts_total"}
    assert counts == {("restarts_total", ("killed",)): 2, ("restarts_total", ('a "b"\\\n',)): 1}


def test_a_loss_that_is_not_finite_is_shown() -> None:
    """As Prometheus writes it."""
    gauges = Gauges("r", 1, 4)
    gauges.show(record(loss=float("nan")))
    assert b'mnist_job_loss{rank="1",run="r"} NaN\n' in gauges.text()


def test_a_look_is_whole_while_records_come() -> None:
    """There is one phase in every scrape, in whatever thread it happens."""
    gauges = everything()
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for phase in ("training", "evaluating"):
                gauges.show(record(phase))
                gauges.restarted(phase)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        phases = [[name for name, _ in shown(gauges)].count("phase") for _ in range(50)]
    finally:
        stop.set()
        thread.join()
    assert phases == [1] * 50


def test_the_names_follow_the_conventions() -> None:
    """Prometheus' own checker finds nothing to say."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed")
    done = subprocess.run(["promtool", "check", "metrics"], input=everything().text(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
