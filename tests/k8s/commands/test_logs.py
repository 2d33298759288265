"""logs: each line of every rank, once, whatever happens to the connections."""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from job.errors import JobError
from k8s.api.errors import ApiError
from k8s.commands import logs
from k8s.state.names import CANCELLED
from k8s.view import loglines, run_logs
from k8s.view.loglines import Cursor, Line
from tests.k8s.fakes import FakeCluster, Log, job, pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s.api.objects import Object


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(loglines, "RETRY_S", 0.0)


def show(cluster: FakeCluster, output: str = "text", **flags: Any) -> int:
    """Run `logs digits`."""
    given: dict[str, Any] = {
        "name": "digits",
        "output": output,
        "rank": [],
        "since": None,
        "tail": None,
        "grep": None,
        "no_follow": False,
        "image": None,
        "claim": None,
    }
    return logs.run(argparse.Namespace(**given | flags), cluster.given)


def written(seed: int, lines: int = 100) -> list[str]:
    """A log with equal times, equal lines, and times that go back a little, because two streams get separate stamps."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    moment, found = 1_000_000_000, []
    for number in range(lines):
        moment += rng.choice((0, 0, 5, 400_000, 900_000, 3_000_000))  # microseconds
        stamped = moment - rng.choice((0, 0, 0, 700_000))
        minute, rest = divmod(stamped // 1_000_000, 60)
        time = f"2026-01-01T{minute // 60 % 24:02}:{minute % 60:02}:{rest:02}.{stamped % 1_000_000:06}000Z"
        # Two lines of the same nanosecond differ.
        text = f"line {number}" if f"{time} again" in found else rng.choice(("again", f"line {number}"))
        found.append(f"{time} {text}")
    return found


@pytest.mark.parametrize("seed", range(25))
def test_no_line_is_lost_or_doubled(seed: int) -> None:
    """Over connections that are cut at random moments, each line of a log is read once and in order."""
    lines = written(seed)
    found = pod("a", 1)
    cluster = FakeCluster(found)
    ended = threading.Event()
    log = cluster.texts["a"] = Log(lines, seed, ended.set)
    done = pod("a", 1, "terminated")
    assert read_all(cluster, found, lambda: done if ended.is_set() else found, Cursor()) == lines
    assert log.connections > 10


def read_all(cluster: FakeCluster, first: Object, now: Callable[[], Object], cursor: Cursor) -> list[str]:
    """The new lines of a pod's log, with their times."""
    lines = loglines.read_log(cluster.given(), first, now, cursor, threading.Event(), lambda: 5)
    return [f"{line.time} {line.text}" for line in lines]


def test_since_goes_by_the_clock_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request names a number of seconds, which grows until a line is read; this machine's clock does not matter."""
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    cursor = Cursor(since=970.5)
    assert cursor.request() == {"since_time": "", "tail": None, "since_s": 30}
    monkeypatch.setattr("time.monotonic", lambda: 1060.0)
    assert cursor.request()["since_s"] == 90
    cursor.is_new("2026-01-01T00:01:01.5Z x", 1_767_225_661)
    assert cursor.request() == {"since_time": "2026-01-01T00:00:59Z", "tail": None}


def test_since_holds_after_a_cut() -> None:
    """Lines older than --since are left out where a reconnection sends them again."""
    cursor = Cursor(since=0.0)
    assert cursor.request()["since_s"] > 0
    assert cursor.is_new("2026-01-01T00:00:01.5Z first", 1_767_225_601)
    cursor.request()
    assert not cursor.is_new("2026-01-01T00:00:00.5Z older", 1_767_225_600)
    assert not cursor.is_new("2026-01-01T00:00:01.5Z first", 1_767_225_601)
    assert cursor.is_new("2026-01-01T00:00:02.5Z newer", 1_767_225_602)


def test_since(capsys: pytest.CaptureFixture[str]) -> None:
    """Only lines of the last seconds are printed."""
    show(two_ranks("Complete"), since="56s")
    assert capsys.readouterr().out == "rank 0 | zero trains\nrank 1 | one trains\n"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tail", [1, 7, 200])
