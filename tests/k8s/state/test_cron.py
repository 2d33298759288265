"""A CronJob's times: the answers of the library that Kubernetes uses, and what is refused."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from job.errors import JobError
from k8s.state.cron import parse, time_zone

# Expression, time zone, a moment and the three starts after it, in a line.
ANSWERS = Path(__file__).with_name("cron_answers.tsv").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("answer", ANSWERS, ids=["; ".join(answer.split("\t")[:3]) for answer in ANSWERS])
def test_starts(answer: str) -> None:
    """The next three starts are those of robfig/cron v3, as cron_answers.go recorded them; last() finds them too."""
    expression, zone, *times = answer.split("\t")
    cron, where = parse(expression), time_zone(zone)
    moment, *starts = (datetime.fromisoformat(time) for time in times)
    for start in starts:
        assert cron.next(moment, where) == start
        moment = start
    for earlier, later in itertools.pairwise(starts):
        assert cron.last(later - timedelta(seconds=1), where) == earlier
        assert cron.last(later, where) == later


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("* * * * *", 60),
        ("0,50 * * * *", 600),
        ("@hourly", 3600),
        ("0 1,23 * * *", 2 * 3600),
        ("0 1,23 * * mon,wed", 22 * 3600),
        ("@daily", 86_400),
        ("0 0 1,31 * *", 86_400),
        ("0 2 * * mon", 7 * 86_400),
        ("@monthly", 28 * 86_400),
        ("@yearly", 365 * 86_400),
        ("0 0 29 2 *", 1461 * 86_400),
    ],
)
def test_shortest_gap(expression: str, seconds: int) -> None:
    """It is the shortest time between two starts."""
    assert parse(expression).shortest_gap_s == seconds


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        (
            "0 2 * *",
            (
                "CRON must have five fields (minute, hour, day of the month, month, day of the week), not 4: "
                "'0 2 * *'; quote it: '0 2 * * *'"
            ),
        ),
        ("60 * * * *", "the minute in CRON must be from 0 to 59, not '60'"),
        ("0 0 * * 7", "the day of the week in CRON must be from 0 to 6, or sun to sat, not '7'"),
        ("0 0 * dez *", "the month in CRON must be from 1 to 12, or jan to dec, not 'dez'"),
        ("5-1 * * * *", "the minute in CRON must be a range from low to high, not '5-1'"),
        ("*/0 * * * *", "the minute in CRON must have a step of at least 1, not '*/0'"),
        ("0 -1 * * *", "the hour in CRON must look like *, 1, 1-5, */5 or 1,3, not '-1'"),
        ("0 0 30 2 *", "CRON names a day that never comes: '0 0 30 2 *'"),
        ("TZ=UTC 0 0 * * *", "CRON cannot contain a time zone: 'TZ=UTC 0 0 * * *'; use --timezone"),
        (
            "@every 1h",
            (
                "CRON must have five fields or be one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, "
                "@hourly, not '@every 1h'"
            ),
        ),
    ],
)
def test_refused(expression: str, sentence: str) -> None:
    """One sentence names the field, its bounds and the value."""
    with pytest.raises(JobError) as refused:
        parse(expression)
    assert (refused.value.code, str(refused.value)) == (64, sentence)


@pytest.mark.parametrize("name", ["Berlin", "Europe", "", "../etc", "local", "localtime", "posix/Europe/Berlin"])
def test_unknown_time_zone(name: str) -> None:
    """A name that the time zone database does not have is refused."""
    with pytest.raises(JobError) as refused:
        time_zone(name)
    sentence = f"--timezone must be a name in the time zone database, such as Europe/Berlin, not {name!r}"
    assert (refused.value.code, str(refused.value)) == (64, sentence)
