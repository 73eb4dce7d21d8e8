"""One entry of the beat schedule as a record: read from the configuration, and when it is due."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import total_ordering
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfoNotFoundError

from kombu.utils.functional import reprcall

from celerylite.schedules import BaseSchedule, crontab, maybe_schedule, schedule
from celerylite.utils.time import timezone

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "CATCH_UP",
    "OVERLAP",
    "BeatLazyFunc",
    "Entry",
    "ScheduleEntry",
    "call_entry",
    "cleanup_entry",
    "evaluate_args",
    "evaluate_kwargs",
    "following",
    "is_exact",
    "latest",
    "read_entry",
    "read_zone",
    "row_name",
)

#: What becomes of runs that were missed: the most recent one is made up for, none, or all of them.
CATCH_UP = ("once", "skip", "all")
#: What happens when a run comes due while the one before has not ended.
OVERLAP = ("allow", "skip", "buffer_one")

_LONGEST_NAME = 255

_KEYS = {"task", "schedule", "args", "kwargs", "options", "relative"}
_OUR_KEYS = {"timezone", "catch_up", "overlap"}
#: Where a `beat.ScheduleEntry` has more than the configuration does.
_ATTRIBUTES_OF_ENTRIES = {"app", "name", "last_run_at", "total_run_count"}


class BeatLazyFunc:
    """A function in the `args` or `kwargs` of an entry that is called whenever the task is sent.

    ``'kwargs': {'today': BeatLazyFunc(date.today)}``
    """

    __module__ = "celerylite.beat"

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._func_params: dict[str, Any] = {"args": args, "kwargs": kwargs}

    def __call__(self) -> Any:
        return self.delay()

    def delay(self) -> Any:
        """The value of the function now."""
        return self._func(*self._func_params["args"], **self._func_params["kwargs"])


def evaluate_args(args: Any) -> list[Any]:
    """The arguments to send: lazy ones are called now."""
    return [arg() if isinstance(arg, BeatLazyFunc) else arg for arg in args or ()]


def evaluate_kwargs(kwargs: Any) -> dict[str, Any]:
    """The keyword arguments to send: lazy ones are called now."""
    return {key: arg() if isinstance(arg, BeatLazyFunc) else arg for key, arg in (kwargs or {}).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What to send, and when."""

    name: str
    task: str
    schedule: BaseSchedule
    args: Any = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    catch_up: str = "once"
    overlap: str = "allow"

    @property
    def key(self) -> str:
        """The name as the database has it."""
        return row_name(self.name)


def row_name(name: str) -> str:
    """A name in the form that fits the database's columns: the text of a signature may be longer."""
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: _LONGEST_NAME - 17]}-{digest}"


@total_ordering
class ScheduleEntry:
    """One entry of a schedule.

    Copies of an entry are made from its attributes by name (`next`), so a subclass that adds an attribute
    accepts it as an argument. The keys of our own that an entry may have are read here and honoured by the
    scheduler inside the process.
    """

    __module__ = "celerylite.beat"

    #: The key of the entry in its schedule.
    name: Any = None
    #: When to run.
    schedule: Any = None
    #: Positional arguments of the call.
    args: Any = None
    #: Keyword arguments of the call.
    kwargs: Any = None
    #: Options for `apply_async`.
    options: Any = None
    #: When the task was sent last.
    last_run_at: Any = None
    #: How often the task was sent.
    total_run_count: int = 0

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Any = (),
        kwargs: Any = None,
        options: Any = None,
        relative: bool = False,
        app: Celery | None = None,
        *,
        timezone: Any = None,
        catch_up: str | None = None,
        overlap: str | None = None,
    ) -> None:
        self.app: Any = app
        self.name = name
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options or {}
        when = maybe_schedule(schedule, relative, app=app, tz=timezone)
        self.schedule = when if timezone is None else when.in_zone(timezone)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0

    def default_now(self) -> datetime:
        """The current time by the clock of the schedule."""
        now: datetime = self.schedule.now() if self.schedule else self.app.now()
        return now

    _default_now = default_now

    def _next_instance(self, last_run_at: datetime | None = None) -> Any:
        """The entry as it is after one more run."""
        values = dict(self)
        values["last_run_at"] = last_run_at or self.default_now()
        values["total_run_count"] = self.total_run_count + 1
        return self.__class__(**values)

    __next__ = next = _next_instance

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (
            self.name,
            self.task,
            self.last_run_at,
            self.total_run_count,
            self.schedule,
            self.args,
            self.kwargs,
            self.options,
        )

    def update(self, other: Any) -> None:
        """Take what can be edited from another entry: task, schedule, arguments and options."""
        self.__dict__.update({name: getattr(other, name) for name in _EDITABLE})

    def is_due(self) -> Any:
        """Whether to run now, and in how many seconds to ask again."""
        return self.schedule.is_due(self.last_run_at)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __repr__(self) -> str:
        call = reprcall(self.task, self.args or (), self.kwargs or {})
        # As Celery: the bracket stays open.
        return f"<{type(self).__name__}: {self.name} {call} {self.schedule}"

    def __lt__(self, other: object) -> bool:
        if isinstance(other, ScheduleEntry):
            # Only asked when two entries of a heap are due at the same moment: any order will do.
            return id(self) < id(other)
        return NotImplemented

    def editable_fields_equal(self, other: Any) -> bool:
        """Whether the other entry sends the same at the same times."""
        return all(getattr(self, name) == getattr(other, name) for name in _EDITABLE)

    def __eq__(self, other: object) -> bool:
        return self.editable_fields_equal(other)

    __hash__ = None  # type: ignore[assignment]