def test_tail(seed: int, tail: int) -> None:
    """The last existing lines come first, then each new line, however often the connection is cut."""
    lines, there = written(seed), 50
    found, done = pod("a", 1), pod("a", 1, "terminated")
    cluster = FakeCluster(found)
    ended = threading.Event()
    log = cluster.texts["a"] = Log(lines[:there])
    log.written, cursor = there, Cursor(tail=tail)
    assert read_all(cluster, found, lambda: done, cursor) == lines[max(there - tail, 0) : there]
    log = cluster.texts["a"] = Log(lines, seed, ended.set)
    log.written = there
    assert read_all(cluster, found, lambda: done if ended.is_set() else found, cursor) == lines[there:]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-01-01T00:00:00.000000001Z a  b", ("a  b", (1_767_225_600, 1))),
        ("2026-01-01T01:00:00.5+01:00 a", ("a", (1_767_225_600, 500_000_000))),
        ("2025-12-31T19:00:00-05:00 a", ("a", (1_767_225_600, 0))),
        ("2026-01-01T00:00:00Z ", ("", (1_767_225_600, 0))),
        ("unable to retrieve container logs", None),
        ("2026-01-01T00:00:00 no zone", None),
    ],
)
def test_times_of_lines(line: str, expected: tuple[str, tuple[int, int]] | None) -> None:
    """A line's time is read in any time zone; text without a time is not a line."""
    found = loglines.parse_line(line, 0, "a")
    assert (found and (found.text, found.at)) == expected


def stamped(*lines: tuple[str, str]) -> list[str]:
    """Lines of a log, from seconds and text."""
    return [f"2026-01-01T00:00:{second}Z {text}" for second, text in lines]


def two_ranks(*conditions: str) -> FakeCluster:
    """A run of two ranks that has ended, with what they wrote."""
    cluster = FakeCluster(job("digits", *conditions), pod("a", 0, "terminated"), pod("b", 1, "terminated"))
    cluster.texts["a"] = Log(stamped(("01.1", "zero joins"), ("03.5", "zero trains")))
    cluster.texts["b"] = Log(stamped(("02.25", "one joins"), ("03.5", "one trains")))
    for text in cluster.texts.values():
        text.written = len(text._lines)
    return cluster


def test_ended_run_in_order_of_time(capsys: pytest.CaptureFixture[str]) -> None:
    """The logs of a run that has ended are printed in order of time, and then the command ends."""
    assert show(two_ranks("Complete")) == 0
    expected = ["rank 0 | zero joins", "rank 1 | one joins", "rank 0 | zero trains", "rank 1 | one trains"]
    assert capsys.readouterr() == ("\n".join(expected) + "\n", "")


def test_chosen_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """--rank and --grep choose lines; JSON gives each one's rank, pod and time."""
    show(two_ranks("Complete"), "json", rank=[1], grep="tr[a-z]ins$")
    assert json.loads(capsys.readouterr().out) == {
        "rank": 1,
        "pod": "b",
        "time": "2026-01-01T00:00:03.5Z",
        "line": "one trains",
    }


def test_last_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """With --tail, only the last lines of each pod are shown."""
    show(two_ranks("Complete"), tail=1)
    assert capsys.readouterr().out == "rank 0 | zero trains\nrank 1 | one trains\n"


def test_no_follow(capsys: pytest.CaptureFixture[str]) -> None:
    """With --no-follow, the command prints the present log of a run and ends."""
    show(two_ranks(), no_follow=True, rank=[0])
    assert capsys.readouterr().out == "rank 0 | zero joins\nrank 0 | zero trains\n"


