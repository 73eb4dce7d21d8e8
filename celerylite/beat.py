"""Celery's beat: schedulers and the service that drives one, as programs subclass and embed them."""

from __future__ import annotations

import copy
import dbm
import errno
import heapq
import os
import shelve
import traceback
from calendar import timegm
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pickle import UnpicklingError
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from kombu.common import ignore_errors
from kombu.utils.functional import maybe_evaluate
from kombu.utils.imports import symbol_by_name

from celerylite import _clock, signals
from celerylite._beat_pidbox import DEFAULT_MAX_INTERVAL, NODENAME_DEFAULT, BeatPidbox, beat_nodename
from celerylite._entries import BeatLazyFunc, ScheduleEntry, cleanup_entry, evaluate_args, evaluate_kwargs
from celerylite._ticks import Ticker
from celerylite.utils.functional import is_numeric_value
from celerylite.utils.imports import load_extension_class_names
from celerylite.utils.log import get_logger
from celerylite.utils.time import humanize_seconds, maybe_make_aware

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "SchedulingError",
    "ScheduleEntry",
    "Scheduler",
    "PersistentScheduler",
    "StoreScheduler",
    "Service",
    "BeatPidbox",
    "EmbeddedService",
    "BeatLazyFunc",
    "beat_nodename",
    "event_t",
    "DEFAULT_MAX_INTERVAL",
    "NODENAME_DEFAULT",
)

logger = get_logger("celery.beat")
debug, info, error, warning = logger.debug, logger.info, logger.error, logger.warning

#: Seconds between two looks of `StoreScheduler` at the clock.
_LOOK_AGAIN_S = 5.0

#: What a file of an older format lacks, or what cannot be read from it any more.
_UNREADABLE = (KeyError, UnicodeDecodeError, TypeError, UnpicklingError, ValueError)


class event_t(NamedTuple):
    """An entry's place in the heap of a scheduler."""

    #: Seconds since the epoch.
    time: float
    priority: int
    entry: Any


class SchedulingError(Exception):
    """A task that was due could not be sent."""


_evaluate_entry_args = evaluate_args
_evaluate_entry_kwargs = evaluate_kwargs


