"""A CronJob's times: its expression read as Kubernetes reads it, the times that it names, its time zone. Pure.

Kubernetes takes the five fields of cron(5) as the Go library robfig/cron v3 does: Sunday is 0 and never 7, `?` is `*`,
and a day must match both day fields where one of them begins with a star without a step, else either.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from job.config import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Each field's name, its lowest and its highest value, and the names of values from the lowest on.
FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of the week", 0, 6, WEEKDAYS),
)
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
RANGE = re.compile(r"(?P<low>\*|\?|\w+)(-(?P<high>\w+))?(/(?P<step>\d+))?")
DAY_MIN = 24 * 60
# The calendar comes again after 28 years, but for 1900 and 2100: 29 February falls on each day of the week once.
CYCLE = (date(2000, 1, 1), date(2028, 1, 1))
FAR_DAYS = 9 * 366  # from one 29 February to the next, at most


@dataclass(frozen=True)
class Cron:
    """When a schedule's runs are to start.

    both is whether a day must be among days and among weekdays, and not just among one of them.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    both: bool

    def falls_on(self, day: date) -> bool:
        """Whether there are starts on a day."""
        found = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return day.month in self.months and (all(found) if self.both else any(found))

    def times(self, day: date, zone: tzinfo) -> list[datetime]:
        """The starts of a day in a time zone, in UTC: none in an hour that is left out, two in one that comes twice."""
        found = set()
        for hour, minute, fold in itertools.product(self.hours, self.minutes, (0, 1)):
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone, fold=fold)
            moment = local.astimezone(UTC)
            if moment.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
                found.add(moment)
        return sorted(found)

    def next(self, after: datetime, zone: tzinfo) -> datetime | None:
        """The first start after a moment, in UTC; None if there is none for years."""
        return next((time for time in self._from(after, zone, 1) if time > after), None)

    def last(self, until: datetime, zone: tzinfo) -> datetime | None:
        """The last start before a moment or at it, in UTC; None if there was none for years."""
        return next((time for time in self._from(until, zone, -1) if time <= until), None)

    def _from(self, moment: datetime, zone: tzinfo, step: int) -> Iterator[datetime]:
        first = moment.astimezone(zone).date()
        for number in range(FAR_DAYS):
            day = first + timedelta(days=step * number)
            if self.falls_on(day):
                yield from self.times(day, zone)[::step]

    @functools.cached_property
    def period_s(self) -> int:
        """Seconds between two starts at least, as long as no clock is put forward; 0 where there never are two."""
        times = sorted(60 * hour + minute for hour, minute in itertools.product(self.hours, self.minutes))
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        days = (CYCLE[0] + timedelta(days=number) for number in range((CYCLE[1] - CYCLE[0]).days))
        apart = [(later - earlier).days for earlier, later in itertools.pairwise(filter(self.falls_on, days))]
        if apart:
            gaps.append(min(apart) * DAY_MIN - times[-1] + times[0])
        return 60 * min(gaps) if apart else 0


@functools.cache  # what is shown of a schedule asks several times, and its shortest period takes a while to find
def parse(text: str) -> Cron:
    """What an expression means, as `0 2 * * mon-fri` or `@daily`.

    Raises:
        JobError: 64, naming the field and the value that is wrong.
    """
    text = text.strip()
    if "TZ=" in text:
        raise usage(f"CRON cannot name a time zone, as {text!r} does", "give it as --timezone")
    if text.startswith("@") and text not in MACROS:
        raise usage(f"CRON must have five fields or be one of {', '.join(MACROS)}, not {text!r}")
    parts = MACROS.get(text, text).split()
    if len(parts) != len(FIELDS):
        names = ", ".join(name for name, *_ in FIELDS)
        raise usage(f"CRON must have five fields ({names}), not {len(parts)}: {text!r}", "quote it: '0 2 * * *'")
    minutes, hours, days, months, weekdays = (read(part, *field) for part, field in zip(parts, FIELDS, strict=True))
    found = Cron(minutes, hours, days, months, weekdays, both=is_any(parts[2]) or is_any(parts[4]))
    if not found.period_s:
        raise usage(f"CRON names a day that never comes: {text!r}")
    return found


def read(text: str, name: str, lowest: int, highest: int, names: tuple[str, ...]) -> frozenset[int]:
    """The values that a field names."""
    values: set[int] = set()
    for part in text.split(","):
        found = RANGE.fullmatch(part)
        if not found or (found["low"] in "*?" and found["high"]):
            raise usage(f"the {name} in CRON must be as *, 1, 1-5, */5 or 1,3, not {text!r}")
        step = int(found["step"] or 1)
        if step == 0:
            raise usage(f"the {name} in CRON must have a step of at least 1, not {text!r}")
        if found["low"] in "*?":
            low, high = lowest, highest
        else:
            low = number(found["low"], name, lowest, highest, names)
            # 5/10 is 5-59/10.
            last = found["high"] or (str(highest) if found["step"] else found["low"])
            high = number(last, name, lowest, highest, names)
        if low > high:
            raise usage(f"the {name} in CRON must begin before it ends, not {text!r}")
        values |= set(range(low, high + 1, step))
    return frozenset(values)


def number(text: str, name: str, lowest: int, highest: int, names: tuple[str, ...]) -> int:
    """One value of a field."""
    if text.lower() in names:
        return lowest + names.index(text.lower())
    if not re.fullmatch(r"[0-9]+", text) or not lowest <= int(text) <= highest:
        also = f", or {names[0]} to {names[-1]}" if names else ""
        raise usage(f"the {name} in CRON must be from {lowest} to {highest}{also}, not {text!r}")
    return int(text)


def is_any(text: str) -> bool:
    """Whether a field of days restricts nothing."""
    return any(re.fullmatch(r"[*?](/0*1)?", part) for part in text.split(","))


def time_zone(name: str) -> tzinfo:
    """A time zone by its name.

    Raises:
        JobError: 64, when this machine knows none of that name.
    """
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - not needed for a command's --help

    if name in ("UTC", "Etc/UTC"):
        return UTC
    if name not in time_zones():
        raise usage(f"--timezone must be a name of the time zone database, as Europe/Berlin, not {name!r}")
    return ZoneInfo(name)


@functools.cache
def time_zones() -> frozenset[str]:
    """The names that mean the same on every machine; reading them takes a while."""
    from zoneinfo import available_timezones  # noqa: PLC0415

    return frozenset(available_timezones() - {"localtime"})
