"""The scheduler inside the process: publishes what is due, each tick once over all processes."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from celerylite import _clock, signals
from celerylite._entries import (
    Entry,
    cleanup_entry,
    evaluate_args,
    evaluate_kwargs,
    following,
    is_exact,
    latest,
    read_entry,
    row_name,
)
from celerylite._message import Message
from celerylite._outbox import Outbox
from celerylite._store import Outgoing, PeriodicRow, Store
from celerylite.schedules import schedule
from celerylite.utils.log import get_logger
from celerylite.utils.time import humanize_seconds

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Ticker",)

logger = get_logger("celery.beat")

#: A tick that is no later than this was in time: an interval then keeps its rhythm instead of drifting.
_IN_TIME_S = 1.0
#: With ``catch_up='skip'`` a tick that is later than this, or than its interval, was missed.
_MISSED_S = 10.0
#: How long a process that lost its last tick lets the others go first.
_STANDBY_S = 0.25
#: How often to read what other processes changed in the database, unless ``beat_max_loop_interval`` says.
_REFRESH_S = 60.0
#: After an error of the database, and for an entry whose schedule raises.
_RETRY_S = 5.0
#: The clocks of two hosts differ by less; a last run further ahead comes from a clock that was set back.
_SKEW_S = 300.0
#: The pause of a schedule that says it is always due.
_AT_ONCE_S = 0.01
#: Missed runs published in one go with ``catch_up='all'``; the others follow at once.
_BATCH = 100


@dataclass(slots=True, kw_only=True)
class _Standing:
    """Where an entry stands, as far as this process knows. Times are epoch seconds."""

    entry: Entry
    last_run_at: float
    #: When it comes due.
    due_at: float
    #: When to look at it: `due_at`, or later when something failed.
    wake_at: float
    enabled: bool = True
    #: Its row was made by this process, at the same time perhaps as by another one.
    unconfirmed: bool = False
    #: Ticks up to here are dealt with, whatever the database says of the last run.
    passed_at: float = float("-inf")


class _Tick(NamedTuple):
    """One run to publish."""

    #: What is unique for the run, the same in every process.
    key: float
    due_at: float
    #: The last run to note with it.
    ran_at: float


class _Plan(NamedTuple):
    """What a due entry leads to."""

    ticks: tuple[_Tick, ...]
    last_run_at: float
    #: When to look at the entry again.
    next_at: float


class Ticker:
    """Publishes the entries of ``app.conf.beat_schedule`` when they are due.

    Plain synchronous code without thread or loop: whoever owns it calls `fire_due` when `next_due` has come.
    All methods but `next_due` may block on the database; all are thread-safe. In memory is a heap of due
    times, so that a tick costs what is due, not what there is. The truth is in the database: the unique pair
    (entry, due time) and the last run, both written in the transaction that publishes.

    Of several processes one publishes while the others stand by: they look a moment later whether it did,
    so that publish handlers of losers do not run and a tick is late by that moment when a process has died.

    `outgoing` makes what the store is given of a message, so that the owner can claim it.
    """

    def __init__(
        self, app: Celery, store: Store, outgoing: Callable[[Message], Outgoing] | None = None
    ) -> None:
        self.app = app
        self.store = store
        self._outgoing = outgoing or _unclaimed
        self._mutex = threading.RLock()
        self._standings: dict[str, _Standing] = {}
        self._heap: list[tuple[float, str]] = []
        self._standby = False
        self._announced = False
        self._refresh_at = 0.0

    # -- the owner's interface -----------------------------------------------------------------------

    def start(self) -> None:
        """Load the schedule and reconcile it with the database.

        The first time the beat signals are sent, as for a beat embedded in a worker. Repeatable.
        """
        if not self._announced:
            self._announced = True
            logger.info("beat: Starting...")
            signals.beat_init.send(sender=self)
            signals.beat_embedded_init.send(sender=self)
        self.reload()

    def reload(self) -> None:
        """Take the schedule from the configuration again: new, changed and removed entries."""
        with self._mutex:
            entries, broken = self._read_entries()
            rows = self.store.periodic()
            now = _clock.time()
            for name in self._standings.keys() - entries.keys():
                del self._standings[name]
            for entry in entries.values():
                known = self._standings.get(entry.key)
                if known is None or known.entry != entry:
                    self._add(entry, rows.get(entry.key), now)
            for name, row in rows.items():
                # Rows with a definition of their own were added at run time: they are not ours to remove.
                if row.spec is None and name not in entries and name not in broken:
                    self.store.delete_periodic(name)
            self._refresh_at = now + self._refresh_every()

    def next_due(self) -> float | None:
        """When to call `fire_due` (epoch seconds); None without any entry."""
        if not self._standings:
            return None
        now = _clock.time()
        if self._was_set_back(now):
            return now
        due = self._heap[0][0] + self._delay() if self._heap else self._refresh_at
        return min(due, self._refresh_at)

    def fire_due(self, now: float) -> int:
        """Publish what is due at `now` (epoch seconds); returns how many messages went out."""
        with self._mutex:
            until = now - self._delay()
            due = self._pop_due(until)
            self._refresh_before(due, now)
            sent = 0
            for standing in due:
                if standing.wake_at <= until:
                    sent += self._fire(standing, now)
                self._push(standing)
            return sent

    def _refresh_before(self, due: list[_Standing], now: float) -> None:
        """Read what others have written, if it matters now. Without the database nothing is due."""
        if not self._wants_refresh(due, now):
            return
        try:
            self._refresh(now)
        except Exception:
            logger.exception(
                "beat: Cannot read the last runs, trying again in %s.", humanize_seconds(_RETRY_S)
            )
            self._refresh_at = now + _RETRY_S
            for standing in due:
                standing.wake_at = now + _RETRY_S

    def close(self) -> None:
        """Called when the process ends. What there is to know is in the database already."""

    def _wants_refresh(self, due: list[_Standing], now: float) -> bool:
        if now >= self._refresh_at or self._was_set_back(now):
            return True
        return any(self._standby or standing.unconfirmed for standing in due)

    def _was_set_back(self, now: float) -> bool:
        """Whether the clock is so far behind what was planned that it must have been changed."""
        return self._refresh_at > now + self._refresh_every() + _SKEW_S

    # -- the heap ------------------------------------------------------------------------------------

    def _delay(self) -> float:
        return _STANDBY_S if self._standby else 0.0

    def _push(self, standing: _Standing) -> None:
        heapq.heappush(self._heap, (standing.wake_at, standing.entry.key))

    def _pop_due(self, until: float) -> list[_Standing]:
        """Take what wakes no later than `until` off the heap, and what it has outlived."""
        due: dict[str, _Standing] = {}
        while self._heap and self._heap[0][0] <= until:
            wake_at, name = heapq.heappop(self._heap)
            standing = self._standings.get(name)
            # An entry that was removed or moved has left its old place in the heap behind.
            if standing is not None and standing.wake_at == wake_at:
                due[name] = standing
        return list(due.values())

    # -- the configuration and the database ------------------------------------------------------------

    def _read_entries(self) -> tuple[dict[str, Entry], set[str]]:
        """The usable entries and the names of the others, by the names that the database has for them."""
        conf = self.app.conf
        given = dict(conf.beat_schedule or {})
        if conf.result_expires and not self.app.backend.supports_autoexpire:
            given.setdefault("celery.backend_cleanup", cleanup_entry())
        entries, broken = {}, set()
        for name, values in given.items():
            try:
                entry = read_entry(self.app, name, values)
                entries[entry.key] = entry
            except Exception:
                # One entry that cannot be used must not stop the others.
                logger.exception("beat: Cannot use the entry %r of the schedule, leaving it out.", name)
                broken.add(row_name(str(name)))
        return entries, broken

    def _add(self, entry: Entry, row: PeriodicRow | None, now: float) -> None:
        # As Celery: what has never run counts from the moment it was first seen.
        known = row or PeriodicRow(name=entry.key, last_run_at=now)
        standing = _Standing(
            entry=entry,
            last_run_at=now,
            due_at=now,
            wake_at=now,
            enabled=known.enabled,
            unconfirmed=row is None,
        )
        if row is None:
            self.store.save_periodic(known)
        self._take_over(standing, known, now)
        self._standings[entry.key] = standing
        self._schedule_next(standing, now)
        self._push(standing)

    def _take_over(self, standing: _Standing, row: PeriodicRow, now: float) -> bool:
        """Believe the database about the last run; returns whether that is news."""
        last_run_at = now if row.last_run_at is None else row.last_run_at
        if last_run_at > now + _SKEW_S:
            # The clock was ahead when this was written. Believing it would silence the entry until then.
            last_run_at = now
            self.store.save_periodic(replace(row, last_run_at=now))
            standing.passed_at = float("-inf")
        if last_run_at == standing.last_run_at or last_run_at < standing.passed_at:
            return False
        standing.last_run_at = last_run_at
        return True

    def _refresh(self, now: float) -> None:
        """Take over what other processes have written."""
        rows = self.store.periodic()
        for name, standing in self._standings.items():
            row = rows.get(name)
            if row is None:
                continue  # Another program's reconciling removed it; our next run writes it again.
            standing.unconfirmed = False
            standing.enabled = row.enabled
            if self._take_over(standing, row, now):
                self._schedule_next(standing, now)
                self._push(standing)
        self._refresh_at = now + self._refresh_every()

    def _refresh_every(self) -> float:
        seconds: float = self.app.conf.beat_max_loop_interval or _REFRESH_S
        return seconds

    # -- one entry -----------------------------------------------------------------------------------

    def _schedule_next(self, standing: _Standing, now: float) -> None:
        """Set when the entry comes due after its last run. Does not raise."""
        try:
            standing.due_at = standing.wake_at = self._due_after(standing, now)
        except Exception:
            logger.exception(
                "beat: Cannot calculate the next run of %r, trying again in %s.",
                standing.entry.name,
                humanize_seconds(self._refresh_every()),
            )
            standing.due_at, standing.wake_at = now, now + self._refresh_every()

    def _due_after(self, standing: _Standing, now: float) -> float:
        when = standing.entry.schedule
        if is_exact(when):
            return following(when, standing.last_run_at)
        due, wait_s = when.is_due(datetime.fromtimestamp(standing.last_run_at, UTC))
        return now if due else now + (wait_s if wait_s is not None else self._refresh_every())

    def _fire(self, standing: _Standing, now: float) -> int:
        """Publish one due entry as its policy says; the number of messages. Does not raise."""
        try:
            plan = self._plan(standing, now)
            published = [self._publish(standing.entry, tick, plan.next_at) for tick in plan.ticks]
        except Exception:
            logger.exception(
                "beat: Cannot publish the entry %r, trying again in %s.",
                standing.entry.name,
                humanize_seconds(_RETRY_S),
            )
            standing.wake_at = now + _RETRY_S
            return 0
        if plan.ticks:
            standing.passed_at = plan.ticks[-1].key
            self._standby = None in published
            if self._standby:
                # Whoever was first knows better when it ran.
                self._refresh_at = min(self._refresh_at, now)
        elif is_exact(standing.entry.schedule):
            standing.passed_at = standing.due_at
        standing.last_run_at = plan.last_run_at
        standing.due_at = standing.wake_at = plan.next_at
        return sum(count or 0 for count in published)

    # -- policies ------------------------------------------------------------------------------------

    def _plan(self, standing: _Standing, now: float) -> _Plan:
        """What to do about an entry that is due."""
        entry, due_at = standing.entry, standing.due_at
        if not is_exact(entry.schedule):
            return self._plan_by_asking(standing, now)
        if not standing.enabled or self._is_missed(entry, due_at, now):
            return _plan_from((), latest(entry.schedule, due_at, now), entry)
        if entry.catch_up == "all":
            return self._plan_all(entry, due_at, now)
        if isinstance(entry.schedule, schedule):
            # As Celery: a run that comes late moves those that follow. In time, the rhythm is kept.
            ran_at = due_at if now - due_at <= _IN_TIME_S else now
            return _plan_from((_Tick(due_at, due_at, ran_at),), ran_at, entry)
        tick = latest(entry.schedule, due_at, now)
        late = tick < self._starting_deadline(now)
        return _plan_from(() if late else (_Tick(tick, tick, now),), now, entry)

    def _plan_all(self, entry: Entry, due_at: float, now: float) -> _Plan:
        deadline = self._starting_deadline(now)
        if due_at < deadline:
            due_at = following(entry.schedule, latest(entry.schedule, due_at, deadline))
        ticks: list[_Tick] = []
        while due_at <= now and len(ticks) < _BATCH:
            ticks.append(_Tick(due_at, due_at, due_at))
            due_at = following(entry.schedule, due_at)
        return _plan_from(tuple(ticks), ticks[-1].ran_at if ticks else now, entry)

    def _plan_by_asking(self, standing: _Standing, now: float) -> _Plan:
        """Of such a schedule only `is_due` is known."""
        last_run_at = standing.last_run_at
        is_due, wait_s = standing.entry.schedule.is_due(datetime.fromtimestamp(last_run_at, UTC))
        next_at = now + max(self._refresh_every() if wait_s is None else wait_s, _AT_ONCE_S)
        if not is_due or not standing.enabled:
            return _Plan((), last_run_at, next_at)
        # "The run that follows the last one" is the same tick in every process; its moment may not be.
        return _Plan((_Tick(last_run_at, now, now),), now, next_at)

    def _is_missed(self, entry: Entry, due_at: float, now: float) -> bool:
        """Whether the tick is one that ``catch_up='skip'`` leaves out."""
        if entry.catch_up != "skip":
            return False
        interval_s = entry.schedule.seconds if isinstance(entry.schedule, schedule) else _MISSED_S
        return now - due_at > min(_MISSED_S, interval_s)

    def _starting_deadline(self, now: float) -> float:
        """The moment before which ticks are too old to be made up for."""
        deadline_s = self.app.conf.beat_cron_starting_deadline
        return float("-inf") if deadline_s is None else now - deadline_s

    # -- publishing ----------------------------------------------------------------------------------

    def _publish(self, entry: Entry, tick: _Tick, next_at: float) -> int | None:
        """Publish one tick: the number of messages, or None when another process has it."""
        if self.app.conf.task_always_eager:
            # The call is the run, so the tick has to be ours before it.
            if not self._take(entry, tick, next_at, ()):
                return None
            return len(self._messages(entry, tick.due_at)) or 1
        messages = self._messages(entry, tick.due_at)
        if not self._take(entry, tick, next_at, messages):
            return None
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        for message in messages:
            logger.debug("%s sent. id->%s", entry.task, message.id)
        return len(messages)

    def _take(self, entry: Entry, tick: _Tick, next_at: float, messages: Iterable[Message]) -> bool:
        outgoing = [self._outgoing(message) for message in messages]
        taken = self.store.tick(entry.key, tick.key, outgoing, ran_at=tick.ran_at, next_run_at=next_at)
        if not taken:
            logger.debug("beat: Another process has sent the due task %s (%s)", entry.name, entry.task)
        return taken

    def _messages(self, entry: Entry, due_at: float) -> list[Message]:
        """What a call of the entry's task publishes; nothing when it fails, which is logged."""
        options = dict(entry.options)
        options["headers"] = {
            **(options.get("headers") or {}),
            "celery_beat_task": True,
            "celerylite_due_at": datetime.fromtimestamp(due_at, UTC).isoformat(),
        }
        with Outbox() as box:
            try:
                self._call(entry, options)
            except Exception as exc:
                logger.exception("Message Error: %s", f"Couldn't apply scheduled task {entry.name}: {exc}")
        return box.messages

    def _call(self, entry: Entry, options: dict[str, Any]) -> None:
        args, kwargs = evaluate_args(entry.args), evaluate_kwargs(entry.kwargs)
        task = self.app.tasks.get(entry.task)
        if task is not None:
            task.apply_async(args, kwargs, **options)
        else:
            self.app.send_task(entry.task, args, kwargs, **options)


def _plan_from(ticks: tuple[_Tick, ...], last_run_at: float, entry: Entry) -> _Plan:
    """The plan after which an exact schedule goes on from `last_run_at`."""
    return _Plan(ticks, last_run_at, following(entry.schedule, last_run_at))


def _unclaimed(message: Message) -> Outgoing:
    return Outgoing(message=message)
