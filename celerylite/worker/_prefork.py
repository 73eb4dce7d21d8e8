"""The pool of child processes of a runtime: which there are, which is free, and what becomes of each."""

from __future__ import annotations

import os
import selectors
import signal
import threading
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

from celerylite import _clock, signals
from celerylite.utils.log import get_logger
from celerylite.worker import _child_log, _template
from celerylite.worker._child_handle import Child, ChildState, human_status
from celerylite.worker._child_link import (
    ChildSettings,
    Done,
    Exited,
    Failed,
    Fork,
    Leave,
    Link,
    Loaded,
    LogLine,
    Up,
)
from celerylite.worker._kinds import start_method

if TYPE_CHECKING:
    from celerylite.app.base import Celery
    from celerylite.worker import Runtime

__all__ = ("PoolClosed", "ProcessPool", "pool_for")

logger = get_logger("celery.pool")

#: Seconds after which a child that is not needed at this load is let go. As in Celery's autoscaler.
_IDLE_S = 30.0
#: Seconds between looks at children that are starting.
_LOOK_S = 0.2
#: Seconds until a child is tried again after one failed to start: doubling from the first to the last.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 5.0


class PoolClosed(Exception):
    """The pool is stopping: no call can be given to a child any more."""


class ProcessPool:
    """Up to `limit` child processes, started as calls need them. Thread-safe.

    One thread of this class talks with all of them: it takes what they send, notices their end, lets go of
    those that idle beyond `keep`, and starts new ones. They are forked from a template process: see
    `_template`. What calls need is done in the thread of who has borrowed a child.
    """

    def __init__(self, app: Celery, settings: ChildSettings, *, limit: int, keep: int) -> None:
        self._app = app
        self._settings = settings
        self._limit = limit
        self._keep = keep
        self._alive_timeout = float(app.conf.worker_proc_alive_timeout or 0) or None
        self._method = start_method(app)
        self._changed = threading.Condition()
        self._children: dict[int, Child] = {}
        self._numbers = 0
        self._wanted = 0
        self._waiting = 0
        self._failures = 0
        self._not_before = 0.0
        self._template: _template.Template | None = None
        self._retired: list[_template.Template] = []
        self._closed = False
        #: Children that did not leave are left to the template, which kills them.
        self._abandoned = False
        self._selector = selectors.DefaultSelector()
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._wake_up)
        self._thread = threading.Thread(target=self._serve, name="celerylite-prefork", daemon=True)
        self._thread.start()

    # -- for the threads that have calls -----------------------------------------------------------------

    def start(self, number: int) -> None:
        """Begin to start so many children, to have them ready."""
        with self._changed:
            self._wanted = max(self._wanted, number)
        self._wake()

    def borrow(self, task: str) -> Child:
        """A child that waits for a call and knows the task. Blocks until there is one; raises PoolClosed."""
        with self._changed:
            self._renew_for(task)
            self._waiting += 1
            try:
                while (child := self._free()) is None:
                    if self._closed:
                        raise PoolClosed
                    self._want_more()
                    self._changed.wait()
            finally:
                self._waiting -= 1
            child.become(ChildState.BUSY)
            return child

    def give_back(self, child: Child) -> None:
        """The call that a child was borrowed for is over."""
        with self._changed:
            if child.state is ChildState.BUSY:
                child.become(ChildState.IDLE)
                self._changed.notify_all()
            if child.template is not self._template:
                self._wake()

    def resize(self, limit: int) -> None:
        """Have up to so many from now on; of a full pool, that many stay. Those too many leave when idle."""
        with self._changed:
            if self._keep == self._limit:
                self._keep = limit
            self._limit, self._keep = limit, min(self._keep, limit)
            self._wanted = max(self._wanted, self._keep - self._staying())
        self._wake()

    @property
    def is_closed(self) -> bool:
        """Whether the pool is stopping."""
        return self._closed

    def processes(self) -> list[int]:
        """The process ids of the children that are up."""
        with self._changed:
            return [child.pid for child in self._children.values() if child.pid is not None]

    def _free(self) -> Child | None:
        free = [
            child
            for child in self._children.values()
            if child.state is ChildState.IDLE and child.template is self._template
        ]
        # The one that was used last: those that are not needed become old and leave.
        return max(free, key=lambda child: child.since, default=None)

    def _want_more(self) -> None:
        starting = sum(child.state is ChildState.STARTING for child in self._children.values())
        if self._waiting > starting + self._wanted:
            self._wanted = self._waiting - starting
            self._wake()

    def _renew_for(self, task: str) -> None:
        """Have children that know a task which was defined after they were made."""
        template = self._template
        if template is None or template.tasks is None or task in template.tasks or self._method == "spawn":
            return  # Known, or to be imported by the child.
        logger.info("task %s was defined after the child processes were made: they are made anew", task)
        self._method = "fork"
        self._retire_template()

    def stop(self, timeout: float) -> None:
        """End every child: idle ones leave, the others are killed. Blocks, at most `timeout` seconds."""
        with self._changed:
            self._closed = True
            for child in self._children.values():
                if child.state is ChildState.IDLE:
                    self._let_go(child)
                else:
                    child.kill()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._children, timeout):
                logger.warning("child processes did not leave in %s s and are killed", timeout)
                self._abandoned = True
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _wake(self) -> None:
        try:
            os.write(self._wakes, b"\0")
        except OSError:
            logger.debug("the pool of child processes has ended")

    # -- the thread that talks with all of them ------------------------------------------------------------

    def _serve(self) -> None:
        while not (self._closed and (self._abandoned or not self._children)):
            try:
                self._listen()
            except Exception:
                # Calls wait for what this thread hears: it goes on.
                logger.critical("Unhandled error in the pool of child processes", exc_info=True)
                with self._changed:
                    self._failed_to_start()
        self._close()

    def _listen(self) -> None:
        for key, _ in self._selector.select(self._pause()):
            key.data()
        with self._changed:
            self._look_after()

    def _wake_up(self) -> None:
        os.read(self._woken, 4096)

    def _pause(self) -> float | None:
        """Seconds until something is due though nobody says anything."""
        with self._changed:
            if self._wanted and (self._template is None or self._template.tasks is not None):
                return max(0.0, self._not_before - _clock.monotonic())
            if any(child.state is ChildState.STARTING for child in self._children.values()):
                return _LOOK_S
            return _IDLE_S / 10 if self._staying() > self._keep else None

    def _close(self) -> None:
        with self._changed:
            for child in list(self._children.values()):
                self._gone(child, -signal.SIGKILL)
            templates, self._template = [*self._retired, self._template], None
            wakes, self._wakes = self._wakes, -1
            os.close(wakes)
        for template in templates:
            if template is not None:
                template.close()
        self._selector.close()
        os.close(self._woken)

    def _look_after(self) -> None:
        now = _clock.monotonic()
        for child in list(self._children.values()):
            aged = now - child.since
            if child.state is ChildState.STARTING and self._alive_timeout and aged > self._alive_timeout:
                logger.error("Timed out waiting for UP message from ForkPoolWorker-%s", child.number)
                child.kill()
            elif child.state is ChildState.IDLE and self._is_surplus(child, aged):
                self._let_go(child)
        for template in [t for t in self._retired if not self._children_of(t)]:
            self._drop_template(template)
        if self._wanted and not self._closed and now >= self._not_before:
            self._start_wanted()

    def _staying(self) -> int:
        # Without those that leave: a call may be waiting for the place of one.
        return sum(child.state is not ChildState.LEAVING for child in self._children.values())

    def _is_surplus(self, child: Child, aged: float) -> bool:
        there = self._staying()
        is_idle = there > self._limit or (aged > _IDLE_S and there > self._keep)
        return is_idle or child.template is not self._template

    def _let_go(self, child: Child) -> None:
        child.become(ChildState.LEAVING)
        child.link.send(Leave())

    # Starting.

    def _start_wanted(self) -> None:
        if self._template is None:
            self._template = self._make_template()
            self._selector.register(self._template.link, selectors.EVENT_READ, self._hear_template)
        if self._template.tasks is None:
            return  # It is being loaded.
        for _ in range(min(self._wanted, self._limit - self._staying())):
            self._fork()
        self._wanted = 0

    def _make_template(self) -> _template.Template:
        home = None if self._method == "fork" else _template.find_home(self._app)
        if home is not None:
            return _template.by_spawn(self._app, home)
        if self._method == "spawn":
            logger.error(
                "worker_pool_start_method='spawn': expected the app in a variable of a module that can be "
                "imported, found it in none; this process is forked instead"
            )
        return _template.by_fork(self._app)

    def _fork(self) -> None:
        signals.worker_before_create_process.send(sender=self)
        template = self._template
        if template is None:
            return  # Ended meanwhile; whoever waits for a child asks again.
        ours, theirs = Pipe()
        self._numbers += 1
        child = Child(self._numbers, template, Link(ours))
        self._children[child.number] = child
        self._selector.register(child.link, selectors.EVENT_READ, lambda: self._hear(child))
        settings = self._settings._replace(log_levels=_child_log.levels())
        template.link.send(Fork(child.number, settings), theirs.fileno())
        theirs.close()

    # Hearing.

    def _hear_template(self) -> None:
        template = self._template
        # A retired one is registered under its own link; the key says which, its messages are the same.
        for candidate in [*([template] if template else []), *self._retired]:
            if candidate.link.has_message():
                self._obey(candidate, candidate.link.receive())

    def _obey(self, template: _template.Template, message: Any) -> None:
        with self._changed:
            if isinstance(message, Loaded):
                self._loaded(template, message.tasks)
            elif isinstance(message, Failed):
                self._not_loaded(template, message.reason)
            elif isinstance(message, Exited):
                self._exited(message)
            elif message is None:
                self._lost_template(template)

    def _loaded(self, template: _template.Template, tasks: frozenset[str]) -> None:
        missing = set(self._app.tasks) - tasks
        if missing and self._method == "forkserver":
            logger.info(
                "tasks %s are not in a module that can be imported: child processes are forked from this one",
                ", ".join(sorted(missing)),
            )
            self._method = "fork"
            self._drop_template(template)
            return
        template.tasks = tasks

    def _not_loaded(self, template: _template.Template, reason: str) -> None:
        logger.error("the app could not be loaded in a process of its own; this one is forked\n%s", reason)
        self._method = "fork"
        self._drop_template(template)

    def _lost_template(self, template: _template.Template) -> None:
        logger.error("the template of the child processes is gone, and they with it; another is made")
        self._failed_to_start()
        self._drop_template(template)

    def _drop_template(self, template: _template.Template) -> None:
        self._selector.unregister(template.link)
        if template is self._template:
            self._template = None
            self._wanted = max(self._wanted, self._keep, self._waiting)
        else:
            self._retired.remove(template)
        # It takes its children along, for whatever reason it ends.
        for child in self._children_of(template):
            self._gone(child, -signal.SIGKILL)
        template.close()
        self._changed.notify_all()

    def _children_of(self, template: _template.Template) -> list[Child]:
        return [child for child in self._children.values() if child.template is template]

    def _retire_template(self) -> None:
        """Fork no more children from it; those it has leave when their calls are over."""
        if self._template is not None:
            self._retired.append(self._template)
            self._template = None
            for child in self._children.values():
                if child.state is ChildState.IDLE:
                    self._let_go(child)
        self._wake()

    def _hear(self, child: Child) -> None:
        if child.number not in self._children:
            return  # Its end was heard of in the same round.
        message = child.link.receive()
        if message is None:
            # It is about to be gone; its template will say so.
            self._deafen(child)
        elif isinstance(message, LogLine):
            _child_log.write(message.fields)
        elif isinstance(message, Up):
            self._is_up(child, message.pid)
        else:
            if isinstance(message, Done):
                self._is_done(child, message.leaving)
            child.events.put(message)

    def _is_up(self, child: Child, pid: int) -> None:
        with self._changed:
            child.pid = pid
            child.become(ChildState.IDLE)
            self._failures = 0
            self._changed.notify_all()

    def _is_done(self, child: Child, leaving: str | None) -> None:
        if leaving is not None:
            logger.info("child process %s exiting after %s", child.pid, leaving)
            with self._changed:
                child.become(ChildState.LEAVING)

    def _deafen(self, child: Child) -> None:
        if child.link.fileno() in self._selector.get_map():
            self._selector.unregister(child.link)

    # Ending.

    def _exited(self, message: Exited) -> None:
        child = self._children.get(message.number)
        if child is None:
            return  # It was taken for gone before.
        while child.link.fileno() in self._selector.get_map() and child.link.has_message():
            # What it said last: it may have had its outcome.
            self._hear(child)
        self._gone(child, message.status)

    def _gone(self, child: Child, status: int) -> None:
        self._deafen(child)
        child.link.close()
        self._children.pop(child.number, None)
        if child.state is ChildState.STARTING and not self._closed:
            logger.error("child process %s did not start: %s", child.number, human_status(status))
            self._failed_to_start()
        if not self._closed:
            # As many as are always there, or else the next call finds none.
            self._wanted = max(self._wanted, self._keep - self._staying())
        child.events.put(Exited(child.number, status))
        self._changed.notify_all()

    def _failed_to_start(self) -> None:
        pause = min(_FIRST_PAUSE_S * 2**self._failures, _LAST_PAUSE_S)
        self._failures = min(self._failures + 1, 16)
        self._not_before = _clock.monotonic() + pause


def pool_for(runtime: Runtime) -> ProcessPool:
    """The pool that a runtime's settings ask for."""
    conf = runtime.app.conf
    settings = ChildSettings(
        hostname=runtime.hostname,
        keeps_history=runtime.keeps_history,
        max_tasks=conf.worker_max_tasks_per_child,
        max_memory=conf.worker_max_memory_per_child,
        log_levels={},
    )
    return ProcessPool(
        runtime.app, settings, limit=runtime.processes, keep=min(runtime.processes, runtime.least_processes)
    )
