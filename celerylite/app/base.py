"""The application: configuration, the tasks, and the place where the parts are put together."""

from __future__ import annotations

import os
import threading
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, cast

from kombu import Connection
from kombu.clocks import LamportClock
from kombu.utils.imports import symbol_by_name as kombu_symbol_by_name
from kombu.utils.objects import cached_property

from celerylite import _autostart, _clock, _state, canvas, platforms
from celerylite._lazy import lazy_module
from celerylite._once import computed_once
from celerylite.app import _engine, backends, builtins
from celerylite.app._configuration import Configuration
from celerylite.app._decorator import TaskDecorator, make_task, warn_if_taken
from celerylite.app._send import TaskSender
from celerylite.app.annotations import prepare as prepare_annotations
from celerylite.app.autoretry import add_autoretry_behaviour
from celerylite.app.registry import TaskRegistry
from celerylite.app.utils import (
    AppPickler,
    _unpickle_app,
    _unpickle_app_v2,
    appstr,
    bugreport,
)
from celerylite.loaders import get_loader_cls
from celerylite.local import maybe_evaluate
from celerylite.utils import abstract
from celerylite.utils.dispatch import Signal
from celerylite.utils.functional import head_from_fun
from celerylite.utils.imports import gen_task_name, instantiate
from celerylite.utils.log import get_logger
from celerylite.utils.objects import mro_lookup
from celerylite.utils.time import timezone as zones

if TYPE_CHECKING:
    from celerylite import _schedule
    from celerylite._schedule import Schedule
    from celerylite.app import trace as _trace
    from celerylite.app.amqp import AMQP
    from celerylite.canvas import Signature
else:
    # Runs tasks: loaded by the first one that does.
    _schedule = lazy_module("celerylite._schedule")
    _trace = lazy_module("celerylite.app.trace")

__all__ = ("Celery",)

logger = get_logger(__name__)

#: Registered with every app by being imported.
BUILTIN_TASKS = builtins.__name__

#: Plug-ins applied to every app unless it brings its own list.
BUILTIN_FIXUPS = frozenset({"celerylite.fixups.django:fixup"})

#: Celery's name; no child process of ours imports task modules in a special way.
USING_EXECV = os.environ.get("FORKED_BY_MULTIPROCESSING")


def symbol_by_name(name: Any) -> Any:
    """The object at a dotted path; paths inside Celery's package are looked for in ours."""
    if isinstance(name, str) and name.startswith("celery."):
        name = "celerylite" + name.removeprefix("celery")
    return kombu_symbol_by_name(name)


def app_has_custom(app: Celery, attr: str) -> Any:
    """Whether the class of `app` overrides `attr`."""
    return mro_lookup(app.__class__, attr, stop={Celery, object}, monkey_patched=[__name__])


def _unpickle_appattr(reverse_name: str, args: Sequence[Any]) -> Any:
    return _state.get_current_app()._rgetattr(reverse_name)(*args)


