"""The watch that starts an app's runtime in a process that serves, once it is up, and nowhere else."""

# Only the standard library is imported here, and no server: this file is loaded wherever an app is made, and
# by `celerylite run` at the start of every Python process. Servers are recognised when *they* are imported.

from __future__ import annotations

import atexit
import functools
import inspect
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder

    from celerylite.app.base import Celery
else:
    # The import system asks for methods, not for classes, and these are not cheap to import.
    Loader = MetaPathFinder = object

__all__ = ("serving", "stopped_serving", "under_run", "watch")

logger = logging.getLogger("celery.worker")


class When(Enum):
    """What a call of the hooked function says about the process."""

    UP = "the server is up when it returns"
    DOWN = "the server is down when it returns or raises"
    SERVES = "the server is up while it runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A function of a server, and what its call means. `spare`: a subclass to be left alone."""

    module: str
    function: str
    when: When
    spare: str | None = None


def _hook(module: str, function: str, when: When, spare: str | None = None) -> Hook:
    return Hook(module=module, function=function, when=when, spare=spare)


#: How each server tells that it is up. A pre-forking master calls none of these, nor a reloader's parent.
HOOKS: tuple[Hook, ...] = (
    _hook("uvicorn.server", "Server.startup", When.UP),
    _hook("uvicorn.server", "Server.shutdown", When.DOWN),
    _hook("hypercorn.asyncio.lifespan", "Lifespan.wait_for_startup", When.UP),
    _hook("hypercorn.asyncio.lifespan", "Lifespan.wait_for_shutdown", When.DOWN),
    _hook("hypercorn.trio.lifespan", "Lifespan.wait_for_startup", When.UP),
    _hook("hypercorn.trio.lifespan", "Lifespan.wait_for_shutdown", When.DOWN),
    # Granian makes this object in the worker, right before it serves; the process ends when that returns.
    _hook("granian.server.mp", "ASGIWorker", When.UP),
    _hook("granian.server.mp", "RSGIWorker", When.UP),
    _hook("granian.server.mp", "WSGIWorker", When.UP),
    _hook("daphne.server", "Server.listen_success", When.UP),
    _hook("daphne.server", "Server.run", When.DOWN),
    _hook("waitress.server", "BaseWSGIServer.run", When.SERVES),
    _hook("waitress.server", "MultiSocketServer.run", When.SERVES),
    # The heartbeat of a gunicorn worker, whatever its class; the first one comes when it serves.
    _hook("gunicorn.workers.base", "Worker.notify", When.UP),
    _hook("gunicorn.workers.base", "Worker.init_process", When.DOWN),
    _hook("werkzeug.serving", "BaseWSGIServer.serve_forever", When.SERVES),
    # The spared class is the one of Django's live server test cases.
    _hook("django.core.servers.basehttp", "WSGIServer.serve_forever", When.SERVES, "ThreadedWSGIServer"),
)

_HOOKED_MODULES = frozenset(hook.module for hook in HOOKS)

#: A program that has imported one of these decides by the hooks above whether it serves.
_DECIDED_BY_HOOKS = (
    "celerylite.bin",
    "django.core.management",
    "flask.cli",
    "granian.server",
    "gunicorn.arbiter",
    "hypercorn.run",
    "uvicorn",
    "uwsgi",
)


class _Process:
    """What is known about this process. A forked child starts with a new one."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.mutex = threading.Lock()
        self.serves = False
        self.starter: threading.Thread | None = None
        self.started: list[Celery] = []


_apps: WeakSet[Celery] = WeakSet()
_process = _Process()
_run_app: str | None = None
#: The process that `celerylite run` became, where it was given an app; its forks are not that program.
_program_of_run: int | None = None


def watch(app: Celery) -> None:
    """Start the app's runtime once this process serves, if it ever does. Cheap; may be called again."""
    _apps.add(app)
    _hook_servers()
    if _program_of_run == os.getpid() and not any(name in sys.modules for name in _DECIDED_BY_HOOKS):
        serving()


