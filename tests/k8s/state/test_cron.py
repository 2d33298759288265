"""A CronJob's times: what Kubernetes' own library makes of the same expressions, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from job.errors import JobError
from k8s.state.cron import parse, time_zone


@pytest.mark.parametrize(
    ("expression", "zone", "after", "starts"),
    [
        ("0 2 * * *", "UTC", "2026-01-31T02:00:00", ["2026-02-01T02:00:00", "2026-02-02T02:00:00"]),
        ("@weekly", "UTC", "2026-01-30T12:00:00", ["2026-02-01T00:00:00", "2026-02-08T00:00:00"]),
        ("*/20 9-10 * * MON-fri", "UTC", "2026-01-30T10:39:59", ["2026-01-30T10:40:00", "2026-02-02T09:00:00"]),
        ("5/20 0 * * *", "UTC", "2026-01-30T00:05:00", ["2026-01-30T00:25:00", "2026-01-30T00:45:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-30T00:00:00", ["2028-02-29T00:00:00", "2032-02-29T00:00:00"]),
        # Both fields of days are given: either will do. One of them is a star: both must.
        ("0 0 13 * fri", "UTC", "2026-03-07T00:00:00", ["2026-03-13T00:00:00", "2026-03-20T00:00:00"]),
        ("0 0 */12 * mon", "UTC", "2026-01-02T00:00:00", ["2026-01-05T00:00:00", "2026-01-12T00:00:00"]),
        ("0 0 ? * mon", "UTC", "2026-01-02T00:00:00", ["2026-01-05T00:00:00", "2026-01-12T00:00:00"]),
        # An hour that is left out, and one that comes twice.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00", ["2026-03-30T00:30:00", "2026-03-31T00:30:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00", ["2026-10-25T00:30:00", "2026-10-25T01:30:00"]),
        ("0 2 * * *", "America/New_York", "2026-01-01T00:00:00", ["2026-01-01T07:00:00", "2026-01-02T07:00:00"]),
    ],
)
def test_starts(expression: str, zone: str, after: str, starts: list[str]) -> None:
    """The next two starts are those that robfig/cron v3 gives, and the last one before them is found from there."""
    cron, where = parse(expression), time_zone(zone)
    first, second = (datetime.fromisoformat(start).replace(tzinfo=UTC) for start in starts)
    assert cron.next(datetime.fromisoformat(after).replace(tzinfo=UTC), where) == first
    assert cron.next(first, where) == second
    assert cron.last(second - timedelta(seconds=1), where) == first
    assert cron.last(second, where) == second


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
def test_period(expression: str, seconds: int) -> None:
    """It is the shortest time between two starts."""
    assert parse(expression).period_s == seconds


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
        ("5-1 * * * *", "the minute in CRON must begin before it ends, not '5-1'"),
        ("*/0 * * * *", "the minute in CRON must have a step of at least 1, not '*/0'"),
        ("0 -1 * * *", "the hour in CRON must be as *, 1, 1-5, */5 or 1,3, not '-1'"),
        ("0 0 30 2 *", "CRON names a day that never comes: '0 0 30 2 *'"),
        ("TZ=UTC 0 0 * * *", "CRON cannot name a time zone, as 'TZ=UTC 0 0 * * *' does; give it as --timezone"),
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
    sentence = f"--timezone must be a name of the time zone database, as Europe/Berlin, not {name!r}"
    assert (refused.value.code, str(refused.value)) == (64, sentence)
