"""A child process of the pool: runs calls, and asks its parent to settle what became of them."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any

from celerylite import _state, platforms, signals
from celerylite._store import ClaimLost
from celerylite.exceptions import SoftTimeLimitExceeded
from celerylite.utils.log import get_logger
from celerylite.utils.serialization import get_pickleable_exception
from celerylite.worker import _child_log, _execute, _settlement, _telling
from celerylite.worker._child_link import (
    Answered,
    Call,
    ChildSettings,
    Defect,
    Done,
    Interrupt,
    Link,
    LogLine,
    Outcome,
    Up,
)
from celerylite.worker._execution import Execution, request_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from celerylite.app.base import Celery

__all__ = ("SOFT_LIMIT_SIGNAL", "serve")

logger = get_logger("celery.pool")

#: As Celery: this signal raises SoftTimeLimitExceeded in the task.
SOFT_LIMIT_SIGNAL = signal.SIGUSR1

#: What a terminal or a service manager sends to every process of a group: the parent decides what it means.
_LEFT_TO_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def serve(app: Celery, connection: Connection, number: int, settings: ChildSettings) -> None:
    """Run calls until the parent says, or is seen, to be done with this process. Blocks."""
    multiprocessing.current_process().name = f"ForkPoolWorker-{number}"
    link = _ChildLink(connection)
    link.interrupts.install()
    _child_log.forward(lambda fields: link.send(LogLine(fields)), settings.log_levels)
    _set_up(app, settings.hostname)
    child = _Child(app, link, settings)
    link.send(Up(os.getpid()))
    try:
        child.run()
    finally:
        signals.worker_process_shutdown.send(sender=settings.hostname, pid=os.getpid(), exitcode=0)


def _set_up(app: Celery, hostname: str) -> None:
    # As Celery: a child that waits for another task may wait for ever.
    _state._set_task_join_will_block(True)
    app.set_current()
    app.set_default()
    app.finalize()
    # What is published here goes into the database; runtimes are in other processes.
    app.conf.celerylite_runtime = "off"
    app.loader.init_worker()
    app.loader.init_worker_process()
    platforms.set_mp_process_title("celeryd", hostname=hostname)
    if os.environ.get("CELERY_LOG_REDIRECT"):
        level = os.environ.get("CELERY_LOG_REDIRECT_LEVEL") or None
        app.log.redirect_stdouts_to_logger(get_logger("celery.redirected"), loglevel=level)
    # The parent has said which database is used.
    get_logger("celerylite.app._database").disabled = True
    signals.worker_process_init.send(sender=hostname)


class _Child:
    """The site of executions in this process: the same steps as elsewhere, but the parent settles."""

    eager = False
    propagates = False
    #: The parent tells monitors: it knows who listens.
    events = None

    def __init__(self, app: Celery, link: _ChildLink, settings: ChildSettings) -> None:
        self._app = app
        self._link = link
        self._settings = settings
        self.hostname = settings.hostname
        self.keeps_history = settings.keeps_history
        self._calls = 0

    def run(self) -> None:
        while isinstance(message := self._link.receive(), Call | Interrupt | Answered):
            if not isinstance(message, Call):
                continue  # For a call that has ended.
            self._link.interrupts.begin(message.number)
            self._perform(message)
            self._calls += 1
            leaving = self._why_leave()
            self._link.send(Done(leaving))
            if leaving:
                return

    def _perform(self, call: Call) -> None:
        message = call.delivery.message
        if message.name not in self._app._tasks and call.module:
            # Defined after the app was loaded here. Should the import fail, the call does, as NotRegistered.
            with suppress(ImportError):
                import_module(call.module)
        x = Execution(
            app=self._app,
            site=self,
            id=message.id,
            name=message.name,
            request=request_of(call.delivery, self.hostname),
            delivery=call.delivery,
        )
        _execute.bind_outbox(x)
        try:
            copy_context().run(self._steps, x)
        except Exception as exc:
            self._link.send(Defect(get_pickleable_exception(exc)))

    def _steps(self, x: Execution) -> None:
        # The parent has announced and admitted it.
        _execute.resolve(x)
        _execute.begin(x)
        if x.entered:
            late = self._link.interrupts.perform(partial(_execute.perform, x))
            if late is not None and x.raised is None:
                # It was told to stop when it had just returned: the limit was over all the same.
                x.raised = late
        _execute.conclude(x)

    def is_revoked(self, x: Execution) -> bool:
        return False  # The parent has asked already.

    def settle(self, x: Execution) -> None:
        """Have the parent make the outcome durable. Raises ClaimLost if it may not, any more."""
        self._link.send(Outcome(_settlement.outcome(self, x), event=_telling.of_outcome(x)))
        while not isinstance(answer := self._link.receive(), Answered):
            if answer is None:
                raise SystemExit(0)  # The parent is gone; another process takes over its calls.
            self._link.interrupts.act_outside(answer)
        if not answer.accepted:
            raise ClaimLost(x.id, self.hostname)

    def settle_later(self, x: Execution) -> None:
        """As `settle`: the parent does not know yet that this call has ended."""
        self.settle(x)

    def _why_leave(self) -> str | None:
        most, used = self._settings.max_memory, _peak_memory()
        if most and used > most:
            return f"exceeded memory limit ({used}KiB / {most}KiB)"
        if self._settings.max_tasks and self._calls >= self._settings.max_tasks:
            return f"{self._calls} tasks"
        return None


def _peak_memory() -> int:
    """KiB of memory this process has had at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


