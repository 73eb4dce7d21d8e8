"""Schedules: when a periodic task runs next."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from celerylite import _cron
from celerylite._cron import ParseException, crontab_parser
from celerylite._state import current_app
from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils.time import (
    ffwd,
    humanize_seconds,
    localize,
    maybe_make_aware,
    maybe_timedelta,
    remaining,
    subtract_datetimes,
    timezone,
)

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
)

Cronspec = int | str | Iterable[int]

CRON_PATTERN_INVALID = "Invalid crontab pattern.  Valid range is {min}-{max}. '{value}' was found."

CRON_INVALID_TYPE = (
    "Argument cronspec needs to be of any of the following types: "
    "int, str, or an iterable type. {type!r} was given."
)

CRON_INVALID_DATE = (
    "Invalid crontab: day_of_month {day_of_month!r} never occurs in month_of_year {month_of_year!r}."
)

CRON_REPR = (
    "<crontab: {0._orig_minute} {0._orig_hour} {0._orig_day_of_month} {0._orig_month_of_year} "
    "{0._orig_day_of_week} (m/h/dM/MY/d)>"
)

#: The last day that each month can have.
CRON_DAYS_IN_MONTH = dict(enumerate((31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), start=1))

SOLAR_INVALID_LATITUDE = "Argument latitude {lat} is invalid, must be between -90 and 90."

SOLAR_INVALID_LONGITUDE = "Argument longitude {lon} is invalid, must be between -180 and 180."

SOLAR_INVALID_EVENT = 'Argument event "{event}" is invalid, must be one of {all_events}.'

SOLAR_EPHEM_NOT_INSTALLED = (
    "You need to install the ephem library to use solar schedules.\n"
    "Please install by:\n\n    $ pip install ephem\n\n(celery[solar] is the same library)"
)


class schedstate(NamedTuple):
    """What `is_due` answers."""

    is_due: bool
    #: Seconds after which it is worth asking again.
    next: float


def cronfield(s: Cronspec | None) -> Cronspec:
    """The field as it is shown: what was not given is a star."""
    return "*" if s is None else s


class BaseSchedule:
    """What all schedules have: an app, a source of the current time, and a time zone.

    nowfun  returns the current `datetime`; by default the app's `now`
    app     by default the current app
    tz      the zone whose clocks count, a name or a tzinfo; by default that of the app
    """

    nowfun: Callable[[], datetime] | None = None
    _app: Celery | None = None
    #: The zone of this schedule alone, if it has one.
    _zone: tzinfo | None = None

    def __init__(
        self,
        nowfun: Callable[[], datetime] | None = None,
        app: Celery | None = None,
        tz: str | tzinfo | None = None,
    ) -> None:
        self.nowfun = nowfun
        self._app = app
        if tz is not None:
            self.tz = self._zone = timezone.get_timezone(tz)

    def now(self) -> datetime:
        """The current time."""
        now: datetime = (self.nowfun or self.app.now)()
        return now

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until the run that follows one at `last_run_at`; negative when it is overdue."""
        raise NotImplementedError

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, given the last run, and in how many seconds to ask again."""
        raise NotImplementedError

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """`dt` with a time zone; a naive one is taken for UTC and converted to the zone of the schedule."""
        return maybe_make_aware(dt, self.tz, naive_as_utc=naive_as_utc)

    @property
    def app(self) -> Celery:
        """The app of the schedule, or the current one."""
        return self._app or current_app._get_current_object()

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    @cached_property
    def tz(self) -> tzinfo:
        """The zone whose clocks count."""
        zone: tzinfo = self.app.timezone
        return zone

    def in_zone(self, tz: str | tzinfo) -> Self:
        """This schedule, or a copy of it that goes by the clocks of `tz` if it has no zone of its own."""
        return self if self._zone is not None else self.moved_to(tz)

    def moved_to(self, tz: str | tzinfo | None) -> Self:
        """A copy that goes by the clocks of `tz` instead; None: by those of the app."""
        moved = copy.copy(self)
        moved._app = self._app
        moved._zone = None if tz is None else timezone.get_timezone(tz)
        moved.tz = self.app.timezone if moved._zone is None else moved._zone
        return moved

    @cached_property
    def utc_enabled(self) -> bool:
        """The setting ``enable_utc``."""
        enabled: bool = self.app.conf.enable_utc
        return enabled

    def to_local(self, dt: datetime) -> datetime:
        """`dt` as it is, or in the machine's zone when ``enable_utc`` is off."""
        return dt if self.utc_enabled else timezone.to_local_fallback(dt)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return other.nowfun == self.nowfun and other._zone == self._zone
        return NotImplemented

    # Schedules can be changed, so they have no hash; said here for subclasses that define neither.
    __hash__ = None  # type: ignore[assignment]


