"""Moments, spans, zones and rates."""

from __future__ import annotations

import logging
import numbers
import os
import random
import time as _time
from calendar import monthrange
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import timezone as _fixed_offset
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kombu.utils.functional import reprcall
from kombu.utils.objects import cached_property

from celerylite import _clock

from .functional import dictfilter
from .text import pluralize

__all__ = (
    "LocalTimezone",
    "timezone",
    "maybe_timedelta",
    "delta_resolution",
    "remaining",
    "rate",
    "weekday",
    "humanize_seconds",
    "maybe_iso8601",
    "is_naive",
    "add_seconds_to_datetime",
    "subtract_datetimes",
    "make_aware",
    "localize",
    "to_utc",
    "maybe_make_aware",
    "ffwd",
    "utcoffset",
    "adjust_timestamp",
    "get_exponential_backoff_interval",
)

logger = logging.getLogger(__name__)

ZERO = timedelta(0)
_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

DAYNAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
#: Sunday is 0.
WEEKDAYS = {name: index for index, name in enumerate(DAYNAMES)}

MONTHNAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
YEARMONTHS = {name: index for index, name in enumerate(MONTHNAMES, 1)}

#: What is missing of a date, by the length of what is there.
_REST_OF_DATE = {len("2024"): "-01-01", len("2024-01"): "-01"}

#: Unit of a rate to the seconds it has.
RATE_MODIFIER_MAP: dict[str, Callable[[float], float]] = {
    "s": lambda n: n,
    "m": lambda n: n / 60.0,
    "h": lambda n: n / 60.0 / 60.0,
}

#: Name and seconds, longest first.
TIME_UNITS: tuple[tuple[str, float], ...] = (
    ("day", 86400.0),
    ("hour", 3600.0),
    ("minute", 60.0),
    ("second", 1.0),
)