def under_run(*, app_name: str, is_program: bool) -> None:
    """Take note that `celerylite run` started this process, for the app of that name (its `-A`).

    `is_program`: this is the very process that was started, not a child of it. The program counts
    as serving as soon as it has made an app, unless a server is to say so.
    """
    global _run_app, _program_of_run
    _run_app = app_name
    _program_of_run = os.getpid() if is_program else None
    _hook_servers()


def serving() -> None:
    """Say that this process serves: the runtimes of its apps are started, in a thread, without waiting."""
    process = _this_process()
    with process.mutex:
        if process.serves:
            return
        process.serves = True
        # Opening a database may take its time, and the caller may be a server's event loop.
        process.starter = threading.Thread(
            target=_start_runtimes, args=(process,), name="celerylite-autostart", daemon=True
        )
    process.starter.start()


def stopped_serving() -> None:
    """Say that this process serves no longer: the runtimes that were started for it are stopped. Blocks."""
    process = _this_process()
    with process.mutex:
        starter, process.starter = process.starter, None
        process.serves = False
    if starter is None:
        return
    starter.join()
    while process.started:
        app = process.started.pop()
        try:
            app.stop_runtime()
        except Exception:
            logger.exception("The runtime of %r could not be stopped", app)


def _this_process() -> _Process:
    global _process
    if _process.pid != os.getpid():
        _process = _Process()
    return _process


def _start_runtimes(process: _Process) -> None:
    for app in _apps_to_start():
        try:
            if app.conf.get("celerylite_runtime", "auto") in ("auto", "on", True):
                app._autostart()
                process.started.append(app)
        except Exception:
            # The server goes on without it; the first call of a task will say the same to its caller.
            logger.exception("The runtime of %r could not be started", app)
    if _program_of_run != process.pid:
        # After the apps' own exit handlers are registered, so that this comes before them: a server gives
        # back what waits. A program that merely ends finishes it, which is what theirs do.
        _stop_when_the_process_ends()


def _apps_to_start() -> list[Celery]:
    if _run_app is None:
        return list(_apps)
    if _is_main_module(_run_app):
        _let_main_module_configure(_apps)
        return list(_apps)
    try:
        # Waits for the import of its module, if that is where the first app was made just now.
        _apps.add(_find_app(_run_app))
    except Exception:
        logger.exception("celerylite run: the app %r could not be loaded", _run_app)
    return list(_apps)


def _find_app(name: str) -> Celery:
    # Only here, and only once a process serves: this imports the user's project.
    from celerylite.app.utils import find_app

    return cast("Celery", find_app(name))


def _is_main_module(name: str) -> bool:
    # `celerylite run -A jobs -- python jobs.py`: importing it by its name would run the program twice.
    main_file = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    return os.path.splitext(os.path.basename(main_file))[0] == name.partition(":")[0]


def _let_main_module_configure(apps: Iterable[Celery]) -> None:
    # Nothing tells when a script is done with its settings, unless it is by using the app.
    waiting = threading.Event()
    for _ in range(10):
        if all(app.finalized for app in list(apps)):
            return
        waiting.wait(0.1)


_stops_at_exit_of: int | None = None


def _stop_when_the_process_ends() -> None:
    """For servers that end without telling: exit handlers, and those of a multiprocessing child."""
    global _stops_at_exit_of
    if _stops_at_exit_of == os.getpid():
        return
    _stops_at_exit_of = os.getpid()
    atexit.register(stopped_serving)
    multiprocessing_util = sys.modules.get("multiprocessing.util")
    if multiprocessing_util is not None:
        multiprocessing_util.Finalize(None, stopped_serving, exitpriority=100)


# How the hooks get into the servers.


_finder_is_installed = False


def _hook_servers() -> None:
    global _finder_is_installed
    if not _finder_is_installed:
        _finder_is_installed = True
        sys.meta_path.insert(0, _ServerFinder())
    for name in _HOOKED_MODULES:
        if name in sys.modules:
            _apply_hooks(sys.modules[name])
    if "uwsgi" in sys.modules:
        _hook_uwsgi(sys.modules["uwsgi"])


def _apply_hooks(module: ModuleType) -> None:
    if getattr(module, "_celerylite_hooked", False):
        return
    module._celerylite_hooked = True  # type: ignore[attr-defined]
    for hook in HOOKS:
        if hook.module == module.__name__:
            _apply(hook, module)