@pytest.mark.parametrize("conditions", [(), ("Complete",)])
def test_a_thousand_ranks(conditions: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """At most 50 logs are read, the command says so, and --rank selects others."""
    large, workers = job("digits", *conditions), 1000
    large["spec"]["completions"] = workers
    cluster = FakeCluster(large, *(pod(f"p{rank}", rank, "terminated") for rank in range(workers)))
    for rank in range(workers):
        cluster.texts[f"p{rank}"] = Log(stamped((f"{rank % 60:02}.5", f"this is {rank}")))
        cluster.texts[f"p{rank}"].written = 1
    show(cluster, no_follow=True)
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [f"rank {rank:>3} | this is {rank}" for rank in range(50)]
    assert shown.err == "at most 50 ranks are printed at a time, here 0 to 49 of 1000; --rank selects others\n"
    assert [name for name, log in cluster.texts.items() if log.connections] == [f"p{rank}" for rank in range(50)]
    show(cluster, no_follow=True, rank=[999])
    assert capsys.readouterr() == ("rank 999 | this is 999\n", "")


def test_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ranks have colours on a terminal, unless NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show(two_ranks("Complete"), grep="trains")
    monkeypatch.setenv("NO_COLOR", "1")
    show(two_ranks("Complete"), rank=[1], grep="trains")
    assert capsys.readouterr().out == (
        "\x1b[36mrank 0 |\x1b[0m zero trains\n\x1b[33mrank 1 |\x1b[0m one trains\nrank 1 | one trains\n"
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tail": 0}, "--tail must be at least 1, not 0"),
        ({"rank": [2]}, "--rank must be from 0 to 1 for digits, not 2"),
        (
            {"grep": "("},
            "--grep must be a regular expression, not '(': missing ), unterminated subpattern at position 0",
        ),
        (
            {"since": "soon"},
            "--since must be seconds or a duration such as 30m, 6h or 7d, at most 36500d, not 'soon'",
        ),
    ],
)
def test_wrong_flags(flags: dict[str, Any], said: str) -> None:
    """The error of a wrong flag names its value."""
    with pytest.raises(JobError) as error:
        show(two_ranks("Complete"), **flags)
    assert str(error.value) == said


def test_follows_replaced_pods(capsys: pytest.CaptureFixture[str]) -> None:
    """A run is followed to its end while a pod is replaced: each line once, and the replacement is named."""
    cluster = FakeCluster(job(), pod("a", 0))
    objects = cluster.objects

    def end() -> None:
        objects["Pod", "b"] = pod("b", 0, "terminated")
        objects["Job", "digits"] = job("digits", "SuccessCriteriaMet")

    def replace() -> None:
        del objects["Pod", "a"]
        cluster.texts["b"] = Log(later, 2, end)
        objects["Pod", "b"] = pod("b", 0)

    before, later = written(1, 50), written(2, 50)
    cluster.texts["a"] = Log(before, ends=replace)
    assert show(cluster, "json") == 0
    out, err = capsys.readouterr()
    shown = [json.loads(line) for line in out.splitlines()]
    assert [f"{line['time']} {line['line']}" for line in shown if line["pod"] == "a"] == before
    assert [f"{line['time']} {line['line']}" for line in shown if line["pod"] == "b"] == later
    assert len(shown) == 100
    assert err == "rank 0: pod b replaces a\ndigits is published\n"


def test_unreadable_log_of_an_ended_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that cannot be read, for example on a node that is gone, is named, and the others are printed."""

    def refuse(*_: Any, **__: Any) -> Iterator[str]:
        raise ApiError(500, "", "no route to host", "get it")

    monkeypatch.setattr(run_logs, "PATIENCE_S", 0.0)
    cluster = two_ranks("Failed")
    monkeypatch.setattr(cluster.texts["b"], "read", refuse)
    show(cluster)
    out, err = capsys.readouterr()
    assert out == "rank 0 | zero joins\nrank 0 | zero trains\n"
    assert err == "the log of rank 1 cannot be read in pod b: no route to host\n"


def test_unreadable_logs_of_one_node(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first log is retried, and the others are requested once: a thousand of them would take hours."""
    asked: Counter[str] = Counter()

    def refuse(name: str) -> Callable[..., Iterator[str]]:
        def read(*_: Any, **__: Any) -> Iterator[str]:
            asked[name] += 1
            raise ApiError(500, "", "no route to host", "get it")

        return read

    monkeypatch.setattr(run_logs, "PATIENCE_S", 0.5)
    cluster = two_ranks("Failed")
    for name in "ab":
        monkeypatch.setattr(cluster.texts[name], "read", refuse(name))
    show(cluster)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "".join(
        f"the log of rank {rank} cannot be read in pod {name}: no route to host\n" for rank, name in enumerate("ab")
    )
    assert asked["a"] > 1
    assert asked["b"] == 1


