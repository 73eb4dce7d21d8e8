"""The fixtures that run one test against either library: the app, its worker, and the leak check."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import logging
import threading
import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import ModuleType
from typing import Any

import pytest

#: Celery's own set-up for tests: nothing outside the process, nothing kept after it.
MEMORY: dict[str, Any] = {"broker_url": "memory://", "result_backend": "cache+memory://"}

#: Nothing in these folders may take longer than this for an event that will surely come.
DEADLINE_S = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--lib",
        choices=("celery", "celerylite"),
        default="celerylite",
        help="the library that compat_tests/both runs against",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what speaks of one library only when the other one is asked for."""
    chosen = config.getoption("--lib")
    for item in items:
        marker = item.get_closest_marker("only")
        if marker is not None and marker.args[0] != chosen:
            item.add_marker(pytest.mark.skip(reason=f"a promise of {marker.args[0]} alone"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(lib): a test that holds for one of the two libraries")


@pytest.fixture(scope="session")
def hastened_celery() -> None:
    """Celery without its polling pauses, also where celerylite is the library under test."""
    _hasten_celery()


@pytest.fixture(scope="session")
def lib(request: pytest.FixtureRequest) -> Any:
    """The library under test, as users import it: `lib.Celery`, `lib.shared_task`, ..."""
    if request.config.getoption("--lib") == "celery":
        request.getfixturevalue("hastened_celery")
    return importlib.import_module(request.config.getoption("--lib"))


@pytest.fixture(scope="session")
def submodule(lib: Any) -> Callable[[str], Any]:
    """Import a module of the library under test: `submodule("signals")`."""

    def load(name: str) -> Any:
        return importlib.import_module(f"{lib.__name__}.{name}")

    return load


@pytest.fixture
def new_app(lib: Any) -> Iterator[Callable[..., Any]]:
    """Make apps with the set-up for tests, `new_app(name, setting=value, ...)`; all are closed afterwards."""
    with ExitStack() as stack:

        def make(name: str = "tests", *, cls: Any = None, **settings: Any) -> Any:
            app = (cls or lib.Celery)(name, **MEMORY)
            app.conf.update(settings)
            stack.callback(app.close)
            return app

        yield make


@pytest.fixture
def app(new_app: Callable[..., Any]) -> Any:
    """A fresh app, the current one, whose messages wait because no worker runs."""
    return new_app()


@pytest.fixture
def start_worker(submodule: Callable[[str], Any]) -> Callable[..., AbstractContextManager[Any]]:
    """`with start_worker(app):` runs a worker of four threads; tasks may be added while it runs."""
    testing = submodule("contrib.testing.worker")

    @contextmanager
    def start(app: Any, **options: Any) -> Iterator[Any]:
        defaults = {"pool": "threads", "concurrency": 4, "perform_ping_check": False}
        worker: Any = None
        try:
            with testing.start_worker(app, **{**defaults, **options}) as worker:
                yield worker
        finally:
            # Celery leaves its threads behind: what they publish last would be found by the next test.
            executor = getattr(getattr(worker, "pool", None), "executor", None)
            if executor is not None:
                executor.shutdown()

    return start


@pytest.fixture
def running_app(app: Any, start_worker: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
    """The fresh app together with a running worker."""
    with start_worker(app):
        yield app


class Journal(list[Any]):
    """What happened, in order, from any thread; `until` waits for an entry."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def note(self, entry: Any) -> None:
        with self._changed:
            self.append(entry)
            self._changed.notify_all()

    def until(self, entry: Any, times: int = 1) -> list[Any]:
        """Wait until `entry` was noted `times` times and return all entries; fail at the deadline."""
        with self._changed:
            noted = self._changed.wait_for(lambda: self.count(entry) >= times, DEADLINE_S)
            assert noted, f"expected {entry!r} to be noted {times} times, got {list(self)!r}"
            return list(self)

    def find(self, matches: Callable[[Any], bool]) -> Any:
        """Wait until an entry that `matches` was noted and return the first; fail at the deadline."""
        with self._changed:
            found = self._changed.wait_for(lambda: any(map(matches, self)), DEADLINE_S)
            assert found, f"expected another entry than {list(self)!r}"
            return next(filter(matches, self))


@pytest.fixture
def journal() -> Journal:
    """An ordered record of what happened in a test, in whichever thread."""
    return Journal()


@pytest.fixture
def receive() -> Iterator[Callable[..., Any]]:
    """Connect a function to a signal until the test ends: `receive(signals.task_prerun, handler)`."""
    with ExitStack() as stack:

        def connect(signal: Any, handler: Callable[..., Any], sender: Any = None) -> Any:
            signal.connect(handler, sender=sender, weak=False)
            stack.callback(signal.disconnect, handler, sender=sender)
            return handler

        yield connect


@pytest.fixture(autouse=True)
def _isolated(request: pytest.FixtureRequest) -> Iterator[None]:
    """Put back what a test can change for the next one: apps, receivers, log handlers, a refused `get`."""
    library = importlib.import_module(request.config.getoption("--lib"))
    with ExitStack() as stack:
        _restore_apps(library, stack)
        _restore_join(library, stack)
        # What a worker counted, what was revoked, and requests that waited for their retry when it stopped.
        state: Any = importlib.import_module(f"{library.__name__}.worker.state")
        stack.callback(state.reset_state)
        _restore_receivers(library, stack)
        _restore_logging(stack)
        if library.__name__ == "celery":
            stack.callback(_empty_memory_of_celery)
        yield


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of celerylite that leaves a thread, an asyncio task or a connection behind.

    What Celery leaves is its own affair.
    """
    if request.config.getoption("--lib") == "celery":
        yield
        return
    connections = _open_connections()
    threads, opened = set(threading.enumerate()), set(connections)
    yield
    left = [thread for thread in threading.enumerate() if thread not in threads and not _ends_soon(thread)]
    assert not left, f"expected no thread to outlive the test, got {left!r}"
    assert not _pending_asyncio_tasks(), "expected no asyncio task to outlive the test"
    outlived = [raw for key, raw in list(connections.items()) if key not in opened and _is_open(raw)]
    assert not outlived, "expected no SQL connection to outlive the test"


@functools.cache
def _open_connections() -> dict[int, Any]:
    """The database connections that SQLAlchemy holds open in this process by their ids, kept up to date."""
    sqlalchemy: Any = importlib.import_module("sqlalchemy")
    pool: Any = importlib.import_module("sqlalchemy.pool")
    connections: dict[int, Any] = {}
    sqlalchemy.event.listen(pool.Pool, "connect", lambda raw, record: connections.update({id(raw): raw}))
    for gone in ("close", "close_detached", "detach"):
        sqlalchemy.event.listen(pool.Pool, gone, lambda raw, *record: connections.pop(id(raw), None))
    return connections


def _is_open(raw: Any) -> bool:
    # SQLAlchemy tells of none that it closes because it was lost while it was being made.
    closed: bool = raw.closed if hasattr(raw, "closed") else not getattr(raw, "open", True)
    return not closed


def _ends_soon(thread: threading.Thread) -> bool:
    """Whether the thread, which may be about to end, has ended within a moment."""
    thread.join(1.0)
    return not thread.is_alive()


def _pending_asyncio_tasks() -> list[asyncio.Task[Any]]:
    with warnings.catch_warnings():
        # Collecting the garbage of other tests may warn about what those left unclosed.
        warnings.simplefilter("ignore")
        gc.collect(0)
    return [task for task in list(_all_asyncio_tasks()) if not task.done()]


def _all_asyncio_tasks() -> list[asyncio.Task[Any]]:
    scheduled: Any = getattr(asyncio.tasks, "_scheduled_tasks", ())
    return [task for task in scheduled if task is not None]


def _restore_apps(library: ModuleType, stack: ExitStack) -> None:
    state: Any = importlib.import_module(f"{library.__name__}._state")
    # These load lazily; the tasks they share with all apps must be among what is put back.
    for name in ("app.builtins", "contrib.testing.tasks"):
        importlib.import_module(f"{library.__name__}.{name}")
    default, finalizers = state.default_app, set(state._on_app_finalizers)
    state._set_current_app(None)

    def restore() -> None:
        # Apps that are not collected yet would take the shared tasks of later tests.
        for app in list(state._get_active_apps()):
            state._deregister_app(app)
        state._on_app_finalizers.clear()
        state._on_app_finalizers.update(finalizers)
        state.set_default_app(default)
        state._set_current_app(None)

    stack.callback(restore)


def _restore_join(library: ModuleType, stack: ExitStack) -> None:
    """Put back whether `get` is refused: a worker that is made but never started leaves it so for all."""
    state: Any = importlib.import_module(f"{library.__name__}._state")
    stack.callback(state._set_task_join_will_block, state.task_join_will_block())


def _restore_receivers(library: ModuleType, stack: ExitStack) -> None:
    signals: Any = importlib.import_module(f"{library.__name__}.signals")
    for signal in vars(signals).values():
        if isinstance(signal, signals.Signal):
            stack.callback(_set_receivers, signal, list(signal.receivers or ()))


def _set_receivers(signal: Any, receivers: list[Any]) -> None:
    signal.receivers = receivers
    getattr(signal, "sender_receivers_cache", {}).clear()


def _restore_logging(stack: ExitStack) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def restore() -> None:
        root.handlers[:] = handlers
        root.setLevel(level)

    stack.callback(restore)


def _hasten_celery() -> None:
    """Take Celery's polling pauses out, so that a worker starts, runs and stops within milliseconds.

    Kombu's memory transport looks for messages once a second, the worker looks for a stop every two, and
    results are polled every half second: pauses that are no part of what the tests speak about. Its worker
    is also told to take tasks that were added after its start.
    """
    memory: Any = importlib.import_module("kombu.transport.memory")
    memory.Transport.polling_interval = 0.002
    # The pauses of a worker and of a receiver of events only: a reply may take its time.
    _cap(memory.Transport, "drain_events", "timeout", 0.01, only=(1.0, 2.0))
    backends: Any = importlib.import_module("celery.backends.base")
    _cap(backends.SyncBackendMixin, "wait_for", "interval", 0.005)
    _cap(backends.KeyValueStoreBackend, "get_many", "interval", 0.005)
    timer: Any = importlib.import_module("celery.utils.timer2")
    real_sleep = timer.sleep
    timer.sleep = lambda delay: real_sleep(min(delay, 0.005))
    timer.Timer._next_entry = timer.Timer.next = _never_waits(timer.Timer._next_entry)
    consumer: Any = importlib.import_module("celery.worker.consumer.consumer")
    consumer.Consumer.Strategies = _late_strategies


def _never_waits(next_entry: Callable[[Any], float | None]) -> Callable[[Any], float | None]:
    """Let a timer with nothing to do ask again at once instead of waiting up to a second."""

    def ask(timer: Any) -> float | None:
        if timer.schedule.queue:
            return next_entry(timer)
        return 0.005

    return ask


def _cap(owner: Any, method: str, argument: str, most: float, only: Container[float] | None = None) -> None:
    """Make `argument` of `owner.method`, given by name, `most` at most and by default.

    `only` names the values that are lowered.
    """
    original = getattr(owner, method)

    def capped(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.get(argument)
        if given is None or only is None or given in only:
            kwargs[argument] = most if given is None else min(given, most)
        return original(*args, **kwargs)

    setattr(owner, method, capped)


class _LateStrategies(dict[str, Any]):
    """A Celery worker's table of tasks that also knows those added after the worker's start."""

    def __init__(self, consumer: Any) -> None:
        super().__init__()
        self._consumer = consumer

    def __missing__(self, name: str) -> Any:
        trace: Any = importlib.import_module("celery.app.trace")
        app = self._consumer.app
        task = app.tasks[name]
        self[name] = task.start_strategy(app, self._consumer)
        task.__trace__ = trace.build_tracer(name, task, app.loader, self._consumer.hostname, app=app)
        return self[name]


def _late_strategies(consumer: Any) -> _LateStrategies:
    return _LateStrategies(consumer)


def _empty_memory_of_celery() -> None:
    """Celery's memory broker and cache belong to the process: empty them for the next test."""
    memory: Any = importlib.import_module("kombu.transport.memory")
    memory.Transport.global_state.clear()
    memory.Channel.queues.clear()
    cache: Any = importlib.import_module("celery.backends.cache")
    cache._DUMMY_CLIENT_CACHE.clear()
