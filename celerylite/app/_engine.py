"""What makes an app run: its store, its runtime, and where its messages go."""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast
from uuid import NAMESPACE_OID, getnode, uuid3

from celerylite import _clock, signals
from celerylite._call_keys import UNIQUE
from celerylite._interrupts import uninterrupted
from celerylite._lazy import lazy_module
from celerylite._message import Message
from celerylite._outbox import Outbox, current_outbox
from celerylite.app import _database, _own_settings
from celerylite.app.utils import sanitize_url

# What an app needs when it publishes or runs, not when it is made: 60 ms of an import.
if TYPE_CHECKING:
    from celerylite import _awaiting, _custom_beat, _store
    from celerylite import worker as _worker
else:
    _awaiting = lazy_module("celerylite._awaiting")
    _store = lazy_module("celerylite._store")
    _custom_beat = lazy_module("celerylite._custom_beat")
    _worker = lazy_module("celerylite.worker")

if TYPE_CHECKING:
    import asyncio

    from celerylite._store import Store
    from celerylite.app.base import Celery
    from celerylite.worker import Runtime

__all__ = ("Engine", "default_argv", "process_oid", "run_command_line", "thread_oid")

# Not one of the library's quiet loggers: what a program ought to know is seen where logging is not set up.
logger = logging.getLogger(__name__)


