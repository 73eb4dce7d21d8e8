"""Time limits, rate limits and termination, of functions in threads and of coroutines on the loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from celerylite import Celery, _clock, signals
from celerylite.exceptions import (
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from celerylite.worker import _limits
from celerylite.worker._coroutines import Interruptible
from celerylite.worker._execution import Execution
from celerylite.worker._limits import Deadlines, ThreadGuard
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp

#: A limit that is over at once, and one that is not reached.
SHORT, LONG = 0.02, 60.0
#: Long enough for a task to get into its `try`, also on a busy machine.
SOON = 0.5

never = threading.Event()


def work_until_stopped() -> None:
    """Python code that does not end by itself (but at the deadline, so that no thread is left behind)."""
    end = _clock.monotonic() + DEADLINE_S
    while _clock.monotonic() < end:
        never.wait(0.001)


async def wait_until_stopped() -> None:
    """A coroutine that does not end by itself."""
    await asyncio.wait_for(asyncio.Event().wait(), DEADLINE_S)


def count(times: int) -> None:
    for each in range(times):
        str(each)


# -- soft limits -------------------------------------------------------------------------------------


def test_a_function_may_clean_up_at_its_soft_limit(file_app: Celery) -> None:
    @file_app.task(soft_time_limit=SOON, time_limit=LONG)
    def work() -> str:
        try:
            work_until_stopped()
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "not stopped"

    assert work.delay().get(timeout=DEADLINE_S) == "cleaned up"


def test_a_function_that_ignores_its_soft_limit_fails(file_app: Celery) -> None:
    @file_app.task(soft_time_limit=SOON)
    def work() -> None:
        work_until_stopped()

    result = work.delay()
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=DEADLINE_S)
    assert result.state == "FAILURE"
    assert "work_until_stopped" in result.traceback


def test_a_coroutine_may_clean_up_at_its_soft_limit(file_app: Celery) -> None:
    @file_app.task(soft_time_limit=SOON, time_limit=LONG)
    async def work() -> str:
        try:
            await wait_until_stopped()
        except SoftTimeLimitExceeded:
            # It can still await: the limit was raised once and does not stay.
            return await asyncio.to_thread(lambda: "cleaned up")
        return "not stopped"

    assert work.delay().get(timeout=DEADLINE_S) == "cleaned up"


def test_a_coroutine_that_ignores_its_soft_limit_fails(file_app: Celery) -> None:
    @file_app.task(soft_time_limit=SHORT)
    async def work() -> None:
        await wait_until_stopped()

    result = work.delay()
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=DEADLINE_S)
    assert result.state == "FAILURE"


def test_a_soft_limit_reaches_a_coroutine_through_what_it_awaits(file_app: Celery) -> None:
    cancelled = threading.Event()

    async def inner() -> None:
        try:
            await wait_until_stopped()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    @file_app.task(soft_time_limit=SOON)
    async def work() -> str:
        try:
            await asyncio.gather(inner(), inner())
        except SoftTimeLimitExceeded:
            return "limited"
        return "not stopped"

    assert work.delay().get(timeout=DEADLINE_S) == "limited"
    assert cancelled.wait(DEADLINE_S)


def test_the_limits_of_a_call_replace_those_of_its_task(file_app: Celery) -> None:
    @file_app.task(soft_time_limit=LONG, bind=True)
    def work(self: Any) -> Any:
        try:
            work_until_stopped()
        except SoftTimeLimitExceeded:
            return self.request.timelimit
        return "not stopped"

    result = work.apply_async(soft_time_limit=SOON, time_limit=30)
    assert result.get(timeout=DEADLINE_S) == [30, SOON]


def test_a_soft_limit_can_be_retried(file_app: Celery) -> None:
    @file_app.task(bind=True, soft_time_limit=SOON, max_retries=1, default_retry_delay=0)
    def work(self: Any) -> int:
        try:
            if self.request.retries == 0:
                work_until_stopped()
        except SoftTimeLimitExceeded as exc:
            raise self.retry(exc=exc) from exc
        return int(self.request.retries)

    assert work.delay().get(timeout=DEADLINE_S) == 1


def test_limits_of_tasks_that_end_in_time_leave_nothing_behind(file_app: Celery) -> None:
    @file_app.task(soft_time_limit=LONG, time_limit=LONG)
    def quick() -> None:
        return None

    for _ in range(30):
        quick.delay().get(timeout=DEADLINE_S)
    assert file_app._runtime is not None
    assert len(file_app._runtime._deadlines._heap) <= 3


# -- the soft limit and the end of the task meet -------------------------------------------------------


def test_an_interrupt_at_the_very_end_of_a_run_does_not_hit_what_comes_after() -> None:
    """Stress: another thread interrupts while runs begin and end as fast as they can."""
    current: list[ThreadGuard | None] = [None]
    stop = threading.Event()

    def interrupt() -> None:
        while not stop.is_set():
            guard = current[0]
            if guard is not None:
                current[0] = None
                # As a soft and a hard limit that come together.
                guard.interrupt(SoftTimeLimitExceeded)
                guard.interrupt(SystemExit)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    hits, interval = 0, sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for n in range(600):
            guard = current[0] = ThreadGuard()
            hits += guard.run(partial(count, n)) is not None
            # Code of the runtime: nothing may be raised here.
            assert str(sum(range(200))) == "19900"
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        interrupter.join()
    assert hits > 0


def test_a_soft_limit_that_meets_the_end_of_the_task_settles_it_either_way(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=4)

    @app.task
    def work(seconds: float) -> str:
        end = _clock.monotonic() + seconds
        while _clock.monotonic() < end:
            pass
        return "in time"

    results = [
        work.apply_async((0.002,), soft_time_limit=0.002 + (n % 7) * 0.0002, time_limit=LONG)
        for n in range(80)
    ]
    for result in results:
        value: Any = result.get(timeout=DEADLINE_S, propagate=False)
        assert value == "in time" or isinstance(value, SoftTimeLimitExceeded)
    # Every place is free again, and no thread was lost.
    app.drain(DEADLINE_S)
    together = threading.Barrier(4, timeout=DEADLINE_S)

    @app.task
    def meet() -> None:
        together.wait()

    for met in [meet.delay() for _ in range(4)]:
        met.get(timeout=DEADLINE_S)


def test_an_interrupt_before_a_coroutine_has_begun_is_not_lost() -> None:
    async def body() -> str:
        return "ran"

    async def main() -> str:
        coroutine = Interruptible(body())
        coroutine.interrupt(SoftTimeLimitExceeded())
        return str(await coroutine.run())

    with pytest.raises(SoftTimeLimitExceeded):
        asyncio.run(main())


def test_an_interrupt_after_a_coroutine_has_ended_does_nothing() -> None:
    async def body() -> str:
        return "ran"

    async def main() -> str:
        coroutine = Interruptible(body())
        value = await asyncio.create_task(coroutine.run())
        coroutine.interrupt(SoftTimeLimitExceeded())
        await asyncio.to_thread(lambda: None)
        return str(value)

    assert asyncio.run(main()) == "ran"


# -- hard limits -------------------------------------------------------------------------------------


def test_a_function_that_reaches_its_hard_limit_fails_at_once(file_app: Celery, gate: Gate) -> None:
    @file_app.task(time_limit=SHORT)
    def stuck() -> None:
        gate.wait()

    result = stuck.delay()
    with pytest.raises(TimeLimitExceeded, match=r"TimeLimitExceeded\(0\.02,?\)"):
        result.get(timeout=DEADLINE_S)
    assert result.state == "FAILURE"


def test_what_a_function_returns_after_its_hard_limit_is_discarded(
    file_app: Celery, gate: Gate, caplog: pytest.LogCaptureFixture, journal: Journal
) -> None:
    @file_app.task(time_limit=SHORT)
    def stuck() -> str:
        try:
            gate.wait()
        except SystemExit:
            journal.note("told to end")
        return "too late"

    signals.task_postrun.connect(lambda **kw: journal.note("ended"), weak=False, sender=stuck)
    result = stuck.delay()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=DEADLINE_S)
    gate.open()
    journal.until("ended")
    assert result.state == "FAILURE"
    assert "the outcome of this run is discarded" in caplog.text
    assert "Hard time limit (0.02s) exceeded for" in caplog.text


def test_places_of_functions_that_are_stuck_are_given_to_others(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=2)

    @app.task(time_limit=SHORT)
    def stuck() -> None:
        gate.wait()

    @app.task
    def meet() -> None:
        together.wait()

    together = threading.Barrier(2, timeout=DEADLINE_S)
    for result in [stuck.delay() for _ in range(5)]:
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=DEADLINE_S)
    for result in [meet.delay() for _ in range(2)]:
        result.get(timeout=DEADLINE_S)
    assert app._runtime is not None
    app.drain(DEADLINE_S)
    gate.open()


def test_a_coroutine_that_reaches_its_hard_limit_fails_and_is_cancelled(
    make_app: MakeApp, journal: Journal
) -> None:
    app = make_app(worker_concurrency=1)

    @app.task(time_limit=SHORT)
    async def stuck() -> None:
        try:
            await wait_until_stopped()
        finally:
            journal.note("left")

    @app.task
    async def next_one() -> str:
        return "ran"

    result = stuck.delay()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=DEADLINE_S)
    journal.until("left")
    assert next_one.delay().get(timeout=DEADLINE_S) == "ran"
    assert result.state == "FAILURE"


def test_a_hard_limit_reaches_the_handlers_and_signals_of_a_failure(
    file_app: Celery, gate: Gate, journal: Journal, receive: Any
) -> None:
    def on_failure(sender: Any, exception: Any, **kw: Any) -> None:
        journal.note(type(exception))

    receive(signals.task_failure, on_failure)

    @file_app.task(time_limit=SHORT)
    def stuck() -> None:
        gate.wait()

    @file_app.task
    def cry(request: Any, exc: Any, traceback: Any) -> None:
        journal.note("errback")

    stuck.apply_async(link_error=cry.s())
    journal.until(TimeLimitExceeded)
    journal.until("errback")
    gate.open()
    file_app.drain(DEADLINE_S)
    assert journal.count("errback") == 1


def test_a_call_is_decided_once_although_limit_and_end_come_together(
    file_app: Celery, gate: Gate, journal: Journal
) -> None:
    """The run has begun to settle its outcome when the limit is reached: the limit comes too late."""
    settling = threading.Event()

    @file_app.task(ignore_result=False)
    def quick() -> str:
        return "in time"

    runtime = file_app.start_runtime()
    settle, decided = runtime.settle_later, []

    def slowly(x: Execution) -> None:
        settling.set()
        gate.wait()
        settle(x)

    runtime.settle_later = slowly  # type: ignore[method-assign]
    result = quick.delay()
    assert settling.wait(DEADLINE_S)
    (x,) = runtime.running()
    decided.append(runtime.decide(x, TimeLimitExceeded(1)))
    gate.open()
    assert result.get(timeout=DEADLINE_S) == "in time"
    assert decided == [False]
    file_app.drain(DEADLINE_S)
    assert runtime._slots.counts() == (0, 0)


def test_a_hard_limit_that_meets_the_end_of_the_task_costs_no_place(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=4)

    @app.task
    def work(seconds: float) -> str:
        end = _clock.monotonic() + seconds
        while _clock.monotonic() < end:
            pass
        return "in time"

    @app.task
    async def work_async(seconds: float) -> str:
        await asyncio.to_thread(never.wait, seconds)
        return "in time"

    results = [
        task.apply_async((0.003,), time_limit=0.003 + (n % 7) * 0.0005)
        for n in range(30)
        for task in (work, work_async)
    ]
    for result in results:
        value: Any = result.get(timeout=DEADLINE_S, propagate=False)
        assert value == "in time" or isinstance(value, TimeLimitExceeded)
    app.drain(DEADLINE_S)
    assert app._runtime is not None
    slots = app._runtime._slots
    assert (slots.counts(), slots._free_total, set(slots._free.values())) == ((0, 0), 4, {4})


def test_a_task_that_exits_is_a_lost_task_and_the_runtime_goes_on(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=1)

    @app.task
    def leave() -> None:
        raise SystemExit(3)

    @app.task
    async def leave_async() -> None:
        raise KeyboardInterrupt

    for task in (leave, leave_async, leave):
        with pytest.raises(WorkerLostError):
            task.delay().get(timeout=DEADLINE_S)


def test_deadlines_are_called_in_the_order_of_their_times(journal: Journal) -> None:
    deadlines = Deadlines()
    try:
        with _clock.use(_clock.ManualClock()) as clock:
            assert isinstance(clock, _clock.ManualClock)
            for after in (3, 1, 2):
                deadlines.at(after, lambda after=after: journal.note(after))  # type: ignore[misc]
            deadlines.cancel(deadlines.at(1.5, lambda: journal.note("cancelled")))
            clock.advance(5)
            journal.until(3)
            assert journal == [1, 2, 3]
            deadlines.stop()
    finally:
        deadlines.stop()


# -- rates -------------------------------------------------------------------------------------------


def test_starts_of_a_task_keep_to_its_rate(file_app: Celery) -> None:
    started: list[float] = []

    @file_app.task(rate_limit="50/s")
    def limited() -> None:
        started.append(_clock.monotonic())

    for result in [limited.delay() for _ in range(6)]:
        result.get(timeout=DEADLINE_S)
    assert started[-1] - started[0] >= 5 / 50 * 0.9


def test_a_rate_holds_back_only_the_task_it_is_for(file_app: Celery) -> None:
    @file_app.task(rate_limit="1/h")
    def limited(n: int) -> int:
        return n

    @file_app.task
    def free() -> str:
        return "free"

    first, second = limited.delay(1), limited.delay(2)
    assert first.get(timeout=DEADLINE_S) == 1
    assert free.delay().get(timeout=DEADLINE_S) == "free"
    assert second.state == "PENDING"


def test_calls_that_wait_for_their_rate_keep_their_order(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=1)
    order: list[int] = []

    @app.task(rate_limit="200/s")
    def limited(n: int) -> None:
        order.append(n)

    for n in range(6):
        limited.delay(n)
    app.drain(DEADLINE_S)
    assert order == list(range(6))


def test_rates_may_be_switched_off(make_app: MakeApp) -> None:
    app = make_app(worker_disable_rate_limits=True)

    @app.task(rate_limit="1/h")
    def limited(n: int) -> int:
        return n

    assert [limited.delay(n).get(timeout=DEADLINE_S) for n in range(3)] == [0, 1, 2]


# -- revoke and terminate ------------------------------------------------------------------------------


def test_a_function_that_is_terminated_ends_as_revoked(
    make_app: MakeApp, journal: Journal, receive: Any
) -> None:
    app = make_app(worker_concurrency=1)

    @app.task
    def work() -> None:
        journal.note("working")
        try:
            work_until_stopped()
        finally:
            journal.note("left")

    def on_revoked(request: Any, terminated: bool, signum: Any, expired: bool, **kw: Any) -> None:
        journal.note((request.id, terminated, int(signum), expired))

    receive(signals.task_revoked, on_revoked)
    result = work.delay()
    journal.until("working")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=DEADLINE_S)
    journal.until((result.id, True, 15, False))
    journal.until("left")
    assert result.state == "REVOKED"

    @app.task
    def next_one() -> str:
        return "ran"

    assert next_one.delay().get(timeout=DEADLINE_S) == "ran"


def test_a_coroutine_that_is_terminated_ends_as_revoked(make_app: MakeApp, journal: Journal) -> None:
    app = make_app(worker_concurrency=1)

    @app.task
    async def work() -> None:
        journal.note("working")
        try:
            await wait_until_stopped()
        finally:
            journal.note("left")

    result = work.delay()
    journal.until("working")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=DEADLINE_S)
    journal.until("left")
    assert result.state == "REVOKED"


def test_a_call_revoked_while_it_is_held_never_runs(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=1)
    ran: list[str] = []

    @app.task
    def first() -> None:
        gate.wait()

    @app.task
    def second() -> None:
        ran.append("second")

    first.delay()
    gate.until_arrived(1)
    result = second.delay()
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=DEADLINE_S)
    gate.open()
    app.drain(DEADLINE_S)
    assert ran == []


def test_a_call_for_later_ends_as_soon_as_it_is_revoked(
    file_app: Celery, journal: Journal, receive: Callable[..., Any]
) -> None:
    @file_app.task
    def later() -> None:
        return None

    receive(signals.task_revoked, lambda request, **_: journal.note(request.id))
    result = later.apply_async(countdown=3600)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=DEADLINE_S)
    journal.until(result.id)
    assert file_app.store.unfinished() == {}


def test_nothing_is_taken_back_from_a_thread_that_nobody_interrupted(
    file_app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.11 and 3.12 each such call leaves the whole program at a fourth of its speed."""
    taken_back: list[int] = []
    monkeypatch.setattr(_limits, "_take_back", lambda: taken_back.append(1))

    @file_app.task
    def quick() -> str:
        return "done"

    assert quick.delay().get(timeout=DEADLINE_S) == "done"
    assert taken_back == []