class _ChildLink(Link):
    """The child's end: no signal tears a message apart, and what an interrupt has read early is not lost."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._early: deque[Any] = deque()
        self.interrupts = _Interrupts(self._read_early)

    def send(self, message: Any, handle: int | None = None) -> bool:
        with self.interrupts.held_off():
            return super().send(message, handle)

    def receive(self) -> Any:
        return self._early.popleft() if self._early else super().receive()

    def _read_early(self) -> Iterator[Interrupt]:
        while self.has_message():
            message = super().receive()
            if isinstance(message, Interrupt):
                yield message
            else:
                self._early.append(message)
            if message is None:
                return  # The parent is gone: `receive` will say so.


class _Interrupts:
    """Signals of the parent about the call that runs; all others are ignored.

    A signal cannot say which call it is meant for and may come late, when another one runs. So the parent
    writes that down first, and the signal only means: look.
    """

    def __init__(self, read: Callable[[], Iterator[Interrupt]]) -> None:
        self._read = read
        self._number: int | None = None
        self._in_body = False
        self._held_off = 0
        self._pending = False

    def install(self) -> None:
        """Handle signals in this process, the main thread of which this must be."""
        for signum in (SOFT_LIMIT_SIGNAL, *_LEFT_TO_THE_PARENT):
            signal.signal(signum, self._look)

    def begin(self, number: int) -> None:
        """Another call runs."""
        self._number = number

    def perform(self, work: Callable[[], None]) -> BaseException | None:
        """Call `work`, which may be interrupted. Returns what was raised and not caught inside it."""
        late: BaseException | None = None
        try:
            try:
                self._in_body = True
                work()
            finally:
                self._in_body = False
        except BaseException as exc:
            # Again: the interrupt may have come before the line above.
            self._in_body = False
            late = exc
        self._pending = False
        return late

    def _look(self, signum: int, frame: FrameType | None) -> None:
        if not self._in_body:
            return  # Whoever receives next finds what was written.
        for asked in self._read():
            if asked.number != self._number:
                continue  # For a call that has ended.
            if asked.signum != SOFT_LIMIT_SIGNAL:
                _die_by(asked.signum)
            self._pending = True
        if self._pending and not self._held_off:
            self._raise()

    def act_outside(self, message: Any) -> None:
        """Do what an interrupt asks for while the task's code does not run."""
        # Nothing is left in which SoftTimeLimitExceeded could be raised.
        is_ours = isinstance(message, Interrupt) and message.number == self._number
        if is_ours and message.signum != SOFT_LIMIT_SIGNAL:
            _die_by(message.signum)

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """Nothing is raised in this block; right after it, what was due."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._held_off += 1
        try:
            yield
        finally:
            self._held_off -= 1
        if self._pending and self._in_body and not self._held_off:
            self._raise()

    def _raise(self) -> None:
        self._pending = False
        raise SoftTimeLimitExceeded


def _die_by(signum: int) -> None:
    """End this process as the signal would without our handlers."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
