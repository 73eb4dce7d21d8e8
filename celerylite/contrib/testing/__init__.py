"""Tools for tests: Celery's in the modules here, and ours in this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celerylite import _clock, signals
from celerylite._message import decode_body
from celerylite._store import MessageState

__all__ = ("Enqueued", "assert_enqueued", "drain", "enqueued", "manual_clock")

#: Calls that are looked at.
_MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    """One call that waits."""

    id: str
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    #: When it comes due (epoch seconds); None: now.
    due_at: float | None


def enqueued(app: Any, task: Any = None) -> list[Enqueued]:
    """The calls that wait in `app`'s database, oldest first; of one task (or its name) where it is given."""
    name = getattr(task, "name", task)
    calls = []
    for one in app.store.waiting(_MOST):
        body = decode_body(one.message, app.amqp.accept_content)
        if name is None or one.message.name == name:
            calls.append(
                Enqueued(
                    id=one.message.id,
                    name=one.message.name,
                    args=tuple(body.args),
                    kwargs=body.kwargs,
                    queue=one.message.queue,
                    due_at=one.message.due_at if one.state is MessageState.SCHEDULED else None,
                )
            )
    return calls


def assert_enqueued(app: Any, task: Any, *args: Any, **kwargs: Any) -> Enqueued:
    """The call of `task` with these arguments that waits; AssertionError, with what waits, if none does."""
    calls = enqueued(app, task)
    for call in calls:
        if call.args == args and call.kwargs == kwargs:
            return call
    name = getattr(task, "name", task)
    found = calls or enqueued(app)
    raise AssertionError(f"expected a call {name} with {args!r} {kwargs!r}, got {found!r}")


def drain(app: Any, timeout: float | None = 10.0, *, propagate: bool = True) -> None:
    """Run what waits and is due, and what it sends in turn, until nothing is left. Blocks.

    The entries of the schedule that are due are part of it in an app that fires its schedule:
    ``app.start_runtime(beat=True)`` before.

    Where `app` ran nothing before, it runs nothing afterwards. With `propagate` the first exception of a task
    that failed is raised in the end. Raises TimeoutError after `timeout` seconds.
    """
    failures: list[BaseException] = []
    was_idle = app._runtime is None

    def note(sender: Any, exception: BaseException, **kwargs: Any) -> None:
        if sender.app is app:
            failures.append(exception)

    signals.task_failure.connect(note, weak=False)
    try:
        (app._runtime or app.start_runtime()).drain(timeout, with_schedule=True)
    finally:
        signals.task_failure.disconnect(note)
        if was_idle:
            app.stop_runtime()
    if propagate and failures:
        raise failures[0]


@contextmanager
def manual_clock(start: float | None = None) -> Iterator[_clock.ManualClock]:
    """A clock that stands still until the test calls its `advance(seconds)`: countdowns and beat obey it.

    `start` is in epoch seconds; without it the clock begins at the present.
    """
    clock = _clock.ManualClock(_clock.time() if start is None else start)
    with _clock.use(clock):
        yield clock
