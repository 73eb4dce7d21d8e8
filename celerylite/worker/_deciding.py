"""Deciding about a running call from outside: a time limit, a termination, the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, cast

from celerylite._outbox import Outbox
from celerylite._store import ClaimLost, Delivery
from celerylite.exceptions import Terminated, TimeLimitExceeded
from celerylite.utils.log import get_logger
from celerylite.worker import _execute, _report
from celerylite.worker._execution import Execution
from celerylite.worker._slots import Kind

if TYPE_CHECKING:
    from celerylite.app.base import Celery
    from celerylite.worker._limited import LimitedRun
    from celerylite.worker._pools import ThreadPool

__all__ = ("Deciding",)

logger = get_logger("celery.worker")


class Deciding:
    """The part of a runtime that settles a call in place of the task, which goes on or is gone.

    A stand-in with the verdict takes the steps after the call; whoever calls `decide` first has the say.
    """

    app: Celery
    take_decision: Callable[..., bool]
    forget_execution: Callable[[Execution], None]
    _conclude_defect: Callable[[Delivery, BaseException], None]
    _mutex: threading.Lock
    _limited: dict[str, LimitedRun]
    _pool: ThreadPool
    _kind: Callable[[str], Kind]
    _release: Callable[[Kind], None]
    _fill_all: Callable[[], None]

    def time_is_up(self, x: Execution, limit: float) -> None:
        """End a call that reached its hard limit; its place is given to others."""
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", limit, x.shown_name, x.id)
        if self.decide(x, TimeLimitExceeded(limit)):
            self._replace(x)

    def terminate(self, x: Execution, signum: int) -> None:
        """End a running call as REVOKED; its place is given to others."""
        with self._mutex:
            run = self._limited.get(x.id)
        verdict = Terminated(signum)
        if run is not None and run.terminate(verdict, signum):
            return  # Its process ends, and whoever conducts it settles it.
        if self.decide(x, verdict):
            self._replace(x)
            if run is not None:
                run.interrupt(SystemExit)

    def _replace(self, x: Execution) -> None:
        if not x.has_place:
            return
        kind = self._kind(x.name)
        if kind is Kind.THREAD:
            self._pool.replace_one()
        self._release(kind)
        self._fill_all()

    def decide(self, x: Execution, exc: BaseException) -> bool:
        """Settle a running call from outside: time limit, termination, end of the process.

        What the task itself finds later is discarded, and its place is the caller's to give away. False
        when it is being settled already.
        """
        if not self.take_decision(x, abandon=True):
            return False
        self.settle_stand_in(x, self.stand_in(x, exc))
        return True

    def settle_stand_in(self, x: Execution, stand_in: Execution) -> None:
        """Settle what `stand_in` says in place of `x`, which the caller has the decision about.

        Raises nothing: the place of `x` has still to be given away.
        """
        try:
            _execute.judge(stand_in)
            _execute.settle(stand_in)
            copy_context().run(self._tell_decided, stand_in)
        except ClaimLost:
            _report.outcome_discarded(stand_in)
        except BaseException as exc:
            if x.delivery is not None:
                self._conclude_defect(x.delivery, exc)
        finally:
            # What the task's own thread says last, task_postrun, shall be what was decided.
            x.state, x.retval = stand_in.state, stand_in.retval
            self.forget_execution(x)

    def stand_in(self, x: Execution, exc: BaseException) -> Execution:
        """A record of the same call that ended with `exc`."""
        return Execution(
            app=self.app,
            site=cast("Any", self),
            id=x.id,
            name=x.name,
            request=x.request,
            delivery=x.delivery,
            task=x.task,
            args=x.args,
            kwargs=x.kwargs,
            started_at=x.started_at,
            began=x.began,
            raised=exc,
            outbox=Outbox(),
        )

    def _tell_decided(self, x: Execution) -> None:
        x.task.request_stack.push(x.request)
        try:
            _execute.tell(x)
            if isinstance(x.raised, TimeLimitExceeded):
                _execute.after_return(x)
        finally:
            x.task.request_stack.pop()