class Scheduler:
    """Sends the entries of a schedule when they are due; `tick` is called again and again.

    Subclasses keep their schedule elsewhere: they override `setup_schedule`, `schedule`, `sync`,
    `reserve`, `schedules_equal` or `apply_async`. With `lazy` nothing is set up.
    """

    Entry: ClassVar[Any] = ScheduleEntry

    #: Seconds that `tick` returns at most.
    max_interval: float = DEFAULT_MAX_INTERVAL
    #: Seconds between two calls of `sync`.
    sync_every: float = 3 * 60
    #: Sent tasks between two calls of `sync`; None does not count them.
    sync_every_tasks: int | None = None

    _last_sync: float | None = None
    _tasks_since_sync = 0
    _heap: Any = None

    logger = logger

    def __init__(
        self,
        app: Celery,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.data = maybe_evaluate({} if schedule is None else schedule)
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        self.Producer = Producer
        self._heap = None
        self.old_schedulers: Any = None
        self.sync_every_tasks = app.conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        if not lazy:
            self.setup_schedule()

    # -- the schedule --------------------------------------------------------------------------------

    def setup_schedule(self) -> None:
        """Fill the schedule from the configuration."""
        self.install_default_entries(self.data)
        self.merge_inplace(self.app.conf.beat_schedule)

    def install_default_entries(self, data: Any) -> None:
        """Add the daily clean-up of results, unless there is one or the backend expires them itself."""
        entries = {}
        wanted = self.app.conf.result_expires and not self.app.backend.supports_autoexpire
        if wanted and "celery.backend_cleanup" not in data:
            entries["celery.backend_cleanup"] = cleanup_entry()
        self.update_from_dict(entries)

    def add(self, **kwargs: Any) -> Any:
        """Add an entry to the schedule and return it."""
        entry = self.Entry(app=self.app, **kwargs)
        self.schedule[entry.name] = entry
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> Any:
        if isinstance(entry, self.Entry):
            entry.app = self.app
            return entry
        return self.Entry(**{**dict(entry), "name": name, "app": self.app})

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Add or replace entries."""
        self.schedule.update({name: self._maybe_entry(name, entry) for name, entry in dict_.items()})

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Make the schedule have the entries of `b`; what is in both keeps its last run."""
        schedule = self.schedule
        for name in set(schedule) - set(b):
            schedule.pop(name, None)
        for name in b:
            entry = self.Entry(**{**dict(b[name]), "name": name, "app": self.app})
            if schedule.get(name):
                schedule[name].update(entry)
            else:
                schedule[name] = entry

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Whether two schedules have equal entries under the same names; then the heap is kept."""
        if old_schedules is None or new_schedules is None:
            return old_schedules is new_schedules
        if set(old_schedules.keys()) != set(new_schedules.keys()):
            return False
        return all(new_schedules.get(name) == entry for name, entry in old_schedules.items())

    def get_schedule(self) -> Any:
        """The mapping of names to entries."""
        return self.data

    def set_schedule(self, schedule: Any) -> None:
        """Replace the mapping of names to entries."""
        self.data = schedule

    # Bound when they are asked for, so that overriding the two methods is enough.
    schedule = property(lambda self: self.get_schedule(), lambda self, schedule: self.set_schedule(schedule))

    # -- ticking -------------------------------------------------------------------------------------

    def tick(
        self,
        event_t: Any = event_t,
        min: Callable[..., Any] = min,
        heappop: Callable[..., Any] = heapq.heappop,
        heappush: Callable[..., Any] = heapq.heappush,
    ) -> float:
        """Send at most one due entry; returns in how many seconds to call again."""
        if self._heap is None or not self.schedules_equal(self.old_schedulers, self.schedule):
            self.old_schedulers = copy.copy(self.schedule)
            self.populate_heap()
        heap = self._heap
        if not heap:
            return self.max_interval
        event = heap[0]
        entry = event[2]
        if event[0] > (now := self._when(entry, 0)):
            return float(min(event[0] - now, self.max_interval))
        is_due, wait_s = self._ask(entry)
        top = heappop(heap)
        if top is not event:
            # The schedule was changed while the entry was asked: what is on top now goes first.
            heappush(heap, top)
            return float(min(top[0] - self._when(top[2], 0), self.max_interval))
        if is_due:
            following = self.reserve(entry)
            self.apply_entry(entry, producer=self.producer)
            heappush(heap, event_t(self._when(following, wait_s), event[1], following))
            return 0
        wait_s = wait_s if is_numeric_value(wait_s) else self.max_interval
        heappush(heap, event_t(self._when(entry, wait_s), event[1], entry))
        # Others may be due that stood behind this one.
        return 0 if heap[0][2] is not entry else float(min(self.adjust(wait_s), self.max_interval))

    def populate_heap(self, event_t: Any = event_t, heapify: Callable[[Any], None] = heapq.heapify) -> None:
        """Make the heap from the schedule."""
        self._heap = [self._event_of(entry, event_t) for entry in self.schedule.values()]
        heapify(self._heap)

    def _event_of(self, entry: Any, event_t: Any) -> Any:
        try:
            is_due, wait_s = entry.is_due()
        except Exception:
            is_due, wait_s = self._is_due_failed(entry)
        return event_t(self._when(entry, 0 if is_due else wait_s) or 0, 5, entry)

    def _ask(self, entry: Any) -> tuple[bool, Any]:
        try:
            is_due, wait_s = self.is_due(entry)
        except Exception:
            return self._is_due_failed(entry)
        return is_due, wait_s

    def _is_due_failed(self, entry: Any) -> tuple[bool, float]:
        # One entry whose schedule raises must not stop the others: it is asked again later.
        error(
            "beat: Cannot calculate the next run of %r, trying again in %s.",
            entry.name,
            humanize_seconds(self.max_interval),
            exc_info=True,
        )
        return False, self.max_interval

    def is_due(self, entry: Any) -> Any:
        """Whether to send the entry now, and in how many seconds to ask again."""
        return entry.is_due()

    def adjust(self, n: Any, drift: float = -0.010) -> Any:
        """Seconds to wait, less what waking up takes."""
        return n + drift if n and n > 0 else n

    def _when(self, entry: Any, next_time_to_run: Any, mktime: Callable[..., float] = timegm) -> float:
        """The moment in so many seconds, as seconds since the epoch."""
        now = maybe_make_aware(entry.default_now())
        return mktime(now.utctimetuple()) + now.microsecond / 1e6 + (self.adjust(next_time_to_run) or 0)

    def reserve(self, entry: Any) -> Any:
        """Note that the entry runs; returns the entry that takes its place."""
        following = self.schedule[entry.name] = next(entry)
        return following

    # -- sending -------------------------------------------------------------------------------------

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send the task of an entry that was reserved. Errors are logged."""
        info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except Exception as exc:
            error("Message Error: %s\n%s", exc, traceback.format_stack(), exc_info=True)
        else:
            if result and hasattr(result, "id"):
                debug("%s sent. id->%s", entry.task, result.id)
            else:
                debug("%s sent.", entry.task)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Send the task of an entry; with `advance` it is reserved first. Raises SchedulingError."""
        # Reserved before anything can fail, so that a task that cannot be sent is not tried without end.
        entry = self.reserve(entry) if advance else entry
        task = self.app.tasks.get(entry.task)
        try:
            task_args, task_kwargs = evaluate_args(entry.args), evaluate_kwargs(entry.kwargs)
            options = {**entry.options, "headers": {**(entry.options.get("headers") or {})}}
            options["headers"]["celery_beat_task"] = True
            if task:
                return task.apply_async(task_args, task_kwargs, producer=producer, **options)
            return self.send_task(entry.task, task_args, task_kwargs, producer=producer, **options)
        except Exception as exc:
            raise SchedulingError(f"Couldn't apply scheduled task {entry.name}: {exc}") from exc
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Send a task that is not registered in this process."""
        return self.app.send_task(*args, **kwargs)

    # -- keeping -------------------------------------------------------------------------------------

    def should_sync(self) -> Any:
        """Whether it is time to `sync`."""
        return (not self._last_sync or _clock.monotonic() - self._last_sync > self.sync_every) or (
            self.sync_every_tasks and self._tasks_since_sync >= self.sync_every_tasks
        )

    def _do_sync(self) -> None:
        try:
            debug("beat: Synchronizing schedule...")
            self.sync()
        finally:
            self._last_sync = _clock.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Write the state of the schedule to where it is kept; for subclasses."""

    def close(self) -> None:
        """`sync`, and let go of a connection if a subclass asked for one."""
        synced = False
        try:
            self.sync()
            synced = True
        finally:
            self.__dict__.pop("producer", None)
            connection = self.__dict__.pop("connection", None)
            if connection is not None:
                with _only_logged_if(not synced, "beat: Connection cleanup failed after sync error"):
                    ignore_errors(connection, connection.release)

    @cached_property
    def connection(self) -> Any:
        """A kombu connection, for subclasses with an address of their own; nothing here opens it."""
        return self.app.connection_for_write()

    @cached_property
    def producer(self) -> Any:
        """What `apply_async` is given: None, since publishing into a database needs no producer."""
        return None

    @property
    def info(self) -> str:
        """A line for the banner of the beat program."""
        return ""


class PersistentScheduler(Scheduler):
    """A scheduler that keeps its last runs in a file (`shelve`), for subclasses of Celery's default.

    Named as it is in the settings it stands for the default scheduler, which here is `StoreScheduler`.
    """

    persistence: Any = shelve
    known_suffixes = ("", ".db", ".dat", ".bak", ".dir")

    _store: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename: Any = kwargs.get("schedule_filename")
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        try:
            self._store = self._open_schedule()
            # Some databases open a damaged file and fail at the first look.
            self._store.keys()
        except Exception as exc:
            self._store = self._destroy_open_corrupted_schedule(exc)
        self._create_schedule()
        self._reset_if_changed()
        entries = self._store.setdefault("entries", {})
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        conf = self.app.conf
        self._store.update({"__version__": _FORMAT, "tz": conf.timezone, "utc_enabled": conf.enable_utc})
        self.sync()
        debug("Current schedule:\n%s", "\n".join(repr(entry) for entry in entries.values()))

    def _open_schedule(self) -> Any:
        return self.persistence.open(self.schedule_filename, writeback=True)

    def _remove_db(self) -> None:
        for suffix in self.known_suffixes:
            try:
                os.remove(self.schedule_filename + suffix)
            except OSError as exc:
                # Which of the names exist is the database's affair.
                if exc.errno != errno.ENOENT:
                    raise

    def _destroy_open_corrupted_schedule(self, exc: BaseException) -> Any:
        error("Removing corrupted schedule file %r: %r", self.schedule_filename, exc, exc_info=True)
        self._remove_db()
        return self._open_schedule()

    def _create_schedule(self) -> None:
        """Make sure that the file has entries, readable ones of the present format."""
        try:
            self._store["entries"]
        except _UNREADABLE as exc:
            if isinstance(exc, ValueError):
                warning(
                    "DB Reset: Cannot load the stored entries, recreating them from beat_schedule: %r", exc
                )
            self._start_empty()
        else:
            for field in ("__version__", "tz", "utc_enabled"):
                if field not in self._store:
                    warning("DB Reset: Account for new %s field", field)
                    self._store.clear()
                    return

    def _start_empty(self) -> None:
        try:
            self._store["entries"] = {}
        except (*_UNREADABLE, *dbm.error) as exc:
            self._store = self._destroy_open_corrupted_schedule(exc)
            self._store["entries"] = {}

    def _reset_if_changed(self) -> None:
        """Forget last runs that were noted in another time zone."""
        zone, stored_zone = self.app.conf.timezone, self._store.get("tz")
        if stored_zone is not None and stored_zone != zone:
            warning("Reset: Timezone changed from %r to %r", stored_zone, zone)
            self._store.clear()
        utc, stored_utc = self.app.conf.enable_utc, self._store.get("utc_enabled")
        if stored_utc is not None and stored_utc != utc:
            words = {True: "enabled", False: "disabled"}
            warning("Reset: UTC changed from %s to %s", words[stored_utc], words[utc])
            self._store.clear()

    def get_schedule(self) -> Any:
        return self._store["entries"]

    def set_schedule(self, schedule: Any) -> None:
        self._store["entries"] = schedule

    def sync(self) -> None:
        if self._store is not None:
            self._store.sync()

    def close(self) -> None:
        closed = False
        try:
            super().close()
            closed = True
        finally:
            if self._store is not None:
                with _only_logged_if(not closed, "beat: Store cleanup failed after scheduler error"):
                    self._store.close()

    @property
    def info(self) -> str:
        return f"    . db -> {self.schedule_filename}"


@contextmanager
def _only_logged_if(hidden: bool, sentence: str) -> Iterator[None]:
    """Log an error of the block instead of raising it, when it would hide the one that is on its way."""
    try:
        yield
    except Exception:
        if not hidden:
            raise
        error(sentence, exc_info=True)


#: What is written as the version of a schedule file.
_FORMAT = "5.7.0"


class StoreScheduler(Scheduler):
    """The default scheduler: last runs are in the app's database, and each tick happens once.

    However many of them run, on whichever hosts: see `_ticks.Ticker`, which does the work.
    """

    _forget: Callable[[], None] | None = None

    def setup_schedule(self) -> None:
        self.install_default_entries(self.data)
        given = self.app.conf.beat_schedule
        self.merge_inplace({name: given[name] for name in given if self._is_usable(name, given[name])})

    def _is_usable(self, name: str, given: Any) -> bool:
        # One entry that cannot be used must not stop the others. The ticker says which, when it reads them.
        try:
            self.Entry(**{**dict(given), "name": name, "app": self.app})
        except Exception:
            return False
        return True

    @cached_property
    def _ticker(self) -> Ticker:
        ticker = Ticker(self.app, self.app.store)
        ticker.reload()
        return ticker

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; returns in how many seconds to call again."""
        self._ticker.fire_due(_clock.time())
        due_at = self._ticker.next_due()
        wait_s = self.max_interval if due_at is None else due_at - _clock.time()
        # The clock that waits does not notice that the machine slept or that its time was set.
        return min(max(wait_s, 0), self.max_interval, _LOOK_AGAIN_S)

    def on_letters(self, woken: Callable[[], None]) -> None:
        """Call `woken`, in any thread, when the schedule may have been edited; until `close`."""
        self._forget = self.app.store.on_letters(woken)

    def look(self) -> None:
        """Have the next `tick` take over what was edited."""
        self._ticker.look()

    def close(self) -> None:
        if self._forget is not None:
            self._forget()
        super().close()

    @property
    def info(self) -> str:
        return "    . db -> the app's database"


#: The entry point group in which packages name schedulers.
_EXTENSIONS = "celery.beat_schedulers"


class Service:
    """Drives a scheduler until it is told to stop; with `remote_control` it answers a ping meanwhile."""

    scheduler_cls: Any = PersistentScheduler

    def __init__(
        self,
        app: Celery,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
    ) -> None:
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval
        self.scheduler_cls = scheduler_cls or self.scheduler_cls
        self.schedule_filename = schedule_filename or app.conf.beat_schedule_filename
        self.remote_control = (
            app.conf.beat_enable_remote_control if remote_control is None else remote_control
        )
        self.hostname = hostname
        #: What the scheduler settled on; None until the service starts.
        self.effective_max_interval: float | None = None
        self._pidbox: BeatPidbox | None = None
        #: When the scheduler ticked last, on the monotonic clock.
        self._last_tick: float | None = None
        self._is_shutdown = Event()
        self._is_stopped = Event()
        self._woken = Event()

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (
            self.app,
            self.max_interval,
            self.schedule_filename,
            self.scheduler_cls,
            self.remote_control,
            self.hostname,
        )

    def start(self, embedded_process: bool = False) -> None:
        """Tick until `stop`; then save the schedule. Blocks."""
        info("beat: Starting...")
        debug("beat: Ticking with max interval->%s", humanize_seconds(self.scheduler.max_interval))
        signals.beat_init.send(sender=self)
        if embedded_process:
            signals.beat_embedded_init.send(sender=self)
        self.effective_max_interval = self.scheduler.max_interval
        # Before the first tick, so that one which never ends is noticed too.
        self._last_tick = _clock.monotonic()
        self._start_pidbox()
        forget_clock = _clock.on_moved(self._woken.set)
        if isinstance(self.scheduler, StoreScheduler):
            self.scheduler.on_letters(self._woken.set)
        try:
            while not self._is_shutdown.is_set():
                self._tick_and_wait()
        except (KeyboardInterrupt, SystemExit):
            self._is_shutdown.set()
        finally:
            forget_clock()
            # The schedule first: whoever sent SIGTERM may be about to send SIGKILL.
            self.sync()
            self._stop_pidbox()

    def _start_pidbox(self) -> None:
        if self.remote_control:
            self._pidbox = BeatPidbox(self)
            self._pidbox.start()

    def _stop_pidbox(self) -> None:
        if self._pidbox is not None:
            self._pidbox.stop()

    def _tick_and_wait(self) -> None:
        interval = self.scheduler.tick()
        self._last_tick = _clock.monotonic()
        if interval and interval > 0.0:
            debug("beat: Waking up %s.", humanize_seconds(interval, prefix="in "))
            self._wait(interval)
            if self.scheduler.should_sync():
                self.scheduler._do_sync()

    def _wait(self, interval: float) -> None:
        woken = self._woken.wait(_clock.real_timeout(interval))
        self._woken.clear()
        if woken and isinstance(self.scheduler, StoreScheduler) and not self._is_shutdown.is_set():
            self.scheduler.look()

    def sync(self) -> None:
        """Save the schedule and say that the service has stopped."""
        self.scheduler.close()
        self._is_stopped.set()

    def stop(self, wait: bool = False) -> None:
        """End the loop; with `wait`, block until it has ended."""
        info("beat: Shutting down...")
        self._is_shutdown.set()
        self._woken.set()
        if wait:
            self._is_stopped.wait()

    def get_scheduler(self, lazy: bool = False, extension_namespace: str = _EXTENSIONS) -> Any:
        """A scheduler of the class that `scheduler_cls` is or names: a path, or an extension."""
        return _scheduler_class(self.scheduler_cls, extension_namespace)(
            app=self.app,
            schedule_filename=self.schedule_filename,
            max_interval=self.max_interval,
            lazy=lazy,
        )

    @property
    def scheduler_class(self) -> Any:
        """The class of the scheduler."""
        return _scheduler_class(self.scheduler_cls, _EXTENSIONS)

    @cached_property
    def scheduler(self) -> Any:
        """The scheduler, made at the first look."""
        return self.get_scheduler()


def _scheduler_class(named: Any, extension_namespace: str) -> Any:
    if isinstance(named, str) and named.startswith("celery.beat"):
        named = "celerylite" + named.removeprefix("celery")
    cls = symbol_by_name(named, aliases=dict(load_extension_class_names(extension_namespace)))
    return StoreScheduler if cls is PersistentScheduler else cls


class _Threaded(Thread):
    """A service in a thread of this process."""

    def __init__(self, app: Celery, embedded: bool = False, **kwargs: Any) -> None:
        super().__init__(name="Beat", daemon=True)
        self.app = app
        self.service = Service(app, **kwargs)
        self._embedded = embedded

    def run(self) -> None:
        self.app.set_current()
        self.service.start(embedded_process=self._embedded)

    def stop(self) -> None:
        self.service.stop(wait=True)


#: Celery's name for a beat in a process of its own, as where processes cannot be made.
_Process = None


def EmbeddedService(app: Celery, max_interval: float | None = None, **kwargs: Any) -> _Threaded:
    """A beat service inside a worker: `start` and `stop` it.

    As everything it runs in this process; without ``thread=True``, where Celery would start another
    process, ``beat_embedded_init`` is sent as Celery does there.
    """
    kwargs.setdefault("remote_control", False)
    threaded = kwargs.pop("thread", False)
    # As Celery: a thread looks at its schedule every second, whatever was asked for.
    return _Threaded(app, embedded=not threaded, max_interval=1 if threaded else max_interval, **kwargs)