class LocalTimezone(tzinfo):
    """The zone of this machine as the C library knows it; for where its name cannot be found out."""

    _offset_cache: dict[timedelta, tzinfo] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self) -> None:
        self.STDOFFSET = timedelta(seconds=-_time.timezone)
        self.DSTOFFSET = timedelta(seconds=-_time.altzone) if _time.daylight else self.STDOFFSET
        self.DSTDIFF = self.DSTOFFSET - self.STDOFFSET
        super().__init__()

    def __repr__(self) -> str:
        return f"<LocalTimezone: UTC{int(self.DSTOFFSET.total_seconds() / 3600):+03d}>"

    def utcoffset(self, dt: datetime | None) -> timedelta:
        """Offset from UTC at that local moment."""
        return self.DSTOFFSET if self._isdst(dt) else self.STDOFFSET

    def dst(self, dt: datetime | None) -> timedelta:
        """How much of the offset is daylight saving."""
        return self.DSTDIFF if self._isdst(dt) else ZERO

    def tzname(self, dt: datetime | None) -> str:
        """Abbreviation of the zone at that local moment."""
        return _time.tzname[self._isdst(dt)]

    def fromutc(self, dt: datetime) -> datetime:
        """The moment with a fixed offset, as this zone cannot tell the halves of a repeated hour apart."""
        offset = timedelta(minutes=self.utcoffset(dt) // _MINUTE)
        tz = self._offset_cache.setdefault(offset, _fixed_offset(offset))
        return tz.fromutc(dt.replace(tzinfo=tz))

    def _isdst(self, dt: datetime | None) -> bool:
        if dt is None:
            return False
        wall = (dt.year, dt.month, dt.day, dt.hour, dt.minute, dt.second, dt.weekday(), 0, 0)
        return _time.localtime(_time.mktime(wall)).tm_isdst > 0


class _Zone:
    """The zones an app can be in, and moving moments between them."""

    def tz_or_local(self, tzinfo: tzinfo | str | None = None) -> tzinfo:
        """The zone given, or this machine's."""
        return self.local if tzinfo is None else self.get_timezone(tzinfo)

    def to_local(self, dt: datetime, local: Any = None, orig: tzinfo | None = None) -> datetime:
        """The moment in the zone `local`; a naive one is taken to be in `orig`, else in UTC."""
        if is_naive(dt):
            dt = make_aware(dt, orig or self.utc)
        return localize(dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """The moment in this machine's zone, as a fixed offset."""
        return dt.astimezone()

    def to_local_fallback(self, dt: datetime) -> datetime:
        """The moment in this machine's zone; a naive one is taken to be there already."""
        return make_aware(dt, self.local) if is_naive(dt) else localize(dt, self.local)

    def get_timezone(self, zone: str | tzinfo) -> tzinfo:
        """The zone of this name; a zone as it is."""
        return ZoneInfo(zone) if isinstance(zone, str) else zone

    @cached_property
    def local(self) -> tzinfo:
        """The zone of this machine."""
        return _machine_zone() or LocalTimezone()

    @cached_property
    def utc(self) -> tzinfo:
        """UTC, by name."""
        return self.get_timezone("UTC")


def _machine_zone() -> tzinfo | None:
    """The named zone of this machine from `TZ` or its files; None where there is none to be found."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if not name:
        name = _zone_of_link(Path("/etc/localtime")) or _first_line(Path("/etc/timezone"))
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        logger.warning("Failed to retrieve local timezone (%s): %s", type(exc).__name__, exc)
        return None


def _zone_of_link(link: Path) -> str:
    try:
        return str(link.resolve(strict=True)).partition("/zoneinfo/")[2]
    except OSError:
        return ""


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


timezone = _Zone()


def maybe_timedelta(delta: Any) -> Any:
    """A number of seconds as a span; anything else as it is."""
    return timedelta(seconds=delta) if isinstance(delta, numbers.Real) else delta  # type: ignore[arg-type]


def delta_resolution(dt: datetime, delta: timedelta) -> datetime:
    """The moment rounded down to the day, hour or minute: the largest that the span has at least once."""
    if delta >= _DAY:
        kept = 3
    elif delta >= _HOUR:
        kept = 4
    elif delta >= _MINUTE:
        kept = 5
    else:
        return dt
    fields = (dt.year, dt.month, dt.day, dt.hour, dt.minute)[:kept]
    # With its fold: an hour that comes twice stays the one it was.
    return datetime(*fields, tzinfo=dt.tzinfo, fold=dt.fold)  # type: ignore[arg-type,misc]


def remaining(
    start: datetime,
    ends_in: Any,
    now: datetime | None = None,
    relative: bool = False,
) -> timedelta:
    """How much real time is left until `ends_in` after `start`; negative when it is over.

    With `relative` the end is the last full day, hour or minute before that (see `delta_resolution`), but
    never `start` itself or earlier. Whole days are counted by the calendar, shorter spans by elapsed time.
    """
    now = now or _clock.utcnow()
    # In UTC, because Python subtracts wall clocks of equal zones, which is wrong across a change of offset.
    return _deadline(start, ends_in, relative).astimezone(UTC) - now.astimezone(UTC)


def _deadline(start: datetime, ends_in: Any, relative: bool) -> datetime:
    in_days = relative and ends_in >= _DAY
    if isinstance(ends_in, timedelta) and not in_days:
        end = add_seconds_to_datetime(start, ends_in.total_seconds())
    else:
        end = start + ends_in
    if not relative:
        return end
    start_utc = start.astimezone(UTC)
    boundaries = _boundaries(end, ends_in)
    if in_days:
        return min(_after(start_utc, boundaries), default=end.astimezone(UTC))
    latest = start_utc + ends_in
    rounded = max(_until(latest, boundaries), default=min(boundaries))
    if ends_in < _MINUTE or rounded > start_utc:
        return rounded
    # The clock was set back between start and end, so the boundary is not after the start: take the next one,
    # by the clock or by the calendar, whichever of their occurrences comes last before the end.
    unit = _HOUR if ends_in >= _HOUR else _MINUTE
    boundaries += _boundaries(end + unit, ends_in) + _boundaries(start + ends_in, ends_in)
    future = _after(start_utc, boundaries)
    return max(_until(latest, future), default=min(future, default=latest))


def _boundaries(dt: datetime, delta: timedelta) -> list[datetime]:
    """Both occurrences, in UTC, of the moment rounded down; a local time that is skipped is moved forward."""
    rounded = delta_resolution(dt, delta).replace(microsecond=0)
    return [_existing(rounded.replace(fold=fold)).astimezone(UTC) for fold in (0, 1)]


def _existing(dt: datetime) -> datetime:
    if dt.tzinfo is None or not _is_imaginary(dt, dt.tzinfo):
        return dt
    # Some zones take a time that is repeated for one that is skipped: that one would move backwards.
    return max(dt, _resolve_imaginary(dt))


def _after(moment: datetime, candidates: Iterable[datetime]) -> list[datetime]:
    return [candidate for candidate in candidates if candidate > moment]


def _until(moment: datetime, candidates: Iterable[datetime]) -> list[datetime]:
    return [candidate for candidate in candidates if candidate <= moment]


def rate(r: Any) -> Any:
    """How often per second: `"100/m"`, `"2/h"`, `"0.5/s"` or a number. 0 for nothing."""
    if not r:
        return 0
    if not isinstance(r, str):
        return r
    amount, _, unit = r.partition("/")
    return RATE_MODIFIER_MAP[unit or "s"](float(amount)) or 0


def weekday(name: str) -> int:
    """Number of a day by its name or first three letters; Sunday is 0. Raises KeyError."""
    return _by_abbreviation(WEEKDAYS, name)


def yearmonth(name: str) -> int:
    """Number of a month by its name or first three letters; January is 1. Raises KeyError."""
    return _by_abbreviation(YEARMONTHS, name)


def _by_abbreviation(numbers_by_name: dict[str, int], name: str) -> int:
    try:
        return numbers_by_name[name[:3].lower()]
    except KeyError:
        raise KeyError(name) from None


def humanize_seconds(
    secs: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False
) -> str:
    """Seconds for people: `humanize_seconds(7200, "in", " ")` is `in 2.00 hours`; less than one is `now`."""
    secs = round(float(secs), 2)
    for unit, seconds in TIME_UNITS:
        if secs >= seconds:
            amount = secs / seconds
            return f"{prefix}{sep}{amount:.2f} {pluralize(amount, unit)}"
    if microseconds and secs > 0:
        return f"{prefix}{sep}{secs:.2f} seconds"
    return now


def maybe_iso8601(dt: datetime | str | None) -> datetime | None:
    """A moment from ISO 8601 text; a moment as it is; nothing stays nothing. Raises ValueError."""
    if not dt:
        return None
    if isinstance(dt, datetime):
        return dt
    # A year or a month alone is one, too, but not for Python.
    return datetime.fromisoformat(dt + _REST_OF_DATE.get(len(dt), ""))


def is_naive(dt: datetime) -> bool:
    """Does it lack an offset?"""
    return dt.tzinfo is None or dt.tzinfo.utcoffset(dt) is None


def add_seconds_to_datetime(dt: datetime, seconds: float) -> datetime:
    """The moment so many real seconds later, in the same zone."""
    delta = timedelta(seconds=seconds)
    return dt + delta if is_naive(dt) else (dt.astimezone(UTC) + delta).astimezone(dt.tzinfo)


def subtract_datetimes(end: datetime, start: datetime) -> timedelta:
    """The real time between; naive moments are taken to be UTC."""
    return maybe_make_aware(end).astimezone(UTC) - maybe_make_aware(start).astimezone(UTC)


def _knows_folds(tz: tzinfo) -> bool:
    return isinstance(tz, ZoneInfo) or hasattr(tz, "is_ambiguous")


def _is_ambiguous(dt: datetime, tz: tzinfo) -> bool:
    """Does its offset depend on its fold? So it is for times that come twice and those that do not come."""
    if not _knows_folds(tz):
        return False
    by_zone = getattr(tz, "is_ambiguous", None)
    if by_zone is not None:
        return bool(by_zone(dt))
    first, second = dt.replace(tzinfo=tz, fold=0), dt.replace(tzinfo=tz, fold=1)
    return (first.utcoffset(), first.dst()) != (second.utcoffset(), second.dst())


def _is_imaginary(dt: datetime, tz: tzinfo) -> bool:
    """Is it skipped, because the clock is put forward?"""
    if not _knows_folds(tz):
        return False
    wall = dt.replace(tzinfo=None)
    try:
        there_and_back = dt.replace(tzinfo=tz).astimezone(UTC).astimezone(tz)
    except ValueError:  # a zone of the user's own, without offsets
        return False
    return there_and_back.replace(tzinfo=None) != wall


def _resolve_imaginary(dt: datetime) -> datetime:
    """The same local time had the clock not been put forward."""
    before, after = (dt - _DAY).utcoffset() or ZERO, (dt + _DAY).utcoffset() or ZERO
    return dt + (after - before)


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """The wall clock time in this zone; the first of two, and moved forward where it is skipped."""
    dt = dt.replace(tzinfo=tz)
    if not _is_ambiguous(dt, tz):
        return dt
    return _resolve_imaginary(dt) if _is_imaginary(dt, tz) else dt.replace(fold=0)


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """A moment in UTC as one in this zone; a naive one is taken to be there already."""
    if is_naive(dt):
        dt = make_aware(dt, tz)
    # As Celery: a moment in any other zone stays in its zone.
    return dt.astimezone(tz) if dt.tzinfo == ZoneInfo("UTC") else dt


def to_utc(dt: datetime) -> datetime:
    """A naive moment as one in UTC."""
    return make_aware(dt, timezone.utc)


def maybe_make_aware(dt: datetime, tz: tzinfo | str | None = None, naive_as_utc: bool = True) -> datetime:
    """A naive moment with a zone; one that has a zone as it is.

    It is taken to be UTC and moved to `tz`; with `naive_as_utc=False` it is taken to be in `tz`.
    """
    if not is_naive(dt):
        return dt
    zone = timezone.utc if tz is None else timezone.tz_or_local(tz)
    return localize(to_utc(dt) if naive_as_utc else dt, zone)


class ffwd:
    """Fields to set and weeks to add: `datetime(...) + ffwd(weeks=1, hour=0)`."""

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.year = year
        self.month = month
        self.weeks = weeks
        self.weekday = weekday
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
        self.microsecond = microsecond
        self.days = weeks * 7
        self._has_time = hour is not None or minute is not None

    def __repr__(self) -> str:
        return str(reprcall("ffwd", (), self._fields(weeks=self.weeks, weekday=self.weekday)))

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, date):
            return NotImplemented
        year, month = self.year or other.year, self.month or other.month
        day = min(monthrange(year, month)[1], self.day or other.day)
        result = other.replace(**{**self._fields(), "year": year, "month": month, "day": day})
        if self.weekday is not None:
            result += timedelta(days=(self.weekday - result.weekday()) % 7)
        return result + timedelta(days=self.days)

    def _fields(self, **extra: Any) -> dict[str, Any]:
        names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
        fields: dict[str, Any] = dictfilter({name: getattr(self, name) for name in names}, **extra)
        return fields


def utcoffset(
    time: ModuleType = _time, localtime: Callable[..., _time.struct_time] = _time.localtime
) -> float:
    """Hours from this machine's time to UTC, now: positive in the west."""
    seconds: float = time.altzone if localtime().tm_isdst else time.timezone
    return seconds / 3600


def adjust_timestamp(ts: float, offset: float, here: Callable[..., float] = utcoffset) -> float:
    """A time stamp from a machine whose `utcoffset` is `offset`, as one of this machine."""
    return ts - (offset - here()) * 3600


def get_exponential_backoff_interval(
    factor: int, retries: int, maximum: int, full_jitter: bool = False
) -> int:
    """Seconds to wait: `factor * 2 ** retries` up to `maximum`; `full_jitter` takes any less."""
    countdown: int = min(maximum, factor * (2**retries))
    if full_jitter:
        countdown = random.randrange(countdown + 1)
    return max(0, countdown)
