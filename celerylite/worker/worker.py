"""A worker as an object: an app's runtime that is started, waited for and stopped like Celery's worker."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any

from celerylite import _clock, signals
from celerylite._lazy import lazy_module
from celerylite.exceptions import ImproperlyConfigured, WorkerTerminate
from celerylite.platforms import EX_FAILURE, EX_OK, create_pidlock
from celerylite.utils.imports import reload_from_cwd
from celerylite.utils.log import get_logger, mlevel
from celerylite.utils.nodenames import default_nodename, worker_direct
from celerylite.utils.text import str_to_list
from celerylite.worker import _pools
from celerylite.worker._kinds import available_cpus, chosen_pool, is_prefork
from celerylite.worker._panel import Autoscaler, stats_of

__all__ = ("WorkController",)

logger = get_logger(__name__)

SELECT_UNKNOWN_QUEUE = """
Trying to select queue subset of {0!r}, but queue {1} isn't
defined in the `task_queues` setting.

If you want to automatically declare unknown queues you can
enable the `task_create_missing_queues` setting.
"""

DESELECT_UNKNOWN_QUEUE = """
Trying to deselect queue subset of {0!r}, but queue {1} isn't
defined in the `task_queues` setting.
"""

#: Seconds until a signal that another thread received is heard by the one that handles it.
_HEAR_SIGNALS_S = 0.5
#: Arguments that are settings of the app; the runtime reads them there.
_SETTINGS = {
    "task_events": "worker_send_task_events",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
    "max_tasks_per_child": "worker_max_tasks_per_child",
    "max_memory_per_child": "worker_max_memory_per_child",
    "pool_start_method": "worker_pool_start_method",
    "prefetch_multiplier": "worker_prefetch_multiplier",
    "disable_prefetch": "worker_disable_prefetch",
    "scheduler": "beat_scheduler",
    "schedule_filename": "beat_schedule_filename",
}


_prefork = lazy_module("celerylite.worker._prefork")


class _Request(Enum):
    """What the thread that waits in `start` is told."""

    STOP = "stop, or hurry if that is being done"
    DONE = "it is done"


class WorkController:
    """Runs the tasks of an app until it is stopped. Takes the arguments of Celery's worker."""

    app: Any = None
    #: Exit code for the program that this worker is.
    exitcode: int | None = None
    pidlock: Any = None
    #: What takes and runs the messages, once it is started.
    runtime: Any = None
    #: The bounds of the pool, where they were given; remote control changes them.
    autoscaler: Any = None

    def __init__(self, app: Any = None, hostname: str | None = None, **kwargs: Any) -> None:
        self.app = app or self.app
        self.hostname = default_nodename(hostname)
        self.startup_time = _clock.utcnow()
        # A queue of this kind may be put to from a signal handler; an Event may not be set there.
        self._requests: SimpleQueue[_Request] = SimpleQueue()
        self._stop_mutex = threading.Lock()
        self.app.loader.init_worker()
        self.on_before_init(**kwargs)
        self.setup_defaults(**kwargs)
        self.on_after_init(**kwargs)
        self.setup_instance(**self.prepare_args(**kwargs))

    # For subclasses.

    def on_before_init(self, **kwargs: Any) -> None:
        """Called first, with the arguments."""

    def on_after_init(self, **kwargs: Any) -> None:
        """Called when the defaults are known."""

    def on_start(self) -> None:
        """Called before the runtime is started."""
        if self.pidfile:
            self.pidlock = create_pidlock(self.pidfile)

    def on_consumer_ready(self, consumer: Any) -> None:
        """Called when tasks are taken."""

    def on_stopped(self) -> None:
        """Called when nothing runs any more."""
        if self.pidlock:
            self.pidlock.release()

    def prepare_args(self, **kwargs: Any) -> dict[str, Any]:
        return kwargs

    # Set-up.

    def setup_defaults(
        self,
        concurrency: Any = None,
        autoscale: tuple[int, int] | None = None,
        loglevel: int | str = "WARN",
        logfile: str | None = None,
        beat: bool | None = None,
        pool: Any = None,
        pool_cls: Any = None,
        **kwargs: Any,
    ) -> None:
        """Take the options; what is given overrides the app's settings."""
        self.loglevel, self.logfile = mlevel(loglevel), logfile
        self.autoscale = autoscale
        for option, setting in _SETTINGS.items():
            if kwargs.get(option) is not None:
                setattr(self.app.conf, setting, kwargs[option])
        self.pool_name = _pool_name(pool or pool_cls or chosen_pool(self.app))
        #: The class of what runs plain functions; receivers of ``worker_init`` look at its `__module__`.
        self.pool_cls: type[Any] = _prefork.ProcessPool if self.pool_name == "prefork" else _pools.ThreadPool
        self.task_events = bool(self.app.conf.worker_send_task_events)
        self.beat = bool(beat)
        self.concurrency = self._concurrency(concurrency)

    def _concurrency(self, asked: Any) -> int | None:
        if self.autoscale:
            return self.autoscale[0]
        wanted = self.app.either("worker_concurrency", asked)
        if self.pool_name == "solo":
            return 1
        is_auto = isinstance(wanted, str) and wanted.strip().lower() == "auto"
        return available_cpus() if is_auto else _number(wanted)

    def setup_instance(
        self,
        queues: Any = None,
        ready_callback: Any = None,
        pidfile: str | None = None,
        include: Any = None,
        exclude_queues: Any = None,
        **kwargs: Any,
    ) -> None:
        self.pidfile = pidfile
        self.options = kwargs
        self.ready_callback = ready_callback or self.on_consumer_ready
        self.setup_queues(queues, exclude_queues)
        self.setup_includes(str_to_list(include))
        signals.worker_init.send(sender=self)

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        """Choose which of the app's queues this process takes from."""
        include, exclude = str_to_list(include), str_to_list(exclude)
        queues = self.app.amqp.queues
        try:
            queues.select(include)
        except KeyError as exc:
            raise ImproperlyConfigured(SELECT_UNKNOWN_QUEUE.strip().format(include, exc)) from exc
        try:
            queues.deselect(exclude)
        except KeyError as exc:
            raise ImproperlyConfigured(DESELECT_UNKNOWN_QUEUE.strip().format(exclude, exc)) from exc
        if self.app.conf.worker_direct:
            queues.select_add(worker_direct(self.hostname))

    def setup_includes(self, includes: Any) -> None:
        """Import further task modules and remember them in the setting `include`."""
        self.include = includes
        for module in includes or ():
            self.app.loader.import_task_module(module)
        self.app.conf.include = tuple({*self.app.conf.include, *(includes or ())})

    # Life.

    def start(self) -> None:
        """Run tasks until `stop` or `terminate` is called, here or elsewhere. Blocks; sets `exitcode`."""
        try:
            self.begin()
            self._wait()
        except WorkerTerminate:
            self.terminate()
        except SystemExit as exc:
            self.stop(exitcode=exc.code if isinstance(exc.code, int) else EX_OK)
        except KeyboardInterrupt:
            self.stop(exitcode=EX_FAILURE)
        except Exception as exc:
            logger.critical("Unrecoverable error: %r", exc, exc_info=True)
            self.stop(exitcode=EX_FAILURE)

    def begin(self) -> None:
        """Start the runtime and return once it takes messages."""
        self.on_start()
        self.runtime = self.app.start_runtime(
            hostname=self.hostname,
            concurrency=self.concurrency,
            beat=self.beat or None,
            worker=self,
            pool=self.pool_name,
            least_processes=self.autoscale[1] if self.autoscale else None,
        )
        if self.autoscale:
            self.autoscaler = Autoscaler.of(self.runtime, self.autoscale)
        self.ready_callback(self)

    def _wait(self) -> None:
        """Wait for a request to stop, and obey; whoever asks once more does not want to wait."""
        runtime = self.runtime
        self._next_request()
        # In a thread: this one, where the handlers of signals are called, stays free to hear the next.
        stopping = threading.Thread(target=self._stop_and_tell, name="celerylite-stop")
        stopping.start()
        while self._next_request() is not _Request.DONE:
            runtime.hurry()
        stopping.join()

    def _next_request(self) -> _Request:
        # The system may give a signal to any thread (after SIGCONT it does). Its handler runs in this one,
        # which has to come by for that: a wait without end would never hear of it.
        while True:
            with contextlib.suppress(Empty):
                return self._requests.get(timeout=_HEAR_SIGNALS_S)

    def _stop_and_tell(self) -> None:
        try:
            self.stop()
        finally:
            self._requests.put(_Request.DONE)

    def stop(
        self, in_sighandler: bool = False, exitcode: int | None = None, *, grace: float | None = None
    ) -> None:
        """Take nothing new and wait for what runs: `grace` seconds, or as long as it takes.

        In a signal handler it only says so, and `start` does it.
        """
        if exitcode is not None:
            self.exitcode = exitcode
        if in_sighandler:
            self._requests.put(_Request.STOP)
            return
        with self._stop_mutex:
            if self.runtime is None:
                return  # Somebody else stopped it.
            self.app.stop_runtime(threading.TIMEOUT_MAX if grace is None else grace)
            self.runtime = None
            self.on_stopped()
            # For `start`, which may wait in another thread.
            self._requests.put(_Request.STOP)

    def terminate(self, in_sighandler: bool = False) -> None:
        """As `stop`, without waiting for what runs."""
        if in_sighandler:
            self._requests.put(_Request.STOP)
        self.stop(in_sighandler, exitcode=EX_FAILURE, grace=0.0)

    def reload(
        self, modules: Iterable[str] | None = None, reload: bool = False, reloader: Any = None
    ) -> None:
        """Import task modules that are new; with `reload`, also those that are imported already.

        A task that is defined while the worker runs is known to it without this.
        """
        for name in set(self.app.loader.task_modules if modules is None else modules):
            if name not in sys.modules:
                logger.debug("importing module %s", name)
                self.app.loader.import_from_cwd(name)
            elif reload:
                logger.debug("reloading module %s", name)
                reload_from_cwd(sys.modules[name], reloader)

    def stats(self) -> dict[str, Any]:
        """What `inspect.stats()` answers, once it is started."""
        answered: dict[str, Any] = {} if self.runtime is None else stats_of(self.runtime)
        return answered

    def info(self) -> dict[str, Any]:
        uptime = _clock.utcnow() - self.startup_time
        return {"pid": os.getpid(), "clock": str(self.app.clock), "uptime": round(uptime.total_seconds())}

    def __repr__(self) -> str:
        state = "STOPPED" if self.runtime is None else "RUN"
        return f"<Worker: {self.hostname} ({state})>"


def _pool_name(pool: Any) -> str:
    if is_prefork(pool):
        return "prefork"
    return "solo" if pool == "solo" else "threads"


def _number(value: Any) -> int | None:
    try:
        return int(value) or None
    except (TypeError, ValueError):
        return None
