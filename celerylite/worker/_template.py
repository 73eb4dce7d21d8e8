"""The template of child processes: a process with the app loaded and a single thread, forked for each."""

from __future__ import annotations

import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from celerylite import _clock, platforms, signals
from celerylite.worker import _child
from celerylite.worker._child_link import Exited, Failed, Fork, Leave, Link, Loaded, Signal

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Home", "Template", "by_fork", "by_spawn", "find_home", "main")

#: What a fresh interpreter runs: the path first, so that celerylite is found where it was found here.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from celerylite.worker._template import main; main(int(sys.argv[2]))"
)
#: Seconds between looks whether the parent is alive. Its end of the connection may have other holders.
_LOOK_S = 1.0
#: What calls in children import at first use.
_FOR_CHILDREN = (
    "celerylite.app.autoretry",
    "celerylite.app.builtins",
    "celerylite.app.trace",
    "celerylite._awaiting",
    "celerylite._schedule",
    "celerylite.canvas",
    "celerylite.result",
    "celerylite._workflow",
    "celerylite._store.sql",
)
#: Seconds to wait for the imports of other threads before a fork, and between looks.
_IMPORT_PATIENCE_S, _IMPORT_LOOK_S = 1.0, 0.005
#: It has no public face; in a process that was forked nothing else can be asked for the locks of modules.
_bootstrap: Any = import_module("importlib._bootstrap")


class Home(NamedTuple):
    """Where another interpreter finds the app."""

    module: str
    attribute: str


class _Load(NamedTuple):
    """The first message to a template that was spawned."""

    home: Home
    #: Modules that define tasks.
    modules: tuple[str, ...]
    #: Settings that were changed after the configuration was read.
    changes: dict[str, Any]


class Template:
    """The parent's hold on a template."""

    def __init__(self, link: Link, pid: int, wait: Callable[[], object]) -> None:
        self.link = link
        self._pid = pid
        self._wait = wait
        #: Names of the tasks it knows, once it is loaded.
        self.tasks: frozenset[str] | None = None

    def close(self) -> None:
        """End it, and with it every child that is left. Blocks until it is gone."""
        # Said outright: a process that was forked meanwhile may hold our end of the connection.
        self.link.send(Leave())
        self.link.close()
        # Somebody else may collect the children of this process.
        with suppress(ChildProcessError, ProcessLookupError):
            if self.tasks is None:
                # It has no children to see to, and what it imports may take its time.
                os.kill(self._pid, signal.SIGKILL)
            self._wait()


# -- starting one, in the parent -----------------------------------------------------------------------


def find_home(app: Celery) -> Home | None:
    """Where the app can be imported from; None for one that only this process has."""
    homes = [
        Home(name, attribute)
        for name, module in list(sys.modules.items())
        if _is_of_user(name) and getattr(module, "__spec__", None) is not None
        for attribute, value in list(vars(module).items())
        if value is app
    ]
    # The module that makes the app has, as a rule, a shorter name than those that import it.
    return min(homes, key=lambda home: (len(home.module), home), default=None)


def _is_of_user(module: str) -> bool:
    return module.partition(".")[0] not in {"__main__", "__mp_main__", "celerylite", "celery"}


def by_fork(app: Celery) -> Template:
    """Make a template by forking this process: it has the app as it is now, wherever that came from."""
    ours, theirs = Pipe()
    parent = os.getpid()
    _finish_imports()
    _flush()
    with warnings.catch_warnings():
        # Python 3.12 warns when a process with threads is forked; see docs/decisions.md.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        # Nothing may get from here into the frames of the parent.
        _run_and_exit(lambda: _become_template(app, ours, theirs, parent))
    theirs.close()
    return Template(Link(ours), pid, lambda: os.waitpid(pid, 0))


def _finish_imports() -> None:
    """Import what children need, and wait, though not for ever, until no other thread imports anything."""
    for name in _FOR_CHILDREN:
        import_module(name)
    end = _clock.monotonic() + _IMPORT_PATIENCE_S
    while _imported_elsewhere() and _clock.monotonic() < end:
        threading.Event().wait(_IMPORT_LOOK_S)


def _imported_elsewhere() -> list[str]:
    """Modules that other threads are importing. Only the import system itself knows."""
    me = threading.get_ident()
    locks = [(name, reference()) for name, reference in list(_bootstrap._module_locks.items())]
    return [name for name, lock in locks if getattr(lock, "owner", None) not in (None, me)]


def _forget_imports_of_the_parent() -> None:
    # Whoever imported them is not in this process: nobody would ever let go of their locks.
    for name in _imported_elsewhere():
        _bootstrap._module_locks.pop(name, None)
        module = sys.modules.get(name)
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            # Half made; whoever needs it imports it anew.
            del sys.modules[name]


