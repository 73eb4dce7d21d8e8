"""The schedule of an app as an object: to be looked at, and edited while programs run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celerylite import _clock
from celerylite._call_keys import UNIQUE
from celerylite._custom_beat import refuse_custom
from celerylite._entries import Entry, call_entry, following, is_exact, read_entry, read_zone, row_name
from celerylite._outbox import Outbox
from celerylite._reconcile import app_name, read_schedule
from celerylite._specs import read_spec, write_spec
from celerylite._store import Outgoing, PeriodicRow
from celerylite._ticks import clock_ahead
from celerylite.schedules import BaseSchedule, schedule
from celerylite.utils.log import get_logger

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Schedule", "ScheduledTask")

logger = get_logger("celery.beat")

#: Seconds between two runs of an entry that is added, at most: a hundred years.
_LONGEST_S = 100 * 366 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledTask:
    """One entry of the schedule, and where it stands."""

    name: str
    task: str
    schedule: Any
    args: Any
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
    catch_up: str
    overlap: str
    #: ``code`` (it is as configured), ``changed`` (configured, and changed at run time) or ``added``.
    origin: str
    #: False: it is paused.
    enabled: bool
    last_run_at: datetime | None
    next_run_at: datetime | None
    total_run_count: int
    #: The id of the task that was sent last.
    last_task_id: str | None


class Schedule:
    """The beat schedule of an app: what `app.schedule` is. Thread-safe; every method may block.

    What is edited is committed when a method returns, lasts over restarts, and is taken over within a moment
    by every process that fires the schedule. None of them has to run here. With a ``beat_scheduler`` of the
    user's, which keeps its entries elsewhere, methods that edit raise ImproperlyConfigured.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def entries(self) -> dict[str, ScheduledTask]:
        """All entries by name: those configured in this program, and those added by any."""
        code, rows = self._code(), self._app.store.periodic()
        found = [self._describe(entry, rows.get(key), True) for key, entry in code.items()]
        for key, row in rows.items():
            if key not in code and row.spec is not None:
                entry = self._read(row)
                found += [] if entry is None else [self._describe(entry, row, False)]
        return {each.name: each for each in sorted(found, key=lambda each: each.name)}

    def get(self, name: str) -> ScheduledTask:
        """One entry. Raises LookupError."""
        key, code = row_name(name), self._code()
        row = self._row(key)
        return self._describe(self._entry(name, code, row), row, key in code)

    def add(
        self,
        name: str,
        *,
        task: Any,
        schedule: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        timezone: str | None = None,
        catch_up: str = "once",
        overlap: str = "allow",
        relative: bool = False,
    ) -> ScheduledTask:
        """Add an entry; it counts from now. The arguments are the keys of an entry in ``beat_schedule``.

        Raises ValueError when there is one of that name or the entry is not usable, TypeError when JSON
        cannot hold it.
        """
        values = {
            "task": getattr(task, "name", task),
            "schedule": schedule,
            "args": args,
            "kwargs": kwargs,
            "options": options,
            "timezone": timezone,
            "catch_up": catch_up,
            "overlap": overlap,
            "relative": relative,
        }
        refuse_custom(self._app)
        entry = _with_interval(read_entry(self._app, name, values))
        row = PeriodicRow(
            name=entry.key,
            spec=write_spec(entry),
            last_run_at=self._now(),
            app=app_name(self._app),
            task=entry.task,
        )
        if entry.key in self._code() or not self._app.store.add_periodic([row]):
            raise ValueError(f"schedule: expected a new name, got {name!r}, which exists; use change()")
        return self.get(name)

    def change(self, name: str, **values: Any) -> ScheduledTask:
        """Change some keys of an entry; with a new schedule it counts from now and makes up for nothing.

        A new schedule that has no zone goes by the clocks of the old one; ``timezone=None`` is the app's. A
        configured entry then is as changed, whatever the configuration says, until `reset`. Raises
        LookupError, and as `add` does.
        """
        key, code = row_name(name), self._code()
        row = self._row(key)
        entry = self._entry(name, code, row)
        if "task" in values:
            values["task"] = getattr(values["task"], "name", values["task"])
        changed = _with_interval(read_entry(self._app, name, _with_changes(entry, values)))
        columns: dict[str, Any] = {"spec": write_spec(changed, key in code), "task": changed.task}
        if values.keys() & {"schedule", "timezone", "relative"}:
            columns["last_run_at"] = self._now()
        self._edit(name, row, columns)
        return self.get(name)

    def reset(self, name: str) -> ScheduledTask:
        """Make a configured entry what the configuration says again. Raises LookupError, ValueError."""
        key, code = row_name(name), self._code()
        row = self._row(key)
        self._entry(name, code, row)
        if key not in code:
            raise ValueError(f"schedule: expected an entry of beat_schedule, got {name!r}, which was added")
        self._edit(name, row, {"spec": None, "task": code[key].task, "last_run_at": self._now()})
        return self.get(name)

    def remove(self, name: str) -> None:
        """Remove an entry that was added. Raises LookupError, and ValueError for one that is configured."""
        refuse_custom(self._app)
        row = self._row(row_name(name))
        if row_name(name) in self._code() or (row is not None and row.spec is None):
            raise ValueError(
                f"schedule: expected an entry that was added at run time, got {name!r}, which is configured; "
                "remove it there, or pause it"
            )
        if not self._app.store.delete_periodic(row_name(name)):
            raise _unknown(name)

    def pause(self, name: str) -> None:
        """Stop an entry from firing until `resume`; a run of it that waits is dropped. Raises LookupError."""
        self._edit(name, self._known_row(name), {"enabled": False, "buffered_at": None})

    def resume(self, name: str) -> None:
        """Let an entry fire again, from now on: what it missed is not made up for. Raises LookupError."""
        self._edit(name, self._known_row(name), {"enabled": True, "last_run_at": self._now()})

    def run_now(self, name: str) -> Any:
        """Send the task of an entry at once, paused or not, and return its AsyncResult.

        Its regular runs stay where they are. Raises LookupError, and what sending raises.
        """
        key = row_name(name)
        row = self._row(key)
        entry = self._entry(name, self._code(), row)
        now = self._now()
        with Outbox() as box:
            result = call_entry(self._app, entry, now)
        self._app.store.tick(
            key,
            now,
            [Outgoing(message=message) for message in box.messages],
            ran_at=now if row is None else row.last_run_at,
            next_run_at=None if row is None else row.next_run_at,
            app=app_name(self._app),
        )
        sent = self._row(key)
        if sent is not None and any(UNIQUE in message.headers for message in box.messages):
            result.id = sent.last_task_id  # Of a duplicate, the task that holds its key.
        return result

    # -- behind the methods ----------------------------------------------------------------------------

    def _now(self) -> float:
        """The time that the schedule goes by in every process."""
        return _clock.time() + clock_ahead(self._app.store)

    def _code(self) -> dict[str, Entry]:
        self._app.finalize()
        return read_schedule(self._app)[0]

    def _row(self, key: str) -> PeriodicRow | None:
        return self._app.store.periodic([key]).get(key)

    def _known_row(self, name: str) -> PeriodicRow | None:
        key = row_name(name)
        row = self._row(key)
        if row is None and key not in self._code():
            raise _unknown(name)
        return row

    def _entry(self, name: str, code: Mapping[str, Entry], row: PeriodicRow | None) -> Entry:
        if row is not None and row.spec is not None:
            return read_spec(self._app, name, row.spec)
        if row_name(name) not in code:
            raise _unknown(name)
        return code[row_name(name)]

    def _read(self, row: PeriodicRow) -> Entry | None:
        try:
            return read_spec(self._app, row.name, row.spec or "")
        except Exception:
            logger.exception("beat: Cannot use the entry %r of the database, leaving it out.", row.name)
            return None

    def _edit(self, name: str, row: PeriodicRow | None, columns: Mapping[str, Any]) -> None:
        refuse_custom(self._app)
        store, key = self._app.store, row_name(name)
        if row is None:
            # Configured, and no program has fired the schedule yet.
            store.add_periodic([PeriodicRow(name=key, last_run_at=self._now(), app=app_name(self._app))])
        if not store.edit_periodic(key, **columns):
            raise _unknown(name)

    def _describe(self, entry: Entry, row: PeriodicRow | None, configured: bool) -> ScheduledTask:
        row = row or PeriodicRow(name=entry.key)
        edited = self._read(row) if row.spec is not None else None
        entry = edited or entry
        changed = "changed" if configured else "added"
        return ScheduledTask(
            **{field.name: getattr(entry, field.name) for field in fields(entry)},
            origin=changed if row.spec is not None else "code",
            enabled=row.enabled,
            # Until it has run, the row holds the moment from which it counts.
            last_run_at=_moment(row.last_run_at) if row.total_run_count else None,
            next_run_at=_moment(_next_run(entry, row)),
            total_run_count=row.total_run_count,
            last_task_id=row.last_task_id,
        )