_EDITABLE = ("task", "args", "kwargs", "options", "schedule")


def cleanup_entry() -> dict[str, Any]:
    """The entry ``celery.backend_cleanup``, which Celery adds by itself, in the form of the configuration."""
    return {
        "task": "celery.backend_cleanup",
        "schedule": crontab("0", "4", "*"),
        # A cleanup that could not start for half a day leaves the work to the next one.
        "options": {"expires": 12 * 3600},
    }


def read_zone(name: str, given: Any) -> tzinfo | None:
    """The time zone that an entry names; None is the app's. Raises ValueError for one that there is not."""
    try:
        return None if given is None else timezone.get_timezone(given)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"beat_schedule[{name!r}]: expected the name of a time zone such as Europe/Berlin, got {given!r}"
        ) from None


def read_entry(app: Celery, name: str, given: Any) -> Entry:
    """Read what the configuration says of an entry. Raises ValueError or TypeError when it is not usable."""
    try:
        values = dict(given)
    except (TypeError, ValueError):
        raise TypeError(f"beat_schedule[{name!r}]: expected a dict, got {given!r}") from None
    task = values.get("task")
    if not isinstance(task, str) or not task:
        raise TypeError(f"beat_schedule[{name!r}]: expected 'task' to be the name of a task, got {task!r}")
    unknown = set(values) - _KEYS - _OUR_KEYS - _ATTRIBUTES_OF_ENTRIES
    if unknown:
        raise TypeError(
            f"beat_schedule[{name!r}]: expected the keys {sorted(_KEYS | _OUR_KEYS)}, got {sorted(unknown)}"
        )
    zone = read_zone(name, values.get("timezone"))
    given_when = values.get("schedule")
    try:
        when = maybe_schedule(given_when, values.get("relative", False), app=app, tz=zone)
    except (OverflowError, ValueError):
        if not isinstance(given_when, float):
            raise
        raise ValueError(
            f"beat_schedule[{name!r}]: expected seconds that a timedelta can hold, got {given_when!r}"
        ) from None
    if not hasattr(when, "is_due"):
        raise TypeError(
            f"beat_schedule[{name!r}]: expected a schedule (seconds, a timedelta, crontab(...) or a line of "
            f"cron), got {values.get('schedule')!r}"
        )
    catch_up = _choice(name, "catch_up", values.get("catch_up", "once"), CATCH_UP)
    if catch_up != "once" and not is_exact(when):
        raise ValueError(
            f"beat_schedule[{name!r}]: catch_up {catch_up!r} is for crontabs and intervals, "
            f"got a {type(when).__name__}: leave it out"
        )
    overlap = _choice(name, "overlap", values.get("overlap", "allow"), OVERLAP)
    return Entry(
        name=str(name),
        task=task,
        schedule=when if zone is None else when.in_zone(zone),
        args=values.get("args") or (),
        kwargs=values.get("kwargs") or {},
        options=values.get("options") or {},
        catch_up=catch_up,
        overlap=overlap,
    )


def call_entry(app: Celery, entry: Entry, due_at: float) -> Any:
    """Call the task of an entry for the run of `due_at` (epoch seconds); what `apply_async` returns."""
    options = dict(entry.options)
    options["headers"] = {
        **(options.get("headers") or {}),
        "celery_beat_task": True,
        "celerylite_due_at": datetime.fromtimestamp(due_at, UTC).isoformat(),
    }
    args, kwargs = evaluate_args(entry.args), evaluate_kwargs(entry.kwargs)
    task = app.tasks.get(entry.task)
    if task is not None:
        return task.apply_async(args, kwargs, **options)
    return app.send_task(entry.task, args, kwargs, **options)


def _choice(name: str, key: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"beat_schedule[{name!r}]: expected {key} to be one of {allowed}, got {value!r}")
    return str(value)


def is_exact(when: BaseSchedule) -> bool:
    """Whether the moments of the schedule follow from the last run alone, the same in every process.

    Of anything else (solar events, intervals that are rounded, classes of users) only `is_due` is known.
    """
    if isinstance(when, crontab):
        return when.nowfun is None and _keeps(when, crontab)
    if isinstance(when, schedule):
        steady = not when.relative and when.seconds > 0
        return when.nowfun is None and _keeps(when, schedule) and steady
    return False


def _keeps(when: BaseSchedule, base: type[BaseSchedule]) -> bool:
    """Whether the class of the schedule leaves the methods of `base` that decide as they are."""
    cls = type(when)
    return cls.is_due is base.is_due and cls.remaining_estimate is base.remaining_estimate


def following(when: BaseSchedule, last_run_at: float) -> float:
    """When an exact schedule comes due after a run (both epoch seconds)."""
    if isinstance(when, crontab):
        return when.next_run_after(datetime.fromtimestamp(last_run_at, UTC)).timestamp()
    assert isinstance(when, schedule)
    return last_run_at + when.seconds


def latest(when: BaseSchedule, due_at: float, now: float) -> float:
    """The last moment of an exact schedule, of which `due_at` is one, that is not later than `now`."""
    if isinstance(when, schedule):
        return due_at + (now - due_at) // when.seconds * when.seconds
    # Looking back ever further finds the neighbourhood at once, however many runs were missed.
    back = 120.0
    while now - back > due_at and following(when, now - back) > now:
        back *= 2
    found, candidate = due_at, following(when, now - back)
    while candidate <= now:
        found = max(found, candidate)
        candidate = following(when, candidate)
    return found