class SlowHandler(logging.Handler):
    """Takes its time to write a record, its lock held as by any handler."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.go_on = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.began.set()
        self.go_on.wait(DEADLINE_S)


def test_an_interrupt_does_not_come_while_the_task_writes_to_the_log() -> None:
    """It would leave the handler's lock taken, and whoever logs next would wait for ever."""
    handler, guard, after = SlowHandler(), ThreadGuard(), []
    log = logging.getLogger("test.slow")
    log.addHandler(handler)

    def work() -> None:
        log.warning("a line")
        after.append("logged")
        while True:
            after.append("turns")

    ended: list[BaseException | None] = []
    task = threading.Thread(target=lambda: ended.append(guard.run(work)))
    task.start()
    assert handler.began.wait(DEADLINE_S)
    stopper = threading.Thread(target=guard.interrupt, args=(SystemExit,))
    stopper.start()
    handler.go_on.set()
    for thread in (stopper, task):
        thread.join(DEADLINE_S)
    log.removeHandler(handler)
    assert isinstance(ended[0], SystemExit)
    assert after[0] == "logged"
    assert handler.lock is not None
    assert handler.lock.acquire(blocking=False)
    handler.lock.release()


def test_what_is_taken_back_is_not_raised_later() -> None:
    guard = ThreadGuard()

    def told_to_stop() -> None:
        stopper = threading.Thread(target=guard.interrupt, args=(SystemExit,))
        stopper.start()
        stopper.join()

    assert isinstance(guard.run(told_to_stop), SystemExit)
    assert [number * 2 for number in range(3)] == [0, 2, 4]