class Engine:
    """The part of an app that holds its database and its runtime. Thread-safe; fresh after a fork."""

    conf: Any

    def _init_engine(self) -> None:
        self._engine_mutex = threading.RLock()
        self._store: Store | None = None
        self._runtime: Runtime | None = None
        self._worker: Any = None
        self._database_chosen: _database.Database | None = None
        self._exit_registered = False
        self._announced = False
        #: The thread that is starting the runtime, and those that are stopping one.
        self._starting_in: int | None = None
        self._stopping_in: list[int] = []
        self._stop_over = threading.Condition(self._engine_mutex)
        #: Stopped for good: only `start_runtime` starts it again.
        self._shut_down = False
        #: What is sent is for other processes: a publish starts no runtime.
        self._only_publishes = False
        _engines.add(self)

    # -- the store -------------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The database of this app, opened at first use. May block; raises as `open_store` does."""
        if self._store is None:
            with self._engine_mutex:
                if self._store is None:
                    self._store = self._open_store()
        return self._store

    def _opened_store(self) -> Store:
        # For a thread beside the loop: what opens it is the property, and that blocks.
        return self.store

    def _open_store(self) -> Store:
        conf, database = self.conf, self._database
        _own_settings.check(conf)
        store = _store.open_store(
            database.url,
            durability=conf.celerylite_durability,
            lease=float(conf.celerylite_lease),
            window=float(conf.celerylite_batch_window),
            publish_timeout=float(conf.broker_connection_timeout or 4.0),
            table_names=conf.database_table_names,
            table_schemas=conf.database_table_schemas,
            engine_options=_engine_options(database, conf),
            engine_callback=conf.database_engine_callback,
        )
        if not self._announced:
            self._announced = True
            _database.announce(database, sanitize_url(database.url), bool(conf.celerylite_warn_ignored))
        return store

    @property
    def _database(self) -> _database.Database:
        if self._database_chosen is None:
            self._database_chosen = _database.choose(self.conf)
        return self._database_chosen

    @property
    def shown_database(self) -> str:
        """The URL of the database, without its password."""
        return str(sanitize_url(self._database.url))

    # -- publishing ------------------------------------------------------------------------------------

    def _publish(self, message: Message, connection: Any = None) -> str | None:
        """Send one message: into the caller's transaction, the outbox of the context, or the database.

        Returns the id of the task that holds its key, if one does: then nothing was sent.
        """
        if _joins_transaction(connection):
            published = self.store.publish_in(connection, [_store.Outgoing(message=message)])
            return published[0].holder if published else None
        outbox = current_outbox()
        if outbox is not None:
            outbox.put(message)
            return None
        return self._publish_all([message]).get(message.id)

    @contextmanager
    def publishing_together(self) -> Iterator[dict[str, str]]:
        """What is sent inside the block is committed at its end, all or nothing.

        What it yields has the duplicates after that: by the task's id the one that holds its key.
        """
        duplicates: dict[str, str] = {}
        if current_outbox() is not None:
            yield duplicates
            return
        with Outbox() as box:
            yield duplicates
        duplicates.update(self._publish_all(box.messages))

    def _publish_all(self, messages: Sequence[Message]) -> dict[str, str]:
        # A task that is stopped here would leave messages that nobody runs, and locks that nobody lets go.
        with uninterrupted():
            runtime = self._runtime_for_publishing()
            # Who sends a call with a key is told which task holds it.
            if self.conf.celerylite_durability == "memory" and not any(UNIQUE in m.headers for m in messages):
                self._publish_later(runtime, messages)
                return {}
            if runtime is not None:
                return runtime.publish(messages)
            published = self.store.publish([_store.Outgoing(message=message) for message in messages])
            return _store.holders(published)

    def _publish_later(self, runtime: Runtime | None, messages: Sequence[Message]) -> None:
        if runtime is not None:
            runtime.publish_later(messages)
            return
        self._register_exit()
        outgoing = [_store.Outgoing(message=message) for message in messages]
        self.store.publish_later(outgoing, lambda published, error: None)

    async def _publish_soon(self, messages: Sequence[Message]) -> dict[str, str]:
        """Commit messages without blocking the running loop; the duplicates, as `_publish_all`."""
        if not messages:
            return {}
        # Opening the database and starting the runtime block; after the first time these are attributes.
        runtime = self._runtime
        if runtime is None and self._starts_for_publishing():
            runtime = await _awaiting.to_thread(self._runtime_for_publishing)
        if runtime is not None:
            return await _awaiting.told(partial(runtime.publish_soon, messages))
        if self._store is None:
            await _awaiting.to_thread(self._opened_store)
        outgoing = [_store.Outgoing(message=message) for message in messages]
        return _store.holders(await _awaiting.told(partial(self.store.publish_soon, outgoing)))

    def _runtime_for_publishing(self) -> Runtime | None:
        if self._runtime is None and self._starts_for_publishing():
            return self.start_runtime(only_known=True)
        return self._runtime

    def _starts_for_publishing(self) -> bool:
        """Whether a call starts the runtime, if none runs. Does not block."""
        is_off = self._shut_down or self._only_publishes
        if is_off or self.conf.celerylite_runtime in ("off", False, None) or self._database.in_memory:
            # As Celery with memory://: nothing runs until a worker is started.
            return False
        return not self._is_changing()  # Else it waits in the database, for this runtime or the next one.

    @contextmanager
    def leaving_tasks_to_others(self) -> Iterator[None]:
        """Inside the block a publish starts no runtime; one that runs already, or is started, does run."""
        before, self._only_publishes = self._only_publishes, True
        try:
            yield
        finally:
            self._only_publishes = before

    def _is_changing(self) -> bool:
        """Whether this is no moment to start one: it is being started or stopped, or the program ends."""
        starting = self._starting_in == threading.get_ident()
        # A runtime that is started by a function of atexit would be cut off in the middle of a task.
        return starting or bool(self._stopping_in) or not threading.main_thread().is_alive()

    # -- the runtime -----------------------------------------------------------------------------------

    def start_runtime(
        self,
        *,
        queues: Any = None,
        concurrency: int | None = None,
        hostname: str | None = None,
        beat: bool | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        worker: Any = None,
        pool: str | None = None,
        least_processes: int | None = None,
        only_known: bool = False,
    ) -> Runtime:
        """Start running tasks in this process; returns the runtime that runs already, if one does. May block.

        `queues` to take from (default: all), `concurrency` how many tasks at once, `beat` whether to fire the
        schedule (default: the setting ``celerylite_beat``), `loop` where coroutines run, `worker` who sends
        the worker's signals (default: the runtime), `pool` where plain functions run (default: the setting
        ``worker_pool`` if it was set, else threads), `least_processes` how many child processes always stay.
        With `only_known` it leaves calls of tasks that this process does not know to others.
        """
        app = cast("Celery", self)
        with self._engine_mutex:
            if self._runtime is not None:
                if loop is not None:
                    self._runtime.use_loop(loop)
                if not only_known:
                    self._runtime.take_all()
                return self._runtime
            self._shut_down = False
            self._starting_in = threading.get_ident()
            try:
                app.loader.init_worker()
                app.finalize()
                runtime = _worker.Runtime(
                    app,
                    self.store,
                    queues=_worker.queues_of(app, queues),
                    concurrency=concurrency,
                    hostname=hostname,
                    loop=loop,
                    pool=pool,
                    least_processes=least_processes,
                    only_known=only_known,
                    ticker=_custom_beat.ticker_for(app, self.store) if self._fires_schedule(beat) else None,
                )
                if worker is None:
                    signals.worker_init.send(sender=runtime)
                # This process is the one that runs the tasks, as with Celery's solo pool.
                signals.worker_process_init.send(sender=runtime.hostname)
                runtime.start()
                self._runtime, self._worker = runtime, worker or runtime
                self._register_exit()
            finally:
                self._starting_in = None
        # Not under the lock: receivers like to send a first task.
        signals.worker_ready.send(sender=self._worker)
        return runtime

    def stop_runtime(self, grace: float | None = None, *, for_good: bool = False) -> None:
        """Stop running tasks, waiting up to `grace` seconds for running ones. Blocks: see `Runtime.stop`.

        With `for_good` a publish does not start it again, only `start_runtime` does.
        """
        with self._engine_mutex:
            runtime, self._runtime = self._runtime, None
            self._shut_down = self._shut_down or for_good
            if runtime is None:
                return
            self._stopping_in.append(threading.get_ident())
        try:
            runtime.stop(grace)
            app = cast("Celery", self)
            app.loader.shutdown_worker()
            signals.worker_process_shutdown.send(sender=runtime.hostname, pid=os.getpid(), exitcode=0)
            signals.worker_shutdown.send(sender=self._worker)
        finally:
            with self._engine_mutex:
                self._stopping_in.remove(threading.get_ident())
                self._stop_over.notify_all()

    @asynccontextmanager
    async def runtime(self, **options: Any) -> AsyncIterator[Runtime]:
        """Run tasks inside the block, coroutines on the loop of the caller: ``async with app.runtime():``."""
        loop = _awaiting.get_running_loop()
        runtime = await _awaiting.to_thread(lambda: self.start_runtime(loop=loop, **options))
        try:
            yield runtime
        finally:
            await _awaiting.to_thread(self.stop_runtime)

    def drain(self, timeout: float | None = None) -> None:
        """Wait until nothing that is due waits or runs; TimeoutError after `timeout` seconds. Blocks."""
        runtime = self._runtime or self.start_runtime()
        runtime.drain(timeout)

    def _fires_schedule(self, beat: bool | None) -> bool:
        if beat is not None:
            return beat
        mode = self.conf.celerylite_beat
        if mode == "auto":
            # The clean-up of results is an entry too, but a test app in memory is no scheduler.
            return not self._database.in_memory
        return bool(mode == "on")

    def _schedule_changed(self) -> None:
        runtime = self._runtime
        if runtime is not None:
            runtime.schedule_changed()

    def _autostart(self) -> None:
        """This process serves: start the runtime, as the setting ``celerylite_runtime`` allows."""
        if self.conf.celerylite_runtime not in ("off", False, None) and not self._database.in_memory:
            self.start_runtime()

    # -- the end ---------------------------------------------------------------------------------------

    def _register_exit(self) -> None:
        if not self._exit_registered:
            self._exit_registered = True
            atexit.register(_finish_at_exit, weakref.ref(self))
            processes = sys.modules.get("multiprocessing.process")
            if processes is not None and processes.parent_process() is not None:
                # A forked child of multiprocessing ends without the functions of atexit.
                util = import_module("multiprocessing.util")
                util.Finalize(None, _finish_at_exit, (weakref.ref(self),), exitpriority=100)

    def _finish_at_exit(self) -> None:
        """The program ends: finish what it published, unless another process is there to do it."""
        runtime = self._runtime
        if runtime is None:
            if self._store is not None:
                self._store.rest()
            return  # Stopped before, or never started.
        end = _clock.monotonic() + float(self.conf.celerylite_exit_grace)
        try:
            if not self._is_shared(runtime):
                _finish_published(runtime, float(self.conf.celerylite_exit_grace))
        except KeyboardInterrupt:
            logger.warning("at exit: interrupted; what waits is in the database and runs at the next start")
            end = 0.0
        except Exception as exc:
            logger.warning("at exit: %s; what waits is in the database and runs at the next start", exc)
        # What waits goes to others; what runs here has the time that is left.
        self.stop_runtime(max(0.0, end - _clock.monotonic()))
        self._close_engine()

    def _is_shared(self, runtime: Runtime) -> bool:
        return any(each.owner != runtime.owner and not each.is_beat for each in self.store.workers())

    def _await_stops(self) -> None:
        """Wait until nobody is stopping a runtime, which needs the store to the end."""
        if cast("Celery", self).current_worker_task is not None:
            return  # Whoever stops the runtime waits for the task.
        me = threading.get_ident()
        with self._engine_mutex:
            self._stop_over.wait_for(lambda: not self._stopping_in or me in self._stopping_in)

    def _close_engine(self) -> None:
        self.stop_runtime()
        self._await_stops()
        events = vars(self).get("events")
        if events is not None:
            events.close()
        with self._engine_mutex:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def _after_fork(self) -> None:
        """In a child process: a fresh runtime and fresh connections; the parent's go on."""
        self._engine_mutex = threading.RLock()
        self._stop_over = threading.Condition(self._engine_mutex)
        self._runtime, self._starting_in, self._stopping_in = None, None, []
        self._exit_registered = False
        if self._store is not None:
            self._store.after_fork()
        app = cast("Celery", self)
        app.on_after_fork.send(sender=app)


