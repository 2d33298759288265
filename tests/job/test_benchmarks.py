"""Tests of how the benchmarks judge and model their measurements, and of what is left of one that is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from benchmarks.alphabeta import Costs, Sample, doubling_s, fit
from benchmarks.bars import Bar, Comparison, compare
from benchmarks.cases import RUN, Case
from benchmarks.figures import Figure
from benchmarks.measure import FailedError, job_result
from benchmarks.recovery import cpu_s
from benchmarks.rivals.common import Result
from benchmarks.start import BEFORE, MEMORY, NOW, STEP, figures_of
from tests.job import processes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def results(*microseconds: float) -> list[Result]:
    """The results of a program, one for each round."""
    return [Result(us, 1e8 / us, 0.92, 100.0, us / 10) for us in microseconds]


def test_bars_are_judged_by_medians_and_the_best_rival() -> None:
    """The median over the rounds counts, at the better number of threads; a program that did not run is not judged."""
    samples = {
        Case("job", (), 1): results(50, 40, 60),
        Case("job", (), 2): results(70, 70, 70),
        Case("slow", (), 1): results(200, 900, 100),
        Case("fast", (), 1): results(120, 90, 150),
        Case("fast", (), 2): results(100, 100, 400),
    }
    bars = [
        Bar("over both", "job", ("slow", "fast"), 2),
        Bar("over slow", "job", ("slow",), 4.5),
        Bar("floor", "job", ("fast",), 0.5, at_most=True),
        Bar("whole", "job", ("fast",), 3, field="whole_s"),
        Bar("absent", "job", ("torch",), 1.3),
    ]
    comparisons = compare(samples, bars)
    assert comparisons == [
        Comparison(bars[0], 50, 100, "fast"),
        Comparison(bars[1], 50, 200, "slow"),
        Comparison(bars[2], 50, 100, "fast"),
        Comparison(bars[3], 5, 10, "fast"),
        Comparison(bars[4], 50, None, "torch"),
    ]
    assert [(each.ratio, each.met) for each in comparisons] == [
        (2, True),
        (4, False),
        (0.5, True),
        (2, False),
        (None, None),
    ]


def test_the_job_is_measured_by_its_report(tmp_path: Path) -> None:
    """The figures come from report.json, the time of the whole command from the caller; no report is a failure."""
    with pytest.raises(FailedError, match=r"it left no .*report\.json"):
        job_result(tmp_path, 3.0)
    folder = tmp_path / "models" / RUN
    folder.mkdir(parents=True)
    timing = {"us_per_step": 50.0, "examples_per_s": 2e6, "peak_rss_mb": 800.0, "startup_s": 3.0}
    (folder / "report.json").write_text(json.dumps({"timing": timing, "test": {"accuracy": 0.92}}))
    assert job_result(tmp_path, 4.5) == Result(50.0, 2e6, 0.92, 800.0, 4.5)


def test_figures_are_judged_by_their_bars() -> None:
    """A bar is an upper bound on the median, or on the maximum, or a lower bound; without a bar, nothing is judged."""
    figures = [
        Figure("median", "s", [1.0, 2.0, 9.0], 2.0),
        Figure("worst", "s", [1.0, 2.0, 9.0], 2.0, worst=True),
        Figure("at least", "%", [96.0], 97.0, at_least=True),
        Figure("at least", "%", [97.0], 97.0, at_least=True),
        Figure("no bar", "s", [1.0]),
    ]
    assert [each.met for each in figures] == [True, False, False, True, None]


def test_starts_are_compared_with_the_code_before_round_by_round() -> None:
    """Each figure has its values, those of the code before, and the ratios of the two in the same round."""
    now = [{(STEP, 2): 2.0, (MEMORY, 1): 550.0}, {(STEP, 2): 3.0, (MEMORY, 1): 660.0}]
    before = [{(STEP, 2): 4.0, (MEMORY, 1): 500.0}, {(STEP, 2): 4.0, (MEMORY, 1): 500.0}]
    first = Figure("2 workers, first step", "s", [2.0, 3.0], 3.5)
    memory = Figure("1 worker, memory", "MB", [550.0, 660.0])
    assert list(figures_of({NOW: now})) == [first, memory]
    assert list(figures_of({NOW: now, BEFORE: before})) == [
        first,
        Figure("2 workers, first step, before", "s", [4.0, 4.0]),
        Figure("2 workers, first step, ratio", "", [0.5, 0.75]),
        memory,
        Figure("1 worker, memory, before", "MB", [500.0, 500.0]),
        Figure("1 worker, memory, ratio", "", [1.1, 1.32], 1.1),
    ]


def test_fit_separates_the_network_from_the_workers() -> None:
    """Steps on networks of known delay and bandwidth show how many delays and bytes a step waits for."""
    networks = ((0.0, 1e12), (0.001, 1e12), (0.003, 1e12), (0.0, 1e7))
    samples = [Sample(8, delay_s, rate, 0.004 + 14 * delay_s + 220_000 / rate) for delay_s, rate in networks]
    fitted = fit(samples)
    assert fitted.workers == 8
    assert [fitted.own_s, fitted.trips, fitted.sent_bytes] == pytest.approx([0.004, 14, 220_000], rel=1e-3)


def test_cost_of_a_sum_by_number_of_workers() -> None:
    """Doubling takes log2 N messages of whole vectors, and two more if N is no power of two; one worker takes none."""
    costs = Costs(compute_s=1.0, hop_s=0.5, trips=2.0, vector_bytes=1000.0, sum_s=0.25)
    messages = [doubling_s(costs, workers, delay_s=0.125, bytes_per_s=4000.0) / 1.25 for workers in (1, 2, 5, 8)]
    assert messages == [0, 1, 4, 3]


# Times a rival that runs for hours.
RIVAL = """
import sys
from benchmarks.cases import Case
from benchmarks.measure import measure
words = [sys.executable, "-m", "benchmarks.rivals.numpy_loop", f"--data={sys.argv[1]}", "--epochs=100000000"]
measure(Case("rival", tuple(words), 1))
"""
BUSY_S = 2.0  # of CPU time, after which a process has imported NumPy


def are_busy(descendants: Iterable[tuple[int, str]], seconds: float) -> bool:
    """Whether one of these processes has used so many seconds of CPU time; those that have ended are skipped."""
    used = 0.0
    for pid, _ in descendants:
        with suppress(OSError):
            used = max(used, cpu_s(pid))
    return used >= seconds


@pytest.mark.parametrize(
    ("words", "least", "busy_s", "number"),
    [
        (("-m", "benchmarks.recovery", "--data={}"), 5, BUSY_S, signal.SIGTERM),  # 2 supervisors and fork servers
        (("-m", "benchmarks.recovery", "--data={}"), 5, BUSY_S, signal.SIGKILL),
        (("-c", RIVAL, "{}"), 1, BUSY_S, signal.SIGKILL),
        (("-m", "benchmarks.launcher", "--large"), 2, 0.1, signal.SIGTERM),
    ],
)
def test_nothing_outlives_a_benchmark(
    words: tuple[str, ...], least: int, busy_s: float, number: int, prepared: Path, tmp_path: Path
) -> None:
    """All processes below a benchmark end with it; after SIGTERM, its temporary folder is gone too."""
    environment = processes.environment({"TMPDIR": str(tmp_path)})
    command = [sys.executable, *(word.replace("{}", str(prepared)) for word in words)]
    with subprocess.Popen(command, cwd=processes.ROOT, env=environment) as benchmark:
        try:
            processes.wait_until(lambda: len(processes.descendants(benchmark.pid)) >= least, "its processes")
            processes.wait_until(lambda: are_busy(processes.descendants(benchmark.pid), busy_s), "their work")
            below = processes.wait_until(lambda: processes.descendants(benchmark.pid), "its processes")
        finally:
            os.kill(benchmark.pid, number)
        benchmark.wait(processes.DEADLINE_S)
    assert processes.surviving(below) == set()
    assert number != signal.SIGTERM or not list(tmp_path.iterdir())