class Celery(TaskDecorator, Configuration, _engine.Engine):
    """A Celery application whose tasks run in this process and live in one SQL database.

    `main` names the module if it runs as ``__main__`` (prefix of task names). Keyword arguments that are
    not listed are settings. `broker` and `backend` choose the database: see docs/switching.md.
    """

    #: Celery's old name for what reduces an app to a pickle.
    Pickler = AppPickler

    SYSTEM = platforms.SYSTEM
    IS_macOS, IS_WINDOWS = platforms.IS_macOS, platforms.IS_WINDOWS

    #: Name of the ``__main__`` module.
    main: str | None = None
    #: Options that users add to commands: ``app.user_options['worker'].add(...)``.
    user_options: Any = None
    #: Accepted for programs that add bootsteps; see docs/differences.md.
    steps: Any = None

    builtin_fixups: Any = BUILTIN_FIXUPS
    amqp_cls: Any = "celerylite.app.amqp:AMQP"
    backend_cls: Any = None
    events_cls: Any = "celerylite.app.events:Events"
    loader_cls: Any = None
    log_cls: Any = "celerylite.app.log:Logging"
    control_cls: Any = "celerylite.app.control:Control"
    task_cls: Any = "celerylite.app.task:Task"
    registry_cls: Any = TaskRegistry

    #: Sent before the configuration is read; an overriding method is called instead.
    on_configure: Any = None
    #: Sent when the configuration was read.
    on_after_configure: Any = None
    #: Sent when all tasks declared so far are registered.
    on_after_finalize: Any = None
    #: Sent in every child process after a fork.
    on_after_fork: Any = None

    _fixups: Any = None
    _conf: Any = None
    _pool: Any = None

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: Any = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: str | None = None,
        include: Any = None,
        changes: dict[str, Any] | None = None,
        config_source: Any = None,
        fixups: Iterable[Any] | None = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **kwargs: Any,
    ) -> None:
        self._local = threading.local()
        self._backend_cache: Any = None
        self.clock = LamportClock()
        self.main = main
        self.amqp_cls = amqp or self.amqp_cls
        self.events_cls = events or self.events_cls
        self.loader_cls = loader or self._get_default_loader()
        self.log_cls = log or self.log_cls
        self.control_cls = control or self.control_cls
        self._custom_task_cls_used = bool(task_cls) or bool(app_has_custom(self, "task_cls"))
        self.task_cls = task_cls or self.task_cls
        self.set_as_current = set_as_current
        self.registry_cls = symbol_by_name(self.registry_cls)
        self.user_options = defaultdict(set)
        self.steps = defaultdict(set)
        self.autofinalize = autofinalize
        self.namespace = namespace
        self.strict_typing = strict_typing
        # A program that pickles apps by overriding this method gets the old form of pickles.
        self._using_v1_reduce = app_has_custom(self, "__reduce_args__")
        self._init_tasks(tasks)
        self._init_configuration(changes, config_source, config_source_silent)
        for key, value in {
            "broker_url": broker,
            "result_backend": backend,
            "include": include,
            **kwargs,
        }.items():
            self._set_setting(key, value)
        self._init_engine()
        self._init_signals()
        self.fixups = set(self.builtin_fixups) if fixups is None else fixups
        # Instances are kept: fixups connect to signals weakly.
        self._fixups = [symbol_by_name(fixup)(self) for fixup in self.fixups]
        if self.set_as_current:
            self.set_current()
        self.on_init()
        _state._register_app(self)
        _autostart.watch(self)

    def _init_tasks(self, tasks: Any) -> None:
        self.finalized = False
        self._finalize_mutex = threading.RLock()
        self._pending: deque[Any] = deque()
        self._duplicate_task_names_warned: set[str] = set()
        self._tasks: Any = tasks if isinstance(tasks, TaskRegistry) else self.registry_cls(tasks or {})

    def _init_signals(self) -> None:
        if self.on_configure is None:
            self.on_configure = Signal(name="app.on_configure")
        self.on_after_configure = Signal(name="app.on_after_configure", providing_args={"source"})
        self.on_after_finalize = Signal(name="app.on_after_finalize")
        self.on_after_fork = Signal(name="app.on_after_fork")

    def _get_default_loader(self) -> Any:
        return os.environ.get("CELERY_LOADER") or self.loader_cls or "celerylite.loaders.app:AppLoader"

    def on_init(self) -> None:
        """Called at the end of construction; for subclasses."""

    def set_current(self) -> None:
        """Make this the current app of this thread."""
        _state._set_current_app(self)

    def set_default(self) -> None:
        """Make this the app of every thread that has none of its own."""
        _state.set_default_app(self)

    def close(self) -> None:
        """Stop the runtime, finish what is settled, close the database, and leave the list of apps."""
        self._close_engine()
        self._pool = None
        _state._deregister_app(self)

    def __enter__(self) -> Celery:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    # -- command line --------------------------------------------------------------------------------

    def start(self, argv: list[str] | None = None) -> Any:
        """Run the command line with this app as its default; returns the exit code."""
        return _engine.run_command_line(self, argv)

    def worker_main(self, argv: list[str] | None = None) -> None:
        """Run the ``worker`` command; ValueError when `argv` does not name it."""
        argv = _engine.default_argv() if argv is None else argv
        if "worker" not in argv:
            raise ValueError(
                "The worker sub-command must be specified in argv.\n"
                "Use app.start() to programmatically start other commands."
            )
        self.start(argv=argv)

    # -- tasks ---------------------------------------------------------------------------------------

    def type_checker(self, fun: Callable[..., Any], bound: bool = False) -> Any:
        """What checks the arguments of a call: raises TypeError as calling `fun` would."""
        return staticmethod(head_from_fun(fun, bound=bound))

    def _task_from_fun(
        self,
        fun: Callable[..., Any],
        name: str | None = None,
        base: Any = None,
        bind: bool = False,
        **options: Any,
    ) -> Any:
        if not self.finalized and not self.autofinalize:
            raise RuntimeError("Contract breach: app not finalized")
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        if name in self._tasks:
            task = self._tasks[name]
            warn_if_taken(self, task, fun, name)
            return task
        task = make_task(self, fun, name=name, base=base or self.Task, bind=bind, **options)
        self._tasks[name] = task
        task.bind(self)
        add_autoretry_behaviour(task, **options)
        return task

    def prepare_task(self, task: Any) -> None:
        """Let libraries that wrap ``app.trace.build_tracer`` see a task before its first call."""
        task.__trace__ = _trace.build_tracer(task.name, task, self.loader, app=self)

    def register_task(self, task: Any, **options: Any) -> Any:
        """Register an instance (or class) of `Task`; needed for class-based tasks only."""
        task = task() if isinstance(task, type) else task
        if not task.name:
            task.name = self.gen_task_name(type(task).__name__, type(task).__module__)
        existing = self.tasks.get(task.name)
        if existing is not None and existing is not task:
            warn_if_taken(self, existing, task, task.name)
        add_autoretry_behaviour(task, **options)
        self.tasks[task.name] = task
        task._app = self
        task.bind(self)
        return task

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that states none."""
        return gen_task_name(self, name, module)

    def finalize(self, auto: bool = False) -> None:
        """Register every task declared so far, ours and shared ones. Repeatable; thread-safe."""
        with self._finalize_mutex:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            self.finalized = True
            _state._announce_app_finalized(self)
            while self._pending:
                maybe_evaluate(self._pending.popleft())
            for task in list(self._tasks.values()):
                task.bind(self)
            self.on_after_finalize.send(sender=self)

    @computed_once
    def tasks(self) -> Any:
        """The task registry: names mapped to tasks. Finalizes the app."""
        self.finalize(auto=True)
        return self._tasks

    @computed_once
    def Task(self) -> Any:
        """The base class of this app's tasks."""
        return self.create_task_cls()

    def create_task_cls(self) -> Any:
        """A base class for tasks, bound to this app."""
        return self.subclass_with_self(
            self.task_cls, name="Task", attribute="_app", keep_reduce=True, abstract=True
        )

    @computed_once
    def annotations(self) -> Any:
        """The setting ``task_annotations``, prepared."""
        return prepare_annotations(self.conf.task_annotations)

    # -- calling -------------------------------------------------------------------------------------

    def send_task(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a task by its name, which this process need not know.

        Takes the arguments of `Task.apply_async` and returns an AsyncResult (or `result_cls`) when the
        message is committed.
        """
        return TaskSender(self).send(name, *args, **kwargs)

    def signature(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """A signature bound to this app."""
        kwargs["app"] = self
        return cast("Signature[Any]", self._canvas.signature(*args, **kwargs))

    @computed_once
    def schedule(self) -> Schedule:
        """The beat schedule, to be looked at and edited while programs run."""
        return _schedule.Schedule(self)

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Any = (),
        kwargs: Any = (),
        name: str | None = None,
        *,
        timezone: Any = None,
        catch_up: str | None = None,
        overlap: str | None = None,
        **opts: Any,
    ) -> str:
        """Add an entry to the beat schedule; returns its key (`name`, or the text of the signature).

        `opts` are options of the call; the three before them are keys of the entry, as in ``beat_schedule``.
        """
        kwargs = kwargs or {}
        ours = {"timezone": timezone, "catch_up": catch_up, "overlap": overlap}
        if isinstance(sig, abstract.CallableSignature):
            sig = sig.clone(args, kwargs)
        else:
            sig = self.signature(sig.name, args, kwargs)
        key = name or repr(sig)
        entry = {
            "schedule": schedule,
            "task": sig.name,
            "args": sig.args,
            "kwargs": sig.kwargs,
            "options": dict(sig.options, **opts),
            **{key: value for key, value in ours.items() if value is not None},
        }
        if self.configured:
            self._add_periodic_task(key, entry, name)
        else:
            self._pending_periodic_tasks.append((key, entry, name))
        return key

    def _add_periodic_task(self, key: str, entry: dict[str, Any], name: str | None = None) -> None:
        if name is None and key in self._conf.beat_schedule:
            logger.warning(
                "Periodic task key='%s' shadowed a previous unnamed periodic task."
                " Pass a name kwarg to add_periodic_task to silence this warning.",
                key,
            )
        self._conf.beat_schedule[key] = entry
        self._schedule_changed()

    # -- results -------------------------------------------------------------------------------------

    def _get_backend(self) -> Any:
        cls, url = backends.by_url(self.backend_cls or self.conf.result_backend, self.loader)
        return cls(app=self, url=url)

    @property
    def _backend(self) -> Any:
        # A backend that is not safe for threads is made once for each of them.
        return self._backend_cache or getattr(self._local, "backend", None)

    @_backend.setter
    def _backend(self, backend: Any) -> None:
        if backend.thread_safe:
            self._backend_cache = backend
        else:
            self._local.backend = backend

    @property
    def backend(self) -> Any:
        """Where results are kept."""
        if self._backend is None:
            self._backend = self._get_backend()
        return self._backend

    @computed_once
    def AsyncResult(self) -> Any:
        """Handles of results, bound to this app."""
        return self.subclass_with_self("celerylite.result:AsyncResult")

    @computed_once
    def ResultSet(self) -> Any:
        """Collections of results, bound to this app."""
        return self.subclass_with_self("celerylite.result:ResultSet")

    @computed_once
    def GroupResult(self) -> Any:
        """Results of groups, bound to this app."""
        return self.subclass_with_self("celerylite.result:GroupResult")

    # -- parts ---------------------------------------------------------------------------------------

    @computed_once
    def amqp(self) -> AMQP:
        """What makes messages, and knows queues and routes."""
        return cast("AMQP", self._part(self.amqp_cls))

    @computed_once
    def control(self) -> Any:
        """Remote control."""
        return self._part(self.control_cls)

    @computed_once
    def events(self) -> Any:
        """Monitoring events."""
        return self._part(self.events_cls)

    @computed_once
    def log(self) -> Any:
        """Logging set-up."""
        return self._part(self.log_cls)

    def _part(self, cls: Any) -> Any:
        return instantiate(symbol_by_name(cls), app=self)

    @computed_once
    def loader(self) -> Any:
        """What reads the configuration source and imports task modules."""
        return get_loader_cls(self.loader_cls)(app=self)

    @computed_once
    def _canvas(self) -> Any:
        return canvas

    @computed_once
    def Worker(self) -> Any:
        """The worker program, bound to this app."""
        return self.subclass_with_self("celerylite.apps.worker:Worker")

    @computed_once
    def WorkController(self) -> Any:
        """An embeddable worker, bound to this app."""
        return self.subclass_with_self("celerylite.worker:WorkController")

    @computed_once
    def Beat(self) -> Any:
        """The beat program, bound to this app."""
        return self.subclass_with_self("celerylite.apps.beat:Beat")

    # -- broker API without a broker -------------------------------------------------------------------

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Connection:
        """A kombu connection to `url` or ``broker_read_url``, for code of your own; we never open it."""
        return Connection(url or self.conf.broker_read_url, **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Connection:
        """A kombu connection to `url` or ``broker_write_url``, for code of your own; we never open it."""
        return Connection(url or self.conf.broker_write_url, **kwargs)

    def connection(self, hostname: str | None = None, **kwargs: Any) -> Connection:
        """A kombu connection to ``broker_url``, for code of your own; we never open it."""
        return self.connection_for_write(hostname, **kwargs)

    broker_connection = connection

    @contextmanager
    def connection_or_acquire(self, connection: Any = None, pool: bool = True, *_: Any, **__: Any) -> Any:
        """`connection`, or a kombu connection that is closed at the end of the block."""
        if connection is not None:
            yield connection
            return
        with self.connection_for_write() as opened:
            yield opened

    default_connection = connection_or_acquire

    @contextmanager
    def producer_or_acquire(self, producer: Any = None) -> Any:
        """`producer`, or None: publishing here needs no producer."""
        yield producer

    default_producer = producer_or_acquire

    def select_queues(self, queues: Any = None) -> None:
        """Consume only from `queues`."""
        self.amqp.queues.select(queues)

    # -- small things ----------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The current moment in the app's time zone."""
        return _clock.utcnow().astimezone(self.timezone)

    @cached_property  # kombu's: it may be deleted, to be read anew, also where nobody has read it
    def timezone(self) -> Any:
        """The setting ``timezone``, else UTC (local time with ``enable_utc=False``)."""
        if self.conf.timezone:
            return zones.get_timezone(self.conf.timezone)
        return zones.utc if self.conf.enable_utc else zones.local

    def uses_utc_timezone(self) -> bool:
        """Whether the app's zone is UTC."""
        return bool(self.timezone == zones.utc)

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first of `defaults` that is not None, else the setting `default_key`."""
        given = next((value for value in defaults if value is not None), None)
        return self.conf.get(default_key) if given is None else given

    def bugreport(self) -> str:
        """Versions and settings, for a bug report."""
        return bugreport(self)

    @property
    def current_task(self) -> Any:
        """The task being executed in this context, or None."""
        return _state.get_current_task()

    @property
    def current_worker_task(self) -> Any:
        """The task that a worker is executing in this context, past plain calls; or None."""
        return _state.get_current_worker_task()

    @computed_once
    def oid(self) -> str:
        """An id of this app in this process."""
        return _engine.process_oid(self)

    @property
    def thread_oid(self) -> str:
        """An id of this app in this thread."""
        oid = getattr(self._local, "oid", None)
        if oid is None:
            oid = self._local.oid = _engine.thread_oid(self)
        return cast("str", oid)

    def subclass_with_self(
        self,
        Class: Any,
        name: str | None = None,
        attribute: str = "app",
        reverse: str | None = None,
        keep_reduce: bool = False,
        **kw: Any,
    ) -> type[Any]:
        """A subclass of `Class` whose class attribute `attribute` is this app."""
        Class = symbol_by_name(Class)
        reverse = reverse or Class.__name__

        def __reduce__(self: Any) -> Any:
            return _unpickle_appattr, (reverse, self.__reduce_args__())

        attrs = {attribute: self, "__module__": Class.__module__, "__doc__": Class.__doc__, **kw}
        if not keep_reduce:
            attrs["__reduce__"] = __reduce__
        return type(name or Class.__name__, (Class,), attrs)

    __class_getitem__: ClassVar[Any] = classmethod(types.GenericAlias)

    def _rgetattr(self, path: str) -> Any:
        return attrgetter(path)(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {appstr(self)}>"

    def __reduce__(self) -> Any:
        if self._using_v1_reduce:
            return _unpickle_app, (self.__class__, self.Pickler, *self.__reduce_args__())
        return _unpickle_app_v2, (self.__class__, self.__reduce_keys__())

    def __reduce_keys__(self) -> dict[str, Any]:
        """The keyword arguments that make the same app again."""
        return {
            "main": self.main,
            "changes": self._conf.changes if self.configured else self._preconf,
            "loader": self.loader_cls,
            "backend": self.backend_cls,
            "amqp": self.amqp_cls,
            "events": self.events_cls,
            "log": self.log_cls,
            "control": self.control_cls,
            "fixups": self.fixups,
            "config_source": self._config_source,
            "config_source_silent": self._config_source_silent,
            "task_cls": self.task_cls,
            "namespace": self.namespace,
        }

    def __reduce_args__(self) -> tuple[Any, ...]:
        """Deprecated by Celery; override `__reduce_keys__`."""
        keys = self.__reduce_keys__()
        names = ("loader", "backend", "amqp", "events", "log", "control")
        changes = self._conf.changes if self.configured else {}
        return (
            self.main,
            changes,
            *(keys[name] for name in names),
            False,
            self._config_source,
            self._config_source_silent,
        )


App = Celery