class schedule(BaseSchedule):
    """Runs every so often, counted from the last run.

    run_every  seconds or a timedelta
    relative   run at the full unit of the interval (hour, minute...) instead of counting from the last run
    """

    relative: bool = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Celery | None = None,
        *,
        tz: str | tzinfo | None = None,
    ) -> None:
        self.run_every: timedelta = maybe_timedelta(run_every)
        self.relative = relative
        super().__init__(nowfun=nowfun, app=app, tz=tz)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        return remaining(
            self.maybe_make_aware(last_run_at),
            self.run_every,
            self.maybe_make_aware(self.now()),
            self.relative,
        )

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, and in how many seconds to ask again.

        ``(True, 20)``: run now, ask again in 20 seconds. ``(False, 12.3)``: not yet, ask again in 12.3
        seconds. A scheduler may ask earlier: it never waits for longer than ``beat_max_loop_interval``.
        """
        last_run_at = self.maybe_make_aware(last_run_at)
        wait_s = max(self.remaining_estimate(last_run_at).total_seconds(), 0)
        if wait_s == 0:
            return schedstate(is_due=True, next=self._seconds_to_following_run(last_run_at))
        return schedstate(is_due=False, next=wait_s)

    def _seconds_to_following_run(self, last_run_at: datetime) -> float:
        if not self.relative:
            return self.seconds
        # A run that comes late, or a change of the clocks, must not push the next one off the full unit.
        now = self.maybe_make_aware(self.now()).astimezone(last_run_at.tzinfo)
        aligned = self.remaining_estimate(now).total_seconds()
        # As Celery: an interval below a second, zero or negative has no full unit ahead of it.
        return aligned if aligned > 0 else self.seconds

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return self.run_every == other.run_every
        # As Celery: a schedule equals the bare timedelta it was made from.
        return self.run_every == other

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        made = (self.__class__, (self.run_every, self.relative, self.nowfun))
        return made if self._zone is None else (*made, {"_zone": self._zone, "tz": self._zone})

    @property
    def seconds(self) -> float:
        """The interval in seconds, at least 0."""
        return max(self.run_every.total_seconds(), 0)

    @property
    def human_seconds(self) -> str:
        """The interval for people: ``2.00 hours``."""
        return humanize_seconds(self.seconds)


class crontab(BaseSchedule):
    """Runs at the minutes that five cron fields name.

    Each field is a number, a set or list of numbers, or an expression for `crontab_parser`:
    ``crontab(minute='*/15', hour='8-17', day_of_week='mon-fri')``. A field that is not given is a star:
    ``crontab(hour=7)`` runs every minute from 07:00 to 07:59. Sunday is day 0 of the week.

    A day must match `day_of_month`, `month_of_year` and `day_of_week`, all three (cron takes either of the
    day fields): ``day_of_week='mon', day_of_month='1-7'`` is the first Monday of each month.

    With `tz` the fields are read on the clocks of that zone instead of the app's. When clocks change, a time
    of the day runs exactly once on each local day (a time that is skipped runs at the end of the gap); a
    star or a step in `minute` or `hour` keeps its rhythm in elapsed time.

    Raises ValueError for fields out of range and for dates that do not exist in any year.
    """

    #: As in cron lines, where one of the two day fields is enough.
    _either_day = False

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        self._orig_minute = cronfield(minute)
        self._orig_hour = cronfield(hour)
        self._orig_day_of_week = cronfield(day_of_week)
        self._orig_day_of_month = cronfield(day_of_month)
        self._orig_month_of_year = cronfield(month_of_year)
        self._orig_kwargs = kwargs
        self.hour = self._expand_cronspec(hour, 24)
        self.minute = self._expand_cronspec(minute, 60)
        self.day_of_week = self._expand_cronspec(day_of_week, 7)
        self.day_of_month = self._expand_cronspec(day_of_month, 31, 1)
        self.month_of_year = self._expand_cronspec(month_of_year, 12, 1)
        self._check_dates()
        super().__init__(**kwargs)

    @classmethod
    def from_string(cls, crontab: str) -> crontab:
        """Read ``minute hour day-of-month month day-of-week``, separated by single spaces.

        The fields mean what they mean to `crontab`; `maybe_schedule` reads a string as cron would.
        """
        minute, hour, day_of_month, month_of_year, day_of_week = crontab.split(" ")
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @staticmethod
    def _expand_cronspec(cronspec: Cronspec, max_: int, min_: int = 0) -> set[int]:
        """The numbers a field stands for, each checked to be from `min_` to `min_` + `max_` - 1."""
        if isinstance(cronspec, int):
            numbers = {cronspec}
        elif isinstance(cronspec, str):
            numbers = crontab_parser(max_, min_).parse(cronspec)
        elif isinstance(cronspec, set):
            numbers = cronspec
        elif isinstance(cronspec, Iterable):
            numbers = set(cronspec)
        else:
            raise TypeError(CRON_INVALID_TYPE.format(type=type(cronspec)))
        for number in numbers:
            if not min_ <= number < max_ + min_:
                raise ValueError(CRON_PATTERN_INVALID.format(min=min_, max=max_ - 1 + min_, value=number))
        return numbers

    def _check_dates(self) -> None:
        longest = max((CRON_DAYS_IN_MONTH[month] for month in self.month_of_year), default=0)
        if not any(day <= longest for day in self.day_of_month):
            raise ValueError(
                CRON_INVALID_DATE.format(
                    day_of_month=self._orig_day_of_month, month_of_year=self._orig_month_of_year
                )
            )

    def __repr__(self) -> str:
        return CRON_REPR.format(self)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_week,
            self._orig_day_of_month,
            self._orig_month_of_year,
        )
        return self.__class__, fields, self._state()

    def _state(self) -> dict[str, Any]:
        return self._orig_kwargs if self._zone is None else {**self._orig_kwargs, "tz": self._zone}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # The base class alone: a subclass may have arguments of its own, which it restores itself.
        super().__init__(**state)
        self._orig_kwargs = dict(state)

    def remaining_delta(
        self, last_run_at: datetime, tz: str | tzinfo | None = None, ffwd: Callable[..., Any] = ffwd
    ) -> tuple[datetime, Any, datetime]:
        """The last run, what to add to it to get the next run's local time, and the time now, in one zone.

        The sum cannot tell the two occurrences of a repeated hour apart: `remaining_estimate` can.
        """
        zone = timezone.get_timezone(tz or self.tz)
        last_run_at = self.maybe_make_aware(last_run_at).astimezone(zone)
        now = self.maybe_make_aware(self.now()).astimezone(zone)
        following = _cron.next_after(self._fields(), last_run_at, zone).astimezone(zone)
        delta = ffwd(
            year=following.year,
            month=following.month,
            day=following.day,
            hour=following.hour,
            minute=following.minute,
            second=0,
            microsecond=0,
        )
        return last_run_at, delta, now

    def remaining_estimate(self, last_run_at: datetime, ffwd: Callable[..., Any] = ffwd) -> timedelta:
        """How long until the run that follows one at `last_run_at`; negative when it is overdue."""
        now = self.maybe_make_aware(self.now()).astimezone(UTC)
        return self.next_run_after(last_run_at) - now

    def next_run_after(self, moment: datetime) -> datetime:
        """The first moment (UTC) that the fields name after the minute of `moment`."""
        return _cron.next_after(self._fields(), self.maybe_make_aware(moment), timezone.get_timezone(self.tz))

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, and in how many seconds to ask again.

        With ``beat_cron_starting_deadline`` (seconds) a run that was missed for longer than that is
        left out.
        """
        wait_s = self.remaining_estimate(last_run_at).total_seconds()
        if wait_s > 0:
            return schedstate(is_due=False, next=wait_s)
        due = wait_s == 0 or self._in_time()
        return schedstate(is_due=due, next=max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def _in_time(self) -> bool:
        """Whether the most recent of the missed runs is within the deadline."""
        deadline_s = self.app.conf.beat_cron_starting_deadline
        if deadline_s is None:
            return True
        now = self.maybe_make_aware(self.now()).astimezone(UTC)
        # A microsecond earlier, so that a run exactly at the deadline counts.
        since = now - timedelta(seconds=deadline_s, microseconds=1)
        return self.remaining_estimate(since) <= timedelta(0)

    def _fields(self) -> _cron.Fields:
        return _cron.Fields(
            minutes=self.minute,
            hours=self.hour,
            weekdays=self.day_of_week,
            days=self.day_of_month,
            months=self.month_of_year,
            rhythmic=_has_rhythm(self._orig_minute) or _has_rhythm(self._orig_hour),
            either_day=self._either_day,
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, crontab):
            return (
                other.month_of_year == self.month_of_year
                and other.day_of_month == self.day_of_month
                and other.day_of_week == self.day_of_week
                and other.hour == self.hour
                and other.minute == self.minute
                and other._either_day == self._either_day
                and super().__eq__(other)
            )
        return NotImplemented

    __hash__ = None


def _has_rhythm(field: Cronspec) -> bool:
    return isinstance(field, str) and ("*" in field or "/" in field)


class _cron_line(crontab):
    """A crontab written as a line of cron: cron's meaning of 7, of steps and of two day fields."""

    def __init__(self, line: str, **kwargs: Any) -> None:
        (minute, hour, day, month, day_of_week), self._either_day = _cron.read_line(line)
        super().__init__(minute, hour, day_of_week, day, month, **kwargs)
        self._line = line
        # Shown as it was written; an alias such as @daily has no fields to show.
        written = line.split()
        if len(written) == 5:
            self._orig_minute, self._orig_hour, self._orig_day_of_month = written[:3]
            self._orig_month_of_year, self._orig_day_of_week = written[3:]
        elif len(minute) == 60 or len(hour) == 24:
            self._orig_hour = "*"

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self._line,), self._state()


