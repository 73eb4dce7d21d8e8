"""One run of a task under its time limits, in a thread or on the loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from celerylite.exceptions import SoftTimeLimitExceeded
from celerylite.utils.log import get_logger
from celerylite.worker import _execute
from celerylite.worker._coroutines import Interruptible, LoopThread
from celerylite.worker._limits import ThreadGuard

if TYPE_CHECKING:
    from celerylite.worker import Runtime
    from celerylite.worker._execution import Execution

__all__ = ("LimitedRun",)

logger = get_logger("celery.worker.request")


class LimitedRun:
    """Sets the limits of a run when it begins, and clears them when it ends.

    At the soft limit SoftTimeLimitExceeded is raised inside the task; at the hard one the runtime settles
    the call. Both can also be asked for from outside: see `interrupt`.
    """

    def __init__(
        self, runtime: Runtime, x: Execution, interrupt: Callable[[type[BaseException]], Any]
    ) -> None:
        self._runtime = runtime
        self._x = x
        self._interrupt = interrupt
        self._numbers: list[int] = []
        self._coroutine: Interruptible | None = None
        self._guard: ThreadGuard | None = None

    @classmethod
    def in_thread(cls, runtime: Runtime, x: Execution) -> LimitedRun:
        """A run in the calling thread: see `perform`."""
        guard = ThreadGuard()
        run = cls(runtime, x, guard.interrupt)
        run._guard = guard
        return run

    @classmethod
    def on_loop(cls, runtime: Runtime, x: Execution, loop: LoopThread) -> LimitedRun:
        """A run on the loop: await what `coroutine` gives there, then call `close`."""
        run = cls(runtime, x, lambda exc: None)
        run._interrupt = partial(run._interrupt_on, loop)
        return run

    def coroutine(self) -> Interruptible:
        """Call the task and return its coroutine, its limits running. Raises what the call itself raises."""
        made = _execute.body_of(self._x)(*self._x.args, **self._x.kwargs)
        self._coroutine = Interruptible(made)
        self._set_limits()
        return self._coroutine

    def _interrupt_on(self, loop: LoopThread, exc: type[BaseException]) -> None:
        if self._coroutine is not None:
            loop.call(self._coroutine.interrupt, exc())

    def perform(self) -> None:
        """Call the task in this thread, its limits running. Raises nothing."""
        self._set_limits()
        late = (self._guard or ThreadGuard()).run(partial(_execute.perform, self._x))
        if late is not None and self._x.raised is None:
            # It was told to stop when it had just returned: the limit was over all the same.
            self._x.raised = late
        self.close()

    def interrupt(self, exc: type[BaseException]) -> None:
        """Raise `exc` inside the task, as soon as Python can."""
        self._interrupt(exc)

    def terminate(self, verdict: BaseException, signum: int) -> bool:
        """End the run as `verdict` and settle it so; False where only the runtime can (see its `decide`)."""
        return False

    def close(self) -> None:
        """The run has ended: no limit applies any more."""
        self._runtime.run_ended(self)
        for number in self._numbers:
            self._runtime.not_later(number)

    @property
    def execution(self) -> Execution:
        """What is being run."""
        return self._x

    def _set_limits(self) -> None:
        hard, soft = self._limits()
        if soft:
            self._numbers.append(self._runtime.later(soft, partial(self._soft, soft)))
        if hard:
            self._numbers.append(self._runtime.later(hard, partial(self._hard, hard)))
        self._runtime.run_began(self)

    def _limits(self) -> tuple[float | None, float | None]:
        request, task = self._x.request, self._x.task
        return request.time_limit or task.time_limit, request.soft_time_limit or task.soft_time_limit

    def _soft(self, limit: float) -> None:
        logger.warning("Soft time limit (%ss) exceeded for %s[%s]", limit, self._x.shown_name, self._x.id)
        self._interrupt(SoftTimeLimitExceeded)

    def _hard(self, limit: float) -> None:
        self._runtime.time_is_up(self._x, limit)
        # Best effort, so that an abandoned thread or coroutine does not work on for nobody.
        self._interrupt(SystemExit)