def _become_template(app: Celery, ours: Connection, theirs: Connection, parent: int) -> None:
    _forget_imports_of_the_parent()
    ours.close()
    for signum in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    _TemplateProcess(theirs, parent, app).serve()


def by_spawn(app: Celery, home: Home) -> Template:
    """Make a template in a fresh interpreter, which imports the app from `home`."""
    ours, theirs = Pipe()
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    command = [sys.executable, "-c", _PROGRAM, path, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    link = Link(ours)
    modules = {task.__module__ for task in app.tasks.values() if _is_of_user(task.__module__)}
    link.send(_Load(home, tuple(sorted(modules)), dict(_picklable(app.conf.changes))))
    return Template(link, process.pid, process.wait)


def _picklable(changes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in changes.items():
        # What cannot travel comes from the modules of the app, if at all.
        with suppress(Exception):
            pickle.dumps(value)
            yield key, value


# -- being one -------------------------------------------------------------------------------------------


def main(handle: int) -> None:
    """Be the template of the process that holds the other end of `handle`. Blocks."""
    connection = Connection(handle)
    parent = os.getppid()
    _leave_signals_to_the_parent()
    load = cast("_Load", connection.recv())
    try:
        app = _load(load)
    except BaseException:
        connection.send(Failed(traceback.format_exc()))
        return
    _run_and_exit(lambda: _TemplateProcess(connection, parent, app).serve())


def _load(load: _Load) -> Celery:
    app: Celery = getattr(import_module(load.home.module), load.home.attribute)
    # Set before anything is imported that might publish: nothing is run in this process.
    app.conf.celerylite_runtime = "off"
    app.conf.update(load.changes)
    app.conf.celerylite_runtime = "off"
    app.loader.init_worker()
    for module in load.modules:
        import_module(module)
    app.finalize()
    # As Celery's worker before it forks: children have what the receivers set up.
    signals.worker_init.send(sender=None)
    # What children need when they publish or store a state: loaded once, here.
    import_module("celerylite._store.sql")
    return app


def _leave_signals_to_the_parent() -> None:
    # It decides when this process and its children end, not who signals the whole group.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)


def _run_and_exit(work: Callable[[], None]) -> None:
    """Call `work` and end this process, without the clean-up of the interpreter that was forked."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def _flush() -> None:
    """Write out what was printed: after a fork two processes would."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


class _TemplateProcess:
    """Forks, signals and collects children as it is told; ends when the parent does, and they with it."""

    def __init__(self, connection: Connection, parent: int, app: Celery) -> None:
        self._connection = connection
        self._link = Link(connection)
        self._parent = parent
        self._app = app
        self._children: dict[int, int] = {}
        self._selector = selectors.DefaultSelector()
        self._ended, self._ends = os.pipe()

    def serve(self) -> None:
        _leave_signals_to_the_parent()
        os.set_blocking(self._ended, False)
        os.set_blocking(self._ends, False)
        signal.set_wakeup_fd(self._ends, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        self._selector.register(self._link, selectors.EVENT_READ)
        self._selector.register(self._ended, selectors.EVENT_READ)
        self._link.send(Loaded(frozenset(self._app.tasks)))
        try:
            while os.getppid() == self._parent and self._step():
                pass
        finally:
            self._end_children()

    def _step(self) -> bool:
        for key, _ in self._selector.select(_LOOK_S):
            if key.fileobj is not self._link:
                os.read(self._ended, 1024)
            elif not self._obey(self._link.receive()):
                return False
        self._collect()
        return True

    def _obey(self, message: Any) -> bool:
        if isinstance(message, Fork):
            self._fork(message)
        elif isinstance(message, Signal):
            # Only this process collects children: the number cannot belong to another process by now.
            for pid in (pid for pid, number in self._children.items() if number == message.number):
                os.kill(pid, message.signum)
        return isinstance(message, Fork | Signal)

    def _fork(self, message: Fork) -> None:
        handle = self._link.receive_handle()
        template = os.getpid()
        _flush()
        pid = os.fork()
        if pid == 0:
            _run_and_exit(lambda: self._become_child(message, handle, template))
        os.close(handle)
        self._children[pid] = message.number

    def _become_child(self, message: Fork, handle: int, template: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        platforms.set_pdeathsig("SIGKILL")
        if os.getppid() != template:
            return  # It died before the line above.
        self._selector.close()
        self._connection.close()
        os.close(self._ended)
        os.close(self._ends)
        _child.serve(self._app, Connection(handle), message.number, message.settings)

    def _collect(self) -> None:
        for pid in list(self._children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._link.send(Exited(self._children.pop(pid), os.waitstatus_to_exitcode(status)))

    def _end_children(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)
