"""The scheduler inside the process: publishes what is due, each tick once over all processes."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from celerylite import _clock, signals
from celerylite._entries import Entry, call_entry, following, is_exact, latest
from celerylite._message import Message
from celerylite._outbox import Outbox
from celerylite._reconcile import app_name, read_schedule, reconcile
from celerylite._specs import read_spec
from celerylite._store import SCHEDULE_TOPIC, Outgoing, Overlap, PeriodicRow, Store, Ticked
from celerylite.schedules import schedule
from celerylite.utils.log import get_logger
from celerylite.utils.time import humanize_seconds

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Ticker", "clock_ahead")

logger = get_logger("celery.beat")

#: A tick that is no later than this was in time: an interval then keeps its rhythm instead of drifting.
_IN_TIME_S = 1.0
#: With ``catch_up='skip'`` a tick that is later than this, or than its interval, was missed.
_MISSED_S = 10.0
#: How long a process that lost its last tick lets the others go first.
_STANDBY_S = 0.25
#: How often to read what other processes changed in the database, unless ``beat_max_loop_interval`` says.
_REFRESH_S = 300.0
#: After an error of the database, and for an entry whose schedule raises.
_RETRY_S = 5.0
#: A last run further ahead than this was noted before the clock was set back.
_SKEW_S = 10.0
#: A clock that differs by more from that of the database does not count: that of the database does.
_CLOCKS_DIFFER_S = 1.0
#: How often to look whether a run that waits for the one before can go.
_BUFFERED_S = 0.5
#: The pause of a schedule that says it is always due.
_AT_ONCE_S = 0.01
#: The pause of an interval of zero or less, of which nobody can mean that it never pauses.
_NO_INTERVAL_S = 1.0
#: Missed runs published in one go with ``catch_up='all'``; the others follow at once.
_BATCH = 100


@dataclass(slots=True, kw_only=True)
class _Standing:
    """Where an entry stands, as far as this process knows. Times are epoch seconds."""

    entry: Entry
    last_run_at: float
    #: When it comes due.
    due_at: float
    #: When to look at it: `due_at`, later when something failed, earlier when a run of it waits.
    wake_at: float
    enabled: bool = True
    #: Another process knows better: ask the database before anything else.
    unconfirmed: bool = False
    #: Ticks up to here are dealt with, whatever the database says of the last run.
    passed_at: float = float("-inf")
    #: The due time of a run that waits for the one before to end.
    buffered_at: float | None = None


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
        #: The entries of the configuration, by the names that the database has for them.
        self._code: dict[str, Entry] = {}
        #: The entries that were added or changed at run time, with the text that each was read from.
        self._specs: dict[str, tuple[str, Entry | None]] = {}
        self._standings: dict[str, _Standing] = {}
        self._heap: list[tuple[float, str]] = []
        self._standby = False
        self._announced = False
        self._refresh_at = 0.0
        #: The latest moment at which the schedule was looked at.
        self._seen_at = float("-inf")
        self._letters_read: set[int] = set()
        #: Seconds to add to the clock of this machine to get the one that all processes go by.
        self._ahead = 0.0

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
            self._code, broken = read_schedule(self.app)
            self._compare_clocks()
            now = self._now()
            rows = reconcile(self.app, self.store, self._code, broken, now)
            self._adopt(rows, now)
            self._refresh_at, self._seen_at = now + self._refresh_every(), now

    def look(self) -> bool:
        """Whether the schedule may have been edited since the last look.

        Then the next `fire_due` takes that over. Does not raise.
        """
        try:
            # All of them: one with a lower number may be committed after one with a higher number.
            letters = {letter.row for letter in self.store.letters({SCHEDULE_TOPIC})}
        except Exception:
            # Nobody knows. If the database is still away then, `fire_due` says so and tries again.
            logger.debug("beat: Cannot look for edits of the schedule", exc_info=True)
        else:
            known, self._letters_read = self._letters_read, letters
            if letters <= known:
                return False
        self._refresh_at = 0.0
        return True

    def next_due(self) -> float | None:
        """When to call `fire_due` (epoch seconds of this machine's clock); None without any entry."""
        if not self._standings and self._refresh_at:
            return None
        now = self._now()
        if self._was_set_back(now):
            return now - self._ahead
        due = self._heap[0][0] + self._delay() if self._heap else self._refresh_at
        return min(due, self._refresh_at) - self._ahead

    def is_firing(self, now: float) -> bool:
        """Whether something is due at `now` (epoch seconds) or just being published. Does not block."""
        # An entry that is being published is in no heap; whoever publishes holds the lock.
        if not self._mutex.acquire(blocking=False):
            return True
        try:
            due = self.next_due()
        finally:
            self._mutex.release()
        return due is not None and due <= now

    def fire_due(self, now: float) -> int:
        """Publish what is due at `now` (epoch seconds); returns how many messages went out."""
        with self._mutex:
            now += self._ahead
            if now >= self._refresh_at or self._was_set_back(now):
                self._try(self._refresh, now)
            self._seen_at = now
            until = now - self._delay()
            due = self._pop_due(until)
            sent = 0
            if self._is_sure_of(due, now):
                sent = sum(self._attend(standing, until, now) for standing in due)
            for standing in due:
                self._push(standing)
            return sent

    def close(self) -> None:
        """Called when the process ends. What there is to know is in the database already."""

    # -- what other processes know ---------------------------------------------------------------------

    def _is_sure_of(self, due: list[_Standing], now: float) -> bool:
        """Read what others have written of the entries, if it matters; without that nothing is due."""
        asked = [standing for standing in due if self._standby or standing.unconfirmed]
        if asked and not self._try(lambda now: self._confirm(asked, now), now):
            for standing in due:
                standing.wake_at = now + _RETRY_S
            return False
        return True

    def _try(self, read: Callable[[float], None], now: float) -> bool:
        try:
            read(now)
        except Exception:
            logger.exception(
                "beat: Cannot read the last runs, trying again in %s.", humanize_seconds(_RETRY_S)
            )
            self._refresh_at = now + _RETRY_S
            return False
        return True

    def _confirm(self, standings: list[_Standing], now: float) -> None:
        rows = self.store.periodic([standing.entry.key for standing in standings])
        for standing in standings:
            row = rows.get(standing.entry.key)
            if row is not None:
                self._take_over(standing, row, now)
            standing.unconfirmed = False

    def _refresh(self, now: float) -> None:
        """Take over what other processes have written."""
        self._compare_clocks()
        self._adopt(self.store.periodic(), now)
        self._refresh_at = now + self._refresh_every()

    def _compare_clocks(self) -> None:
        """Go by the database's clock if ours is off, so that all hosts agree on when a tick is due."""
        ahead = clock_ahead(self.store)
        if ahead and not self._ahead:
            logger.warning(
                "beat: The clock of this machine differs from the database's by %.1f seconds. The schedule "
                "goes by the database's; have both set by NTP.",
                -ahead,
            )
        self._ahead = ahead

    def _now(self) -> float:
        """The time that the schedule goes by."""
        return _clock.time() + self._ahead

    def _was_set_back(self, now: float) -> bool:
        """Whether it is so much earlier than it was that the clock must have been changed."""
        return now < self._seen_at - _SKEW_S

    def _refresh_every(self) -> float:
        seconds: float = self.app.conf.beat_max_loop_interval or _REFRESH_S
        return seconds

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

    # -- the schedule --------------------------------------------------------------------------------

    def _adopt(self, rows: Mapping[str, PeriodicRow], now: float) -> None:
        """Make the standings those of the configuration and of what was edited at run time."""
        entries = self._edited(rows)
        for name in self._standings.keys() - entries.keys():
            del self._standings[name]
        for name, entry in entries.items():
            row = rows.get(name) or PeriodicRow(name=name)
            standing = self._standings.get(name)
            if standing is None:
                standing = self._standings[name] = _Standing(
                    entry=entry, last_run_at=float("-inf"), due_at=now, wake_at=now
                )
            elif standing.entry is not entry and standing.entry != entry:
                standing.entry, standing.passed_at = entry, float("-inf")
                standing.last_run_at = float("-inf")
            self._take_over(standing, row, now)

    def _edited(self, rows: Mapping[str, PeriodicRow]) -> dict[str, Entry]:
        """The entries of the configuration with what was added and changed at run time."""
        entries = dict(self._code)
        texts = {name: row.spec for name, row in rows.items() if row.spec is not None}
        self._specs = {name: self._read_text(name, text) for name, text in texts.items()}
        for name, (_, entry) in self._specs.items():
            if entry is None:
                entries.pop(name, None)
            else:
                entries[name] = entry
        return entries

    def _read_text(self, name: str, text: str) -> tuple[str, Entry | None]:
        known = self._specs.get(name)
        if known is not None and known[0] == text:
            return known
        try:
            return text, read_spec(self.app, name, text)
        except Exception:
            logger.exception("beat: Cannot use the entry %r of the database, leaving it out.", name)
            return text, None

    def _take_over(self, standing: _Standing, row: PeriodicRow, now: float) -> None:
        """Believe the database."""
        standing.enabled = row.enabled
        if row.buffered_at != standing.buffered_at:
            standing.buffered_at = row.buffered_at
            self._rest(standing, now)
            self._push(standing)
        # As Celery: what has never run counts from the moment it was first seen.
        last_run_at = now if row.last_run_at is None else row.last_run_at
        if last_run_at > now + _SKEW_S:
            # The clock was ahead when this was written. Believing it would silence the entry until then.
            last_run_at = now
            self.store.edit_periodic(row.name, last_run_at=now)
            standing.passed_at = float("-inf")
        if last_run_at != standing.last_run_at and last_run_at >= standing.passed_at:
            standing.last_run_at = last_run_at
            self._schedule_next(standing, now)
            self._push(standing)

    # -- one entry -----------------------------------------------------------------------------------

    def _schedule_next(self, standing: _Standing, now: float) -> None:
        """Set when the entry comes due after its last run. Does not raise."""
        try:
            standing.due_at = self._due_after(standing, now)
        except Exception:
            logger.exception(
                "beat: Cannot calculate the next run of %r, trying again in %s.",
                standing.entry.name,
                humanize_seconds(self._refresh_every()),
            )
            standing.due_at = now + self._refresh_every()
        self._rest(standing, now)

    def _rest(self, standing: _Standing, now: float) -> None:
        """Set when to look at the entry again: when it is due, or when the run that waits may go."""
        standing.wake_at = standing.due_at
        if standing.buffered_at is not None and standing.enabled:
            standing.wake_at = min(standing.due_at, now + _BUFFERED_S)

    def _due_after(self, standing: _Standing, now: float) -> float:
        when = standing.entry.schedule
        if is_exact(when):
            return following(when, standing.last_run_at)
        due, wait_s = when.is_due(self._as_datetime(standing.last_run_at))
        return now if due else now + (wait_s if wait_s is not None else self._refresh_every())

    def _as_datetime(self, moment: float) -> datetime:
        """A moment for schedules, which compare it with the clock of this machine."""
        return datetime.fromtimestamp(moment - self._ahead, UTC)

    def _attend(self, standing: _Standing, until: float, now: float) -> int:
        """Publish what is due of an entry; the number of messages. Does not raise."""
        if standing.wake_at > until:
            return 0  # Another process has seen to it.
        try:
            sent = self._fire_buffered(standing) if standing.buffered_at is not None else 0
            if standing.due_at <= until:
                sent += self._fire(standing, now)
        except Exception:
            logger.exception(
                "beat: Cannot publish the entry %r, trying again in %s.",
                standing.entry.name,
                humanize_seconds(_RETRY_S),
            )
            standing.wake_at = now + _RETRY_S
            return 0
        if not standing.unconfirmed:
            self._rest(standing, now)
        return sent

    def _fire(self, standing: _Standing, now: float) -> int:
        """Publish a due entry as its policy says; the number of messages."""
        plan = self._plan(standing, now)
        published = [self._publish(standing, tick, plan.next_at) for tick in plan.ticks]
        if plan.ticks:
            standing.passed_at = plan.ticks[-1].key
            self._standby = None in published
        elif is_exact(standing.entry.schedule):
            standing.passed_at = standing.due_at
        standing.last_run_at = plan.last_run_at
        standing.due_at = plan.next_at
        if None in published:
            # Whoever was first knows better when it ran.
            standing.unconfirmed, standing.wake_at = True, now
        return sum(count or 0 for count in published)

    def _fire_buffered(self, standing: _Standing) -> int:
        """Publish the run that waited, if the one before it has ended; the number of messages."""
        entry = standing.entry
        if not standing.enabled or self._last_run_goes_on(standing):
            return 0
        due_at = standing.buffered_at
        if due_at is None:
            return 0  # Another process has sent it.
        messages = self._messages(entry, due_at) or []
        standing.buffered_at = None
        if not self.store.tick_buffered(entry.key, due_at, [self._outgoing(each) for each in messages]):
            standing.unconfirmed = True
            return 0
        self._log_sent(entry, messages)
        return len(messages)

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
        is_due, wait_s = standing.entry.schedule.is_due(self._as_datetime(last_run_at))
        when = standing.entry.schedule
        least_s = _NO_INTERVAL_S if isinstance(when, schedule) and when.seconds == 0 else _AT_ONCE_S
        next_at = now + max(self._refresh_every() if wait_s is None else wait_s, least_s)
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

    def _publish(self, standing: _Standing, tick: _Tick, next_at: float) -> int | None:
        """Publish one tick: the number of messages, or None when another process has it."""
        entry = standing.entry
        if self.app.conf.task_always_eager:
            # The call is the run, so the tick has to be ours before it.
            if not self._take(entry, tick, next_at, ()):
                return None
            return len(self._messages(entry, tick.due_at) or ()) or 1
        busy = entry.overlap != "allow" and (
            self._last_run_goes_on(standing) or standing.buffered_at is not None
        )
        # No handler of publishing shall see what is not published.
        messages = [] if busy else self._messages(entry, tick.due_at)
        failed, messages = messages is None, messages or []
        taken = self._take(entry, tick, next_at, messages, busy, counts=not failed)
        if taken is Ticked.ELSEWHERE:
            return None
        if taken is Ticked.HELD_BACK:
            return self._hold_back(standing, tick)
        if not failed:
            self._log_sent(entry, messages)
        return len(messages)

    def _hold_back(self, standing: _Standing, tick: _Tick) -> int:
        what, entry = "Skipping", standing.entry
        if entry.overlap == "buffer_one" and standing.buffered_at is None:
            what, standing.buffered_at = "Holding back", tick.key
        logger.info("Scheduler: %s due task %s (%s): its last run goes on", what, entry.name, entry.task)
        return 0

    def _log_sent(self, entry: Entry, messages: Iterable[Message]) -> None:
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        for message in messages:
            logger.debug("%s sent. id->%s", entry.task, message.id)

    def _last_run_goes_on(self, standing: _Standing) -> bool:
        row = self.store.periodic([standing.entry.key]).get(standing.entry.key)
        standing.buffered_at = None if row is None else row.buffered_at
        last_task_id = None if row is None else row.last_task_id
        return last_task_id is not None and self.store.is_outstanding(last_task_id)

    def _take(
        self,
        entry: Entry,
        tick: _Tick,
        next_at: float,
        messages: Iterable[Message],
        busy: bool = False,
        counts: bool = True,
    ) -> Ticked:
        taken = self.store.tick(
            entry.key,
            tick.key,
            [self._outgoing(message) for message in messages],
            ran_at=tick.ran_at,
            next_run_at=next_at,
            overlap=Overlap(entry.overlap),
            is_busy=busy,
            app=app_name(self.app),
            counts=counts,
        )
        if taken is Ticked.ELSEWHERE:
            logger.debug("beat: Another process has sent the due task %s (%s)", entry.name, entry.task)
        return taken

    def _messages(self, entry: Entry, due_at: float) -> list[Message] | None:
        """What a call of the entry's task publishes; None when it fails, which is logged."""
        with Outbox() as box:
            try:
                call_entry(self.app, entry, due_at)
            except Exception as exc:
                logger.exception("Message Error: %s", f"Couldn't apply scheduled task {entry.name}: {exc}")
                return None
        return box.messages


def clock_ahead(store: Store) -> float:
    """Seconds to add to this machine's clock to get the one that all processes go by. May block."""
    offset = store.clock_offset()
    return offset if abs(offset) > _CLOCKS_DIFFER_S else 0.0


def _plan_from(ticks: tuple[_Tick, ...], last_run_at: float, entry: Entry) -> _Plan:
    """The plan after which an exact schedule goes on from `last_run_at`."""
    return _Plan(ticks, last_run_at, following(entry.schedule, last_run_at))


def _unclaimed(message: Message) -> Outgoing:
    return Outgoing(message=message)