#: Seconds that the end of a program may take before it says what it waits for.
_PATIENCE_S = 1.0

#: Every app of the process, for what has to be done after a fork.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def runtime_of_process(app: Engine) -> Runtime | None:
    """The runtime of `app`, or the one that another app of this process has over the same database."""
    if app._runtime is not None or app._database.in_memory:
        return app._runtime
    served = (each for each in list(_engines) if each._runtime is not None)
    return next((each._runtime for each in served if each._database.url == app._database.url), None)


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        engine._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _finish_at_exit(engine: weakref.ref[Engine]) -> None:
    alive = engine()
    if alive is not None:
        alive._finish_at_exit()


def _finish_published(runtime: Runtime, grace: float) -> None:
    """Let the runtime finish what waits and runs; raises TimeoutError after `grace` seconds."""
    try:
        runtime.drain(min(grace, _PATIENCE_S))
    except TimeoutError:
        if grace <= _PATIENCE_S:
            raise
        left = grace - _PATIENCE_S
        logger.warning("at exit: finishing what was published, up to %.0f s more; Ctrl-C ends the wait", left)
        runtime.drain(left)


def _joins_transaction(connection: Any) -> bool:
    """Whether `connection` is one of SQLAlchemy, whose transaction a message joins. Raises TypeError.

    As Celery: connections of kombu are accepted too; they mean nothing here.
    """
    if connection is None or hasattr(connection, "default_channel"):
        return False
    # A connection of a driver may have an attribute of that name, but not a method.
    in_transaction = getattr(connection, "in_transaction", None)
    if callable(in_transaction) and not inspect.iscoroutinefunction(connection.execute):
        return True
    raise TypeError(
        "connection: expected an SQLAlchemy Connection or Session in a transaction, got "
        f"{connection!r}; pass session, or session.sync_session of an AsyncSession"
    )


def _engine_options(database: _database.Database, conf: Any) -> dict[str, Any]:
    # Celery's default options are about pools of connections to servers.
    return {} if database.in_memory else dict(conf.database_engine_options or {})


def default_argv() -> list[str]:
    """The arguments of this process."""
    return sys.argv


def run_command_line(app: Celery, argv: list[str] | None) -> Any:
    """Run the command line program with `app` as its default; returns the exit code."""
    # Here, not at the top: the command line is above this layer, and click is not needed by programs.
    program = import_module("celerylite.bin.celery")
    return program.main_for_app(app, sys.argv if argv is None else argv)


def process_oid(app: Any) -> str:
    """An id of `app` in this process."""
    return _oid(app, 0)


def thread_oid(app: Any) -> str:
    """An id of `app` in this thread."""
    return _oid(app, threading.get_ident())


def _oid(app: Any, thread: int) -> str:
    # A name-based UUID of where the app lives, so that the same place has the same id.
    return str(uuid3(NAMESPACE_OID, f"{getnode():x}-{os.getpid():x}-{thread:x}-{id(app):x}"))