def maybe_schedule(
    s: float | timedelta | BaseSchedule | str | None,
    relative: bool = False,
    app: Celery | None = None,
    *,
    tz: str | tzinfo | None = None,
) -> Any:
    """The schedule that `s` stands for: seconds, a timedelta, a line of cron, or a schedule (or None).

    A line of cron such as ``'0 9 * * 1-5'`` means what it means to cron: 7 is Sunday too, and of two
    day fields either is enough. `tz` is the zone of what is made here.
    """
    if s is None:
        return None
    if isinstance(s, str):
        return _cron_line(s, app=app, tz=tz)
    if isinstance(s, (float, int)):
        s = timedelta(seconds=s)
    if isinstance(s, timedelta):
        return schedule(s, relative, app=app, tz=tz)
    s.app = app  # type: ignore[assignment]
    return s


class solar(BaseSchedule):
    """Runs when the sun rises, sets or passes a certain height, as seen from one place on earth.

    event  ``dawn_astronomical``, ``dawn_nautical``, ``dawn_civil``, ``sunrise``, ``solar_noon``,
           ``sunset``, ``dusk_civil``, ``dusk_nautical`` or ``dusk_astronomical``
    lat    degrees, north is positive
    lon    degrees, east is positive

    Needs the library ephem: ImproperlyConfigured without it. Raises ValueError for an unknown event or
    a place that is not on earth.
    """

    #: How ephem is asked for each event, and how many degrees the sun is above the horizon at it.
    _methods: ClassVar[dict[str, str]] = {
        "dawn_astronomical": "next_rising",
        "dawn_nautical": "next_rising",
        "dawn_civil": "next_rising",
        "sunrise": "next_rising",
        "solar_noon": "next_transit",
        "sunset": "next_setting",
        "dusk_civil": "next_setting",
        "dusk_nautical": "next_setting",
        "dusk_astronomical": "next_setting",
    }
    _all_events: ClassVar[set[str]] = set(_methods)
    _horizons: ClassVar[dict[str, str]] = {
        "dawn_astronomical": "-18",
        "dusk_astronomical": "-18",
        "dawn_nautical": "-12",
        "dusk_nautical": "-12",
        "dawn_civil": "-6",
        "dusk_civil": "-6",
        # The upper edge of the sun, seen through the air that bends its light.
        "sunrise": "-0:34",
        "sunset": "-0:34",
        "solar_noon": "0",
    }
    #: Twilight is measured at the centre of the sun.
    _use_center_l: ClassVar[dict[str, bool]] = {
        event: event.startswith(("dawn", "dusk")) for event in _methods
    }

    #: For how many days to look for an event that does not happen every day.
    max_search_days = 366

    def __init__(self, event: str, lat: float, lon: float, **kwargs: Any) -> None:
        self.ephem = _import_ephem()
        self.event = event
        self.lat = lat
        self.lon = lon
        super().__init__(**kwargs)
        if event not in self._all_events:
            names = ", ".join(sorted(self._all_events))
            raise ValueError(SOLAR_INVALID_EVENT.format(event=event, all_events=names))
        if not -90 <= lat <= 90:
            raise ValueError(SOLAR_INVALID_LATITUDE.format(lat=lat))
        if not -180 <= lon <= 180:
            raise ValueError(SOLAR_INVALID_LONGITUDE.format(lon=lon))
        self.method = self._methods[event]
        self.use_center = self._use_center_l[event]
        self.cal = self._observer()

    def _observer(self) -> Any:
        """Ephem's idea of somebody who stands at the place and waits for the event."""
        observer = self.ephem.Observer()
        # As text these are degrees; as numbers ephem takes them for radians.
        observer.lat, observer.lon = str(self.lat), str(self.lon)
        observer.horizon = self._horizons[self.event]
        observer.elev = observer.pressure = 0
        return observer

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.event, self.lat, self.lon)

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until the event that follows `last_run_at`.

        Where it does not happen within `max_search_days`, until it is worth looking again.
        """
        last = localize(self.maybe_make_aware(last_run_at), timezone.utc)
        self.cal.date = last
        following = self._next_event(self.ephem.Date(last)).datetime()
        return subtract_datetimes(self.maybe_make_aware(following), self.maybe_make_aware(self.now()))

    def _next_event(self, start: Any) -> Any:
        """The first event after `start`, or where the search for one ended (ephem's dates)."""
        sun = self.ephem.Sun()
        options = {"use_center": True} if self.use_center else {}
        for _ in range(self.max_search_days):
            try:
                return getattr(self.cal, self.method)(sun, start=start, **options)
            except self.ephem.CircumpolarError:
                # Far north and south the sun may stay up or down all day: look at the next one.
                start = self.cal.next_antitransit(sun, start=start)
        return start

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, and in how many seconds to ask again."""
        wait_s = max(self.remaining_estimate(last_run_at).total_seconds(), 0)
        if wait_s > 0:
            return schedstate(is_due=False, next=wait_s)
        return schedstate(is_due=True, next=max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, solar):
            return (other.event, other.lat, other.lon) == (self.event, self.lat, self.lon)
        return NotImplemented

    __hash__ = None


def _import_ephem() -> Any:
    """The one place that loads ephem, an optional dependency."""
    try:
        return importlib.import_module("ephem")
    except ImportError as exc:
        raise ImproperlyConfigured(SOLAR_EPHEM_NOT_INSTALLED) from exc