def _with_changes(entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an entry, of which `values` are changed; the zone and `relative` are in its schedule."""
    when = entry.schedule
    keys = {field.name: getattr(entry, field.name) for field in fields(entry) if field.name != "name"}
    keys["timezone"] = getattr(when, "_zone", None)  # A class of the user's may derive from none of ours.
    if "timezone" in values and isinstance(when, BaseSchedule):
        keys["schedule"] = when.moved_to(read_zone(entry.name, values["timezone"]))
    if type(when) is schedule and when.nowfun is None:
        keys |= {"schedule": when.run_every, "relative": when.relative}
    return {**keys, **values}


def _with_interval(entry: Entry) -> Entry:
    """The entry, unless it would be due all the time, or never while anybody lives. Raises ValueError."""
    when = entry.schedule
    if isinstance(when, schedule) and not 0 < when.run_every.total_seconds() <= _LONGEST_S:
        raise ValueError(
            f"schedule: expected an interval above 0 seconds for {entry.name!r}, and of 100 years at most, "
            f"got {when.run_every.total_seconds():g}; give the seconds between two runs"
        )
    return entry


def _next_run(entry: Entry, row: PeriodicRow) -> float | None:
    if not row.enabled:
        return None
    if row.last_run_at is not None and is_exact(entry.schedule):
        return following(entry.schedule, row.last_run_at)
    return row.next_run_at


def _moment(timestamp: float | None) -> datetime | None:
    try:
        return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # After the year 9999.


def _unknown(name: str) -> LookupError:
    return LookupError(f"schedule: expected the name of an entry, got {name!r}; entries() has them all")
