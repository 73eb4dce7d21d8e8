"""One run of a task in a child process, as its parent conducts it."""

from __future__ import annotations

import itertools
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from celerylite import _clock
from celerylite._store import ClaimLost, Delivery
from celerylite.exceptions import TimeLimitExceeded, WorkerLostError
from celerylite.utils.log import get_logger
from celerylite.worker import _settlement
from celerylite.worker._child import SOFT_LIMIT_SIGNAL
from celerylite.worker._child_handle import Child, human_status
from celerylite.worker._child_link import Answered, Call, Defect, Exited, Outcome
from celerylite.worker._limited import LimitedRun
from celerylite.worker._lost import MAX_DELIVERIES, deliver_again, retry_or
from celerylite.worker._prefork import PoolClosed, ProcessPool

if TYPE_CHECKING:
    from celerylite.worker import Runtime
    from celerylite.worker._execution import Execution

__all__ = ("ChildRun",)

logger = get_logger("celery.worker.request")

#: Seconds a task has to clean up when it handles the signal of `revoke(terminate=True)` itself.
_TERMINATE_GRACE_S = 3.0

#: Calls are numbered, in all pools of this process: "Job" in the text of a WorkerLostError.
_numbers = itertools.count()


class ChildRun(LimitedRun):
    """Gives a call to a child, settles what it says, and decides the outcome when it does not.

    The child runs the steps of an execution and asks for its outcome to be settled; handlers run there after
    that. A verdict (time limit, termination) that comes first is settled instead.
    """

    def __init__(self, runtime: Runtime, x: Execution, pool: ProcessPool) -> None:
        super().__init__(runtime, x, self._soft_interrupt)
        self._pool = pool
        self._number = next(_numbers)
        self._mutex = threading.Lock()
        self._child: Child | None = None
        #: What was decided from outside, unless the outcome was there first.
        self._verdict: BaseException | None = None
        self._over = False

    def perform(self) -> None:
        """Run the call to its end, settled. Raises nothing that belongs to the task."""
        self._runtime.run_began(self)
        try:
            child = self._pool.borrow(self._x.name)
        except PoolClosed:
            # It has not started, and this process will not start it.
            self._give_back()
            return
        try:
            self._conduct(child)
        finally:
            with self._mutex:
                self._child = None
            self.close()
            self._pool.give_back(child)

    def _give_back(self) -> None:
        self.close()
        self._runtime.forget_execution(self._x)
        if self._x.delivery is not None and self._runtime.take_decision(self._x):
            self._runtime.store.give_back([self._x.delivery])

    def _conduct(self, child: Child) -> None:
        with self._mutex:
            self._child = child
            verdict = self._verdict
        if verdict is not None:
            self._conclude_as(verdict)
            return  # It was ended while it waited for a child.
        self._x.started_at, self._x.began = _clock.time(), _clock.monotonic()
        delivery = self._x.delivery
        self._set_limits()
        if delivery is not None:
            self._x.pid = child.pid
            self._runtime.events.started(self._x)
            child.link.send(Call(self._number, delivery, self._x.task.__module__))
            self._follow(child)

    def _follow(self, child: Child) -> None:
        """Take what the child says until it is done with the call, or gone. Raises a defect of its steps."""
        defect: BaseException | None = None
        while True:
            event = child.events.get()
            if isinstance(event, Outcome):
                accepted = self._settle(event.fields)
                if accepted:
                    self._runtime.events.ended_as(self._x, event.event)
                child.link.send(Answered(accepted))
            elif isinstance(event, Exited):
                self._lost(event.status)
                return
            elif isinstance(event, Defect):
                defect = event.exception
            elif isinstance(event, BaseException):
                self._conclude_as(event)
            elif defect is not None:
                raise defect
            else:
                return

    def _conclude_as(self, verdict: BaseException) -> None:
        if self._runtime.take_decision(self._x):
            self._runtime.settle_stand_in(self._x, self._runtime.stand_in(self._x, verdict))

    def _settle(self, fields: dict[str, Any]) -> bool:
        """Make an outcome durable; False when another one was decided before."""
        delivery = self._x.delivery
        if not self._end() or delivery is None or not self._runtime.take_decision(self._x):
            return False
        try:
            _settlement.commit(self._runtime, delivery, **fields)
        except ClaimLost:
            return False
        finally:
            self._runtime.forget_execution(self._x)
        return True

    def _end(self) -> bool:
        """There is an outcome, so that no verdict is taken any more; False if one was there first."""
        with self._mutex:
            self._over = True
        self.close()
        return self._verdict is None

    # -- verdicts, from any thread -------------------------------------------------------------------------

    def terminate(self, verdict: BaseException, signum: int) -> bool:
        """End the call as `verdict`, and the process with the signal; True: nobody else need settle it."""
        with self._mutex:
            if self._over or self._verdict is not None:
                return True
            self._verdict, child = verdict, self._child
        if child is not None:
            # First, so that it is settled before the end of the process is heard of.
            child.events.put(verdict)
            child.interrupt(self._number, signum)
            if signum != signal.SIGKILL:
                self._numbers.append(self._runtime.later(_TERMINATE_GRACE_S, partial(self._kill, child)))
        return True

    def _kill(self, child: Child) -> None:
        with self._mutex:
            if self._child is child:
                child.kill()

    def _hard(self, limit: float) -> None:
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", limit, self._x.shown_name, self._x.id)
        self.terminate(TimeLimitExceeded(limit), signal.SIGKILL)

    def _soft_interrupt(self, exc: type[BaseException]) -> None:
        with self._mutex:
            if self._child is not None and not self._over:
                self._child.interrupt(self._number, SOFT_LIMIT_SIGNAL)

    # -- a child that dies ---------------------------------------------------------------------------------

    def _lost(self, status: int) -> None:
        """The child is gone: unless the outcome was decided before, decide by the options of the task."""
        if not self._end() or self._pool.is_closed:
            return  # Killed for a verdict, which is settled, or by a stopping runtime, which sees to it.
        x = self._x
        if not self._runtime.take_decision(x):
            how = human_status(status)
            logger.warning("Task %s[%s] ended before its process was lost: %s", x.name, x.id, how)
            return
        lost = WorkerLostError(f"Worker exited prematurely: {human_status(status)} Job: {self._number}.")
        if x.delivery is not None and _is_delivered_again(x, x.delivery):
            logger.warning("Task %s[%s] is delivered again: %s", x.name, x.id, lost)
            deliver_again(self._runtime, x.delivery)
            self._runtime.forget_execution(x)
            return
        stand_in = self._runtime.stand_in(x, lost)
        stand_in.raised = retry_or(stand_in, lost)
        self._runtime.settle_stand_in(x, stand_in)


def _is_delivered_again(x: Execution, delivery: Delivery) -> bool:
    task = x.task
    # As Celery: a retry goes before, and one that has none left is a failure.
    wanted = task.acks_late and task.reject_on_worker_lost and not task.retry_on_worker_lost
    return wanted and delivery.deliveries < MAX_DELIVERIES
