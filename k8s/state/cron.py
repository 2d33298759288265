"""A CronJob's times: its expression as Kubernetes reads it, the starts that it names, its time zone. Pure.

Kubernetes reads the five fields of cron(5) with the Go library robfig/cron v3: Sunday is 0 and never 7, `?` means `*`,
and a day must match both day fields if one of them is a star without a step, else either of them.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

from job.config import usage_error

if TYPE_CHECKING:
    from collections.abc import Iterator

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# The name of each field, its lowest and highest value, and the names of its values, from the lowest on.
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
FAR_DAYS = 9 * 366  # covers the time from one 29 February to the next, which is eight years at most
FIRST = datetime(2000, 1, 1, tzinfo=UTC)  # where shortest_gap_s begins, so that its answer never changes
LOOKED_AT = 250  # starts that are compared: the times of a day, which have the shortest gaps, repeat within them


@dataclass(frozen=True)
class Cron:
    """When a schedule starts its runs.

    both is whether a day must be among days and also among weekdays, rather than among either.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    both: bool

    def falls_on(self, day: date) -> bool:
        """Whether there are starts on a day."""
        matches = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return day.month in self.months and (all(matches) if self.both else any(matches))

    def times(self, day: date, zone: tzinfo) -> list[datetime]:
        """The starts on a day of a time zone, in UTC: none in an hour that is skipped, two in one that is repeated."""
        starts = set()
        for hour, minute, fold in itertools.product(self.hours, self.minutes, (0, 1)):
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone, fold=fold)
            moment = local.astimezone(UTC)
            if moment.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
                starts.add(moment)
        return sorted(starts)

    def next(self, after: datetime, zone: tzinfo) -> datetime | None:
        """The first start after a moment, in UTC; None if there is none within nine years."""
        return next((time for time in self._from(after, zone, 1) if time > after), None)

    def last(self, until: datetime, zone: tzinfo) -> datetime | None:
        """The last start before a moment or at it, in UTC; None if there was none within nine years."""
        return next((time for time in self._from(until, zone, -1) if time <= until), None)

    def _from(self, moment: datetime, zone: tzinfo, step: int) -> Iterator[datetime]:
        first = moment.astimezone(zone).date()
        for number in range(FAR_DAYS):
            day = first + timedelta(days=step * number)
            if self.falls_on(day):
                yield from self.times(day, zone)[::step]

    @functools.cached_property
    def shortest_gap_s(self) -> int:
        """The shortest time between two starts, in seconds, apart from changes of the clock."""
        starts = itertools.islice(self._from(FIRST, UTC, 1), LOOKED_AT)
        return min(round((later - earlier).total_seconds()) for earlier, later in itertools.pairwise(starts))


def parse(text: str) -> Cron:
    """Read an expression such as `0 2 * * mon-fri` or `@daily`.

    Raises:
        JobError: 64, naming the field and the value that is wrong.
    """
    text = text.strip()
    if "TZ=" in text:
        raise usage_error(f"CRON cannot contain a time zone: {text!r}", "use --timezone")
    if text.startswith("@") and text not in MACROS:
        raise usage_error(f"CRON must have five fields or be one of {', '.join(MACROS)}, not {text!r}")
    parts = MACROS.get(text, text).split()
    if len(parts) != len(FIELDS):
        names = ", ".join(name for name, *_ in FIELDS)
        raise usage_error(f"CRON must have five fields ({names}), not {len(parts)}: {text!r}", "quote it: '0 2 * * *'")
    fields = (parse_field(part, *field) for part, field in zip(parts, FIELDS, strict=True))
    minutes, hours, days, months, weekdays = fields
    cron = Cron(minutes, hours, days, months, weekdays, both=is_any(parts[2]) or is_any(parts[4]))
    if cron.next(FIRST, UTC) is None:
        raise usage_error(f"CRON names a day that never comes: {text!r}")
    return cron


def parse_field(text: str, name: str, lowest: int, highest: int, names: tuple[str, ...]) -> frozenset[int]:
    """The values that a field names."""
    values: set[int] = set()
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        if not match or (match["low"] in "*?" and match["high"]):
            raise usage_error(f"the {name} in CRON must look like *, 1, 1-5, */5 or 1,3, not {text!r}")
        step = int(match["step"] or 1)
        if step == 0:
            raise usage_error(f"the {name} in CRON must have a step of at least 1, not {text!r}")
        if match["low"] in "*?":
            low, high = lowest, highest
        else:
            low = parse_value(match["low"], name, lowest, highest, names)
            # 5/10 means 5-59/10.
            last = match["high"] or (str(highest) if match["step"] else match["low"])
            high = parse_value(last, name, lowest, highest, names)
        if low > high:
            raise usage_error(f"the {name} in CRON must be a range from low to high, not {text!r}")
        values |= set(range(low, high + 1, step))
    return frozenset(values)


def parse_value(text: str, name: str, lowest: int, highest: int, names: tuple[str, ...]) -> int:
    """One value of a field."""
    if text.lower() in names:
        return lowest + names.index(text.lower())
    if not re.fullmatch(r"[0-9]+", text) or not lowest <= int(text) <= highest:
        also = f", or {names[0]} to {names[-1]}" if names else ""
        raise usage_error(f"the {name} in CRON must be from {lowest} to {highest}{also}, not {text!r}")
    return int(text)


def is_any(text: str) -> bool:
    """Whether a day field allows every day."""
    return any(re.fullmatch(r"[*?](/0*1)?", part) for part in text.split(","))


def time_zone(name: str) -> tzinfo:
    """A time zone by its name.

    Raises:
        JobError: 64, this machine does not know the name.
    """
    if name in ("UTC", "Etc/UTC"):
        return UTC
    if name not in time_zones():
        if not time_zones():
            raise usage_error("this machine has no time zone database", "install the package tzdata")
        raise usage_error(f"--timezone must be a name in the time zone database, such as Europe/Berlin, not {name!r}")
    return ZoneInfo(name)


@functools.cache
def time_zones() -> frozenset[str]:
    """The names that mean the same on every machine; reading them takes a while."""
    return frozenset(available_timezones() - {"localtime"})
