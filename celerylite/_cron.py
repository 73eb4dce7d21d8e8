"""Cron fields: how they are read, which minutes they name, and when the next one comes."""

from __future__ import annotations

import importlib
import re
from calendar import monthrange
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from celerylite.utils.time import weekday, yearmonth

__all__ = ("Fields", "ParseException", "crontab_parser", "next_after", "read_line")

_MINUTE = timedelta(minutes=1)
#: No zone has ever moved its clocks by more than a day; a change further away than this cannot matter.
_NEAR = timedelta(hours=25)
#: The 29th of February falls on a given weekday at least once in 40 years.
_MONTHS_AHEAD = 12 * 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The five fields as sets of numbers, Sunday is 0."""

    minutes: Collection[int]
    hours: Collection[int]
    weekdays: Collection[int]
    days: Collection[int]
    months: Collection[int]
    #: A wildcard or a step in the hours or minutes: a rhythm rather than times of the day.
    rhythmic: bool
    #: As cron: one of the two day fields is enough. Celery's crontab wants both.
    either_day: bool = False

    def next_match(self, after: datetime) -> datetime:
        """The first minute named by the fields that is later than the minute of `after`, both naive.

        Raises RuntimeError when there is none within the next decades.
        """
        start = after.replace(second=0, microsecond=0) + _MINUTE
        if self.matches_day(start):
            for hour in range(start.hour, 24):
                if hour in self.hours:
                    minute = self._first_minute(start.minute if hour == start.hour else 0)
                    if minute is not None:
                        return start.replace(hour=hour, minute=minute)
        day = self._next_day(start)
        return day.replace(hour=min(self.hours), minute=min(self.minutes))

    def matches_day(self, moment: datetime) -> bool:
        """Whether the day of `moment` is one on which the fields name times."""
        if moment.month not in self.months:
            return False
        by_date, by_weekday = moment.day in self.days, moment.isoweekday() % 7 in self.weekdays
        return (by_date or by_weekday) if self.either_day else (by_date and by_weekday)

    def _first_minute(self, least: int) -> int | None:
        return next((minute for minute in range(least, 60) if minute in self.minutes), None)

    def _next_day(self, start: datetime) -> datetime:
        """The first matching day later than that of `start`."""
        year, month, first = start.year, start.month, start.day + 1
        for _ in range(_MONTHS_AHEAD):
            if month in self.months:
                for day in range(first, monthrange(year, month)[1] + 1):
                    candidate = start.replace(year=year, month=month, day=day)
                    if self.matches_day(candidate):
                        return candidate
            year, month, first = (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)
        raise RuntimeError("unable to rollover, time specification is probably invalid")


def next_after(fields: Fields, after: datetime, zone: tzinfo) -> datetime:
    """The next moment the fields name on the clocks of `zone`, later than the minute of `after`.

    `after` is aware; the result is in UTC. Where the clocks of the zone are changed:

    - a time of the day happens once on every local day: at its first occurrence when the hour is
      repeated, at the end of the gap when the clocks skip it;
    - a rhythm (`Fields.rhythmic`) goes on in elapsed time: it is kept by both occurrences of a repeated
      hour, and for as long as the shift lasts it also goes by the old clock, so that it never pauses for
      longer than usual.
    """
    after = after.astimezone(UTC)
    change = _change_near(after, zone)
    if change is not None:
        found = _across(fields, after, change)
        if found <= change.at + _NEAR:
            return found
        # Later than this the change does not matter any more, and nothing happens until then.
        after = change.at + _NEAR
    offset = _offset(after, zone)
    local = fields.next_match(_naive(after + offset))
    guess = _aware(local - offset)
    change = _change_near(guess, zone)
    if change is None:
        return _aware(local - _offset(guess, zone))
    return _across(fields, max(after, change.at - 2 * _NEAR), change)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """The moment (UTC) from which the clocks of a zone show another offset."""

    at: datetime
    before: timedelta
    since: timedelta

    @property
    def shift(self) -> timedelta:
        return abs(self.since - self.before)


def _across(fields: Fields, after: datetime, change: _Change) -> datetime:
    """As `next_after` where `change` is the only one near."""
    if after < change.at:
        upcoming = _aware(fields.next_match(_naive(after + change.before)) - change.before)
        if upcoming < change.at:
            return upcoming
    if fields.rhythmic:
        return _rhythm_since(fields, max(after, change.at - _MINUTE), change)
    return _times_since(fields, after, change)


def _rhythm_since(fields: Fields, after: datetime, change: _Change) -> datetime:
    """The next moment at or after the change, which either clock may name while the shift lasts."""
    by_new_clock = _aware(fields.next_match(_naive(after + change.since)) - change.since)
    by_old_clock = after
    while True:
        by_old_clock = _aware(fields.next_match(_naive(by_old_clock + change.before)) - change.before)
        if by_old_clock >= min(by_new_clock, change.at + change.shift):
            return by_new_clock
        # A day that the fields leave out stays without any run, whatever the old clock says.
        if fields.matches_day(_naive(by_old_clock + change.since)):
            return by_old_clock


def _times_since(fields: Fields, after: datetime, change: _Change) -> datetime:
    """The next moment at or after the change for which no earlier reading of the clock stands."""
    if after < change.at and change.since > change.before:
        skipped = fields.next_match(_naive(change.at + change.before) - _MINUTE)
        if skipped < _naive(change.at + change.since):
            return change.at
    # What both clocks show was reached, or skipped, before: go on where only the new one has been.
    fresh = _naive(change.at + max(change.before, change.since)) - _MINUTE
    return _aware(fields.next_match(max(_naive(after + change.since), fresh)) - change.since)


def _change_near(moment: datetime, zone: tzinfo) -> _Change | None:
    """The change of the clocks within `_NEAR` of `moment`, to the second."""
    low, high = moment - _NEAR, moment + _NEAR
    before, since = _offset(low, zone), _offset(high, zone)
    if before == since:
        return None
    seconds_low, seconds_high = int(low.timestamp()), int(high.timestamp()) + 1
    while seconds_high - seconds_low > 1:
        middle = (seconds_low + seconds_high) // 2
        if _offset(datetime.fromtimestamp(middle, UTC), zone) == before:
            seconds_low = middle
        else:
            seconds_high = middle
    return _Change(at=datetime.fromtimestamp(seconds_high, UTC), before=before, since=since)


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    # Always from UTC to local, which no kind of tzinfo (zoneinfo, dateutil, pytz) gets wrong.
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


class ParseException(Exception):
    """Raised by `crontab_parser` for an expression that it cannot read."""

    __module__ = "celerylite.schedules"


class crontab_parser:
    """Reads one cron field: groups of numbers or names, ranges and steps, into the set of numbers meant.

    ``*/15``, ``8-17/2``, ``mon-fri``, ``1,13,30-45``: numbers from `min_` up to `min_` + `max_` - 1. Names
    are those of weekdays and months. A range that ends before it begins goes round (``22-3``), and steps
    count from the beginning of what they divide: ``crontab_parser(12, 1).parse('*/2')`` is 1, 3, 5, ...
    """

    __module__ = "celerylite.schedules"
    ParseException = ParseException

    #: What a part may begin with. As Celery: what follows the match is not looked at.
    _PART = re.compile(
        r"(?P<first>\w+?)-(?P<last>\w+)(?P<slash>/(?P<step>\w+)?)?"
        r"|\*(?P<star>/(?P<every>\w+)?|$)"
    )

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """The numbers that `spec` stands for. Raises ParseException or ValueError."""
        numbers: set[int] = set()
        for part in spec.split(","):
            if not part:
                raise self.ParseException("empty part")
            numbers.update(self._parse_part(part))
        return numbers

    def _parse_part(self, part: str) -> list[int]:
        found = self._PART.match(part)
        if found is None:
            return self._expand_range((part,))
        if found["first"] is None:
            return self._star_steps((found["every"],)) if found["star"] else self._expand_star()
        ends = (found["first"], found["last"])
        return self._range_steps((*ends, found["step"])) if found["slash"] else self._expand_range(ends)

    def _expand_range(self, toks: Sequence[str]) -> list[int]:
        first = self._expand_number(toks[0])
        if len(toks) == 1:
            return [first]
        last = self._expand_number(toks[1])
        if first <= last:
            return [*range(first, last + 1)]
        return [*range(first, self.min_ + self.max_), *range(self.min_, last + 1)]

    def _range_steps(self, toks: Sequence[str | None]) -> list[int]:
        if len(toks) != 3 or not toks[0] or not toks[1] or not toks[2]:
            raise self.ParseException("empty filter")
        return self._expand_range((toks[0], toks[1]))[:: int(toks[2])]

    def _star_steps(self, toks: Sequence[str | None]) -> list[int]:
        if not toks or not toks[0]:
            raise self.ParseException("empty filter")
        return self._expand_star()[:: int(toks[0])]

    def _expand_star(self, *args: Any) -> list[int]:
        return [*range(self.min_, self.min_ + self.max_)]

    def _expand_number(self, s: str) -> int:
        if isinstance(s, str) and s.startswith("-"):
            raise self.ParseException("negative numbers not supported")
        number = _number_of(s)
        highest = self.min_ + self.max_ - 1
        if number > highest:
            raise ValueError(f"Invalid end range: {number} > {highest}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number


def _number_of(word: str) -> int:
    """A number, or the number of a month or weekday, whatever the field."""
    readers: tuple[Callable[[str], int], ...] = (int, yearmonth, weekday)
    for read in readers:
        try:
            return read(word)
        except (ValueError, KeyError):
            continue
    raise ValueError(f"Invalid weekday literal {word!r}.")


def read_line(line: str) -> tuple[list[set[int]], bool]:
    """Read a cron line: the sets minute, hour, day of month, month, weekday, and whether either day will do.

    Raises ValueError for anything but five fields of numbers, names, ranges and steps, or an alias
    such as ``@daily``.
    """
    if re.search(r"(?<![a-z])[rhl](?![a-z])|#", line.lower()):
        raise ValueError(_unreadable(line, "'L', '#', 'R' and 'H' are not supported"))
    try:
        expanded: list[list[Any]] = _load_croniter().expand(line)[0]
    except (ValueError, KeyError, AttributeError) as exc:
        raise ValueError(_unreadable(line, str(exc))) from exc
    if len(expanded) != 5:
        raise ValueError(_unreadable(line, f"it has {len(expanded)} fields"))
    ranges = (range(60), range(24), range(1, 32), range(1, 13), range(7))
    sets = [set(whole) if "*" in field else set(field) for field, whole in zip(expanded, ranges, strict=True)]
    either_day = "*" not in expanded[2] and "*" not in expanded[4]
    return sets, either_day


def _load_croniter() -> Any:
    # The one place that loads it: 15 ms that apps without lines of cron need not spend.
    return importlib.import_module("croniter").croniter


def _unreadable(line: str, reason: str) -> str:
    return f"schedule: expected a cron line of five fields such as '0 9 * * 1-5', got {line!r} ({reason})"