def test_log_that_breaks_at_the_same_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Repeated lines do not extend the patience: the log is given up, and its lines are printed once."""
    cluster = two_ranks("Failed")
    read = cluster.texts["b"].read

    def breaks(since_time: str, *, follow: bool) -> Iterator[str]:
        yield next(iter(read(since_time, follow=follow)))
        raise ConnectionError("connection reset")

    monkeypatch.setattr(run_logs, "PATIENCE_S", 0.2)
    monkeypatch.setattr(cluster.texts["b"], "read", breaks)
    show(cluster)
    out, err = capsys.readouterr()
    assert out.count("rank 1 |") == 1
    assert err == "the log of rank 1 cannot be read in pod b: connection reset\n"


def test_forbidden() -> None:
    """A user who may not read logs gets an error, also while following."""
    cluster = FakeCluster(job(), pod("a", 0))

    class Forbidden(Log):
        def read(self, since_time: str, *, follow: bool) -> Iterator[str]:
            if follow:
                raise ApiError(403, "Forbidden", "pods/log is forbidden", "get it")
            return super().read(since_time, follow=follow)

    cluster.texts["a"] = Forbidden([])
    with pytest.raises(ApiError, match="pods/log is forbidden"):
        show(cluster)


def test_a_fault_in_a_thread_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends a watch ends the command."""

    def fail(*_: object) -> None:
        raise KeyError("type")

    cluster = FakeCluster(job())
    monkeypatch.setattr(cluster, "watch", fail)
    with pytest.raises(KeyError, match="type"):
        show(cluster)


@pytest.mark.parametrize(
    ("now", "pods", "said"),
    [
        (job(), [], []),
        (
            job("digits", "Failed"),
            [pod("b", 1, "terminated")],
            ["logs deleted with their pods when the run ended: rank 0"],
        ),
        (
            job(suspend=True, annotations={CANCELLED: "x"}),
            [],
            ["logs deleted with their pods when the run ended: rank 0, rank 1"],
        ),
        (
            job(suspend=True),
            [],
            ["logs deleted with their pods when the run was suspended: rank 0, rank 1"],
        ),
        (
            job(),
            [pod("a", 0), pod("b", 1, created="2026-01-01T00:00:09Z", failures=2), pod("c", 1, "terminated")],
            ["logs deleted with earlier pods of rank 1: 1"],
        ),
    ],
    ids=["not begun", "failed", "cancelled", "suspended", "replaced"],
)
def test_missing_logs(now: Object, pods: list[Object], said: list[str]) -> None:
    """The ranks whose logs are missing are named, and for each rank the number of earlier pods."""
    assert run_logs.missing_logs(now, pods, {0, 1}) == said


def test_lines_are_ordered_by_nanoseconds() -> None:
    """Lines are ordered by time, whatever the number of digits."""
    found = [loglines.parse_line(line, 0, "a") for line in stamped(("01.09", "first"), ("01.1", "second"))]
    assert sorted((line for line in found if line), key=lambda line: line.at) == [
        Line(0, "a", "2026-01-01T00:00:01.09Z", "first", (1_767_225_601, 90_000_000)),
        Line(0, "a", "2026-01-01T00:00:01.1Z", "second", (1_767_225_601, 100_000_000)),
    ]