def _apply(hook: Hook, module: ModuleType) -> None:
    *owner_name, name = hook.function.split(".")
    owner: Any = getattr(module, owner_name[0], None) if owner_name else module
    original = getattr(owner, name, None)
    if original is None:
        logger.warning("%s has no %s: celerylite cannot tell when it serves", hook.module, hook.function)
        return
    if hook.spare is not None and hasattr(module, hook.spare):
        setattr(getattr(module, hook.spare), name, original)
    wrap = _wrap_coroutine if inspect.iscoroutinefunction(original) else _wrap_function
    setattr(owner, name, wrap(original, hook.when))


def _wrap_function(original: Callable[..., Any], when: When) -> Callable[..., Any]:
    @functools.wraps(original, updated=())
    def hooked(*args: Any, **kwargs: Any) -> Any:
        with _SURROUNDINGS[when]():
            return original(*args, **kwargs)

    return hooked


def _wrap_coroutine(original: Callable[..., Any], when: When) -> Callable[..., Any]:
    @functools.wraps(original)
    async def hooked(*args: Any, **kwargs: Any) -> Any:
        try:
            answer = await original(*args, **kwargs)
        finally:
            if when is When.DOWN:
                await _without_blocking_the_loop(stopped_serving)
        if when is When.UP:
            serving()
        return answer

    return hooked


async def _without_blocking_the_loop(function: Callable[[], None]) -> None:
    # Somebody may have the server on a loop of theirs, with more than the server on it.
    from asyncio import get_running_loop

    try:
        loop = get_running_loop()
    except RuntimeError:
        # A trio loop, which is the server's alone and at its end.
        function()
    else:
        await loop.run_in_executor(None, function)


@contextmanager
def _up_after() -> Iterator[None]:
    yield
    serving()


@contextmanager
def _down_after() -> Iterator[None]:
    try:
        yield
    finally:
        stopped_serving()


@contextmanager
def _up_during() -> Iterator[None]:
    with _sigterm_unwinds():
        serving()
        with _down_after():
            yield


_SURROUNDINGS = {When.UP: _up_after, When.DOWN: _down_after, When.SERVES: _up_during}


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM leave the block as an exception, so that what runs can be stopped, and die of it then.

    Only where nobody handles it: there the process would be gone at once, with its tasks.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    received: list[int] = []

    def unwind(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if received:
            signal.raise_signal(received[0])


def _hook_uwsgi(uwsgi: Any) -> None:
    """uWSGI has no function to wrap but a hook of its own, called in each worker after the fork."""
    if getattr(uwsgi, "_celerylite_hooked", False):
        return
    uwsgi._celerylite_hooked = True
    uwsgi.post_fork_hook = _after(getattr(uwsgi, "post_fork_hook", None), serving)
    uwsgi.atexit = _after(getattr(uwsgi, "atexit", None), stopped_serving)
    if uwsgi.worker_id():
        # lazy-apps: the fork is past, the program is being loaded, and nothing tells when that is done.
        threading.Thread(target=_when_loaded, args=(uwsgi,), name="celerylite-uwsgi", daemon=True).start()


def _when_loaded(uwsgi: Any) -> None:
    waiting = threading.Event()
    while not any(worker["apps"] for worker in uwsgi.workers() if worker["id"] == uwsgi.worker_id()):
        waiting.wait(0.1)
    serving()


def _after(first: Callable[[], object] | None, then: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        if first is not None:
            first()
        then()

    return both


class _ServerFinder(MetaPathFinder):
    """Finds nothing itself: it has the hooks applied to a server's module right after its import."""

    def __init__(self) -> None:
        self._asking = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _HOOKED_MODULES or getattr(self._asking, "name", None) == fullname:
            return None
        self._asking.name = fullname
        try:
            spec = find_spec(fullname)
        finally:
            self._asking.name = None
        if spec is not None and spec.loader is not None:
            spec.loader = _HookingLoader(spec.loader)
        return spec


class _HookingLoader(Loader):
    """The module's own loader, and the hooks after it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _apply_hooks(module)
