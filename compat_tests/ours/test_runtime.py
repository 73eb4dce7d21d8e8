"""The runtime inside one process: hand-over, bounds, order, time, queues, and where a task finds itself."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, _clock, current_task
from celerylite._store import MessageState
from celerylite.worker._slots import Kind
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp, rows


def in_threads(number: int, call: Any) -> list[Any]:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(call, range(number)))


# -- hand-over ---------------------------------------------------------------------------------------


def test_a_call_is_run_without_a_look_into_the_database(file_app: Celery) -> None:
    @file_app.task
    def add(a: int, b: int) -> int:
        return a + b

    runtime = file_app.start_runtime()
    asked: list[float] = []
    claim = runtime.store.claim
    runtime.store.claim = lambda *args: asked.append(_clock.monotonic()) or claim(*args)  # type: ignore[method-assign, func-returns-value]
    assert [add.delay(n, 1).get(timeout=DEADLINE_S) for n in range(20)] == list(range(1, 21))
    # Only the looks of the start: none of them is for a call.
    assert len(asked) <= 3


def test_a_call_that_runs_is_claimed_by_its_own_insert(file_app: Celery, gate: Gate, database: Path) -> None:
    @file_app.task
    def held() -> None:
        gate.wait()

    held.delay()
    ((state, owner, deliveries),) = rows(database, "select state, owner, deliveries from celerylite_messages")
    assert (state, deliveries) == (MessageState.RUNNING, 1)
    assert file_app._runtime is not None
    assert owner == file_app._runtime.owner


def test_a_call_on_its_way_from_the_database_keeps_the_runtime_from_being_idle(make_app: MakeApp) -> None:
    app, publisher = make_app(), make_app(celerylite_runtime="off")

    @app.task
    def nothing() -> None:
        return None

    runtime = app.start_runtime()
    entered, release = threading.Event(), threading.Event()
    claim = runtime.store.claim

    def slow(*args: Any, **kwargs: Any) -> Any:
        found = claim(*args, **kwargs)
        if found.deliveries:
            entered.set()
            assert release.wait(DEADLINE_S)
        return found

    runtime.store.claim = slow  # type: ignore[method-assign]
    publisher.send_task(nothing.name)
    try:
        assert entered.wait(DEADLINE_S)
        assert not runtime.is_idle()
    finally:
        release.set()
    app.drain(DEADLINE_S)
    assert runtime.is_idle()


def test_nothing_is_left_in_the_queue_after_a_run(file_app: Celery, database: Path) -> None:
    @file_app.task
    def nothing() -> None:
        return None

    assert nothing.delay().get(timeout=DEADLINE_S) is None
    assert rows(database, "select * from celerylite_messages") == []
    assert rows(database, "select state, retries from celerylite_runs") == [("SUCCESS", 0)]


# -- bounds ------------------------------------------------------------------------------------------


def test_no_more_functions_run_at_once_than_the_concurrency(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=3)

    @app.task
    def held() -> None:
        gate.wait()

    results = [held.delay() for _ in range(8)]
    gate.until_arrived(3)
    assert app._runtime is not None
    assert app._runtime._slots.counts() == (3, 5)
    gate.open()
    for result in results:
        result.get(timeout=DEADLINE_S)
    assert gate.most == 3


def test_no_more_coroutines_run_at_once_than_the_concurrency(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=2)
    inside: list[int] = []
    most: list[int] = []
    arrived = threading.Semaphore(0)
    go_on: list[asyncio.Event] = []

    @app.task
    async def held(n: int) -> None:
        inside.append(n)
        most.append(len(inside))
        if not go_on:
            go_on.append(asyncio.Event())
        arrived.release()
        await go_on[0].wait()
        inside.remove(n)

    results = [held.delay(n) for n in range(5)]
    for _ in range(2):
        assert arrived.acquire(timeout=DEADLINE_S)
    assert app._runtime is not None
    app._runtime._loop.call(go_on[0].set)
    for result in results:
        result.get(timeout=DEADLINE_S)
    assert max(most) == 2


def test_a_place_that_a_coroutine_frees_is_taken_by_a_function_at_once(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=1)
    arrived, go_on = threading.Event(), threading.Event()

    @app.task
    async def coroutine() -> None:
        arrived.set()
        await asyncio.to_thread(go_on.wait, DEADLINE_S)

    @app.task
    def function() -> str:
        return "ran"

    coroutine.delay()
    assert arrived.wait(DEADLINE_S)
    waiting = [function.delay() for _ in range(3)]
    go_on.set()
    # Well before the runtime would look again by itself.
    assert [result.get(timeout=4) for result in waiting] == ["ran"] * 3


def test_functions_and_coroutines_that_share_places_take_turns(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=1, worker_prefetch_multiplier=100)
    order: list[str] = []

    @app.task
    def first() -> None:
        gate.wait()

    @app.task
    def function(name: str) -> None:
        order.append(name)

    @app.task
    async def coroutine(name: str) -> None:
        order.append(name)

    first.delay()
    gate.until_arrived(1)
    for n in range(4):
        function.delay(f"function {n}")
        coroutine.delay(f"coroutine {n}")
    gate.open()
    app.drain(DEADLINE_S)
    assert order == [f"{kind} {n}" for n in range(4) for kind in ("function", "coroutine")]


def test_a_flood_of_calls_waits_in_the_database_and_not_in_memory(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=2, worker_prefetch_multiplier=4, celerylite_history=False)
    done = threading.Semaphore(0)

    @app.task(ignore_result=True)
    def held() -> None:
        gate.wait()
        done.release()

    runtime = app.start_runtime()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: held.delay(), range(5000)))
    running, held_count = runtime._slots.counts()
    assert running == 2
    assert held_count <= 8
    assert sum(runtime.store.unfinished().values()) == 5000
    # Let them go by hundreds only: what matters is that the rest is still taken up.
    gate.open()
    for _ in range(300):
        assert done.acquire(timeout=DEADLINE_S)
        assert runtime._slots.counts()[1] <= 8
    assert app.control.purge() > 0


def test_calls_run_by_priority_and_then_by_age(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=1, worker_prefetch_multiplier=3)
    order: list[str] = []

    @app.task
    def first() -> None:
        gate.wait()

    @app.task
    def note(name: str) -> None:
        order.append(name)

    first.delay()
    gate.until_arrived(1)
    for name in ("a", "b", "c"):
        note.delay(name)
    # By now memory is full: these wait in the database and must not be overtaken by what is held.
    for name, priority in (("low", 1), ("high", 9), ("middle", 5), ("high2", 9)):
        note.apply_async((name,), priority=priority)
    gate.open()
    app.drain(DEADLINE_S)
    assert [name for name in order if len(name) == 1] == ["a", "b", "c"]
    assert [name for name in order if len(name) > 1] == ["high", "high2", "middle", "low"]


def test_calls_held_in_memory_run_by_priority(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=1, worker_prefetch_multiplier=100)
    order: list[int] = []

    @app.task
    def first() -> None:
        gate.wait()

    @app.task
    def note(n: int) -> None:
        order.append(n)

    first.delay()
    gate.until_arrived(1)
    for n, priority in enumerate((0, 3, 9, 3, 0)):
        note.apply_async((n,), priority=priority)
    gate.open()
    app.drain(DEADLINE_S)
    assert order == [2, 1, 3, 0, 4]


# -- time --------------------------------------------------------------------------------------------


def test_calls_with_a_countdown_run_when_their_time_has_come(file_app: Celery) -> None:
    order: list[int] = []
    with _clock.use(_clock.ManualClock()) as clock:
        assert isinstance(clock, _clock.ManualClock)

        @file_app.task
        def note(n: int) -> None:
            order.append(n)

        late, soon = note.apply_async((2,), countdown=60), note.apply_async((1,), countdown=30)
        clock.advance(29)
        assert note.delay(0).get(timeout=DEADLINE_S) is None
        assert order == [0]
        clock.advance(1.5)
        soon.get(timeout=DEADLINE_S)
        assert order == [0, 1]
        clock.advance(30)
        late.get(timeout=DEADLINE_S)
        assert order == [0, 1, 2]
        file_app.close()


def test_a_call_with_an_eta_runs_at_that_moment(file_app: Celery) -> None:
    @file_app.task(bind=True)
    def when(self: Any) -> Any:
        return self.request.eta

    with _clock.use(_clock.ManualClock()) as clock:
        assert isinstance(clock, _clock.ManualClock)
        eta = _clock.utcnow() + timedelta(hours=3)
        result = when.apply_async(eta=eta)
        clock.advance(3 * 3600 + 1)
        assert result.get(timeout=DEADLINE_S) == eta.isoformat()
        file_app.close()


def test_many_calls_for_later_are_rows_and_no_timers(file_app: Celery) -> None:
    @file_app.task
    def later() -> None:
        return None

    runtime = file_app.start_runtime()
    threads = set(threading.enumerate())
    for n in range(200):
        later.apply_async(countdown=3600 + n)
    assert set(threading.enumerate()) <= threads | set(_writers())
    assert runtime._slots.counts() == (0, 0)
    assert runtime.store.unfinished() == {MessageState.SCHEDULED: 200}


def _writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "writer" in thread.name]


# -- queues ------------------------------------------------------------------------------------------


def test_a_runtime_takes_only_from_the_queues_it_was_given(make_app: MakeApp) -> None:
    app = make_app()

    @app.task
    def where() -> str:
        return "done"

    runtime = app.start_runtime(queues=["mails", "reports"])
    other = where.apply_async(queue="pictures")
    assert where.apply_async(queue="mails").get(timeout=DEADLINE_S) == "done"
    assert where.apply_async(queue="reports").get(timeout=DEADLINE_S) == "done"
    runtime.drain(DEADLINE_S)
    assert other.state == "PENDING"
    assert runtime.store.queue_lengths() == {"pictures": 1}


def test_a_process_that_only_publishes_runs_nothing(make_app: MakeApp, database: Path) -> None:
    app = make_app(celerylite_runtime=False)

    @app.task
    def never() -> None:
        raise AssertionError("ran")

    never.delay()
    assert app._runtime is None
    assert rows(database, "select state from celerylite_messages") == [(MessageState.READY,)]


def test_two_apps_of_a_process_share_the_work_of_a_database(make_app: MakeApp) -> None:
    publisher, runner = make_app(celerylite_runtime="off"), make_app()

    @runner.task(name="shared")
    def shared(n: int) -> int:
        return n * 2

    runner.start_runtime()
    assert publisher.send_task("shared", (21,)).get(timeout=DEADLINE_S) == 42


# -- the caller's loop -------------------------------------------------------------------------------


def test_coroutine_tasks_run_on_the_loop_of_the_block(file_app: Celery) -> None:
    async def main() -> None:
        mine = asyncio.get_running_loop()
        lock = asyncio.Lock()
        pool: asyncio.Queue[str] = asyncio.Queue()

        @file_app.task
        async def use_the_loop(n: int) -> str:
            assert asyncio.get_running_loop() is mine
            async with lock:
                await pool.put(f"item {n}")
            return threading.current_thread().name

        async with file_app.runtime():
            result = await use_the_loop.aapply_async((1,))
            assert await pool.get() == "item 1"
            assert await result == threading.current_thread().name

    asyncio.run(main())
    assert file_app._runtime is None


def test_a_runtime_that_runs_already_takes_the_loop_of_the_block(file_app: Celery) -> None:
    @file_app.task
    def warm_up() -> None:
        return None

    @file_app.task
    async def which_loop() -> int:
        return id(asyncio.get_running_loop())

    warm_up.delay().get(timeout=DEADLINE_S)

    async def main() -> None:
        async with file_app.runtime():
            assert await which_loop.adelay() is not None
            assert await (await which_loop.adelay()) == id(asyncio.get_running_loop())

    asyncio.run(main())


def test_coroutine_tasks_have_a_loop_of_their_own_without_a_block(file_app: Celery) -> None:
    @file_app.task
    async def where() -> list[Any]:
        return [threading.current_thread().name, id(asyncio.get_running_loop())]

    name, loop = where.delay().get(timeout=DEADLINE_S)
    assert name == "celerylite-loop"
    assert where.delay().get(timeout=DEADLINE_S) == [name, loop]


def test_plain_functions_never_run_on_the_loop(file_app: Celery) -> None:
    @file_app.task
    def where() -> str:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return threading.current_thread().name

    async def main() -> str:
        async with file_app.runtime():
            name: str = await (await where.adelay())
            return name

    assert asyncio.run(main()).startswith("celerylite-task")


def test_a_plain_function_may_return_a_coroutine(file_app: Celery) -> None:
    async def work(n: int) -> int:
        await asyncio.to_thread(lambda: None)
        return n + 1

    @file_app.task
    def start(n: int) -> Any:
        return work(n)

    assert start.delay(1).get(timeout=DEADLINE_S) == 2


# -- where a task finds itself -----------------------------------------------------------------------


def test_each_function_sees_its_own_request_while_others_run(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=8)
    together = threading.Barrier(8, timeout=DEADLINE_S)

    @app.task(bind=True)
    def who(self: Any, n: int) -> list[Any]:
        together.wait()
        return [self.request.id, current_task.request.id, n, list(self.request.args)]

    results = [who.delay(n) for n in range(8)]
    for n, result in enumerate(results):
        assert result.get(timeout=DEADLINE_S) == [result.id, result.id, n, [n]]


def test_each_coroutine_sees_its_own_request_while_others_run(file_app: Celery) -> None:
    met: list[asyncio.Event] = []
    inside: list[str] = []

    @file_app.task(bind=True)
    async def who(self: Any) -> list[Any]:
        inside.append(self.request.id)
        if not met:
            met.append(asyncio.Event())
        if len(inside) == 5:
            met[0].set()
        await met[0].wait()
        in_thread = await asyncio.to_thread(lambda: current_task.request.id)

        async def in_child() -> str:
            return str(current_task.request.id)

        return [self.request.id, current_task.request.id, in_thread, await asyncio.create_task(in_child())]

    results = [who.delay() for _ in range(5)]
    for result in results:
        assert result.get(timeout=DEADLINE_S) == [result.id] * 4


def test_no_task_is_current_between_tasks(file_app: Celery) -> None:
    @file_app.task
    def nothing() -> None:
        return None

    @file_app.task
    async def nothing_async() -> None:
        return None

    nothing.delay().get(timeout=DEADLINE_S)
    nothing_async.delay().get(timeout=DEADLINE_S)
    assert not current_task
    assert nothing.request.id is None


def test_context_variables_of_a_task_are_its_own(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=1)
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

    @app.task
    def plain(name: str) -> str:
        seen = tenant.get()
        tenant.set(name)
        return seen

    @app.task
    async def coroutine(name: str) -> str:
        seen = tenant.get()
        tenant.set(name)
        await asyncio.to_thread(lambda: None)
        assert tenant.get() == name
        return seen

    tenant.set("the caller")
    for name in ("first", "second"):
        # One thread runs both: what the first leaves must not reach the second, nor what the caller has.
        assert plain.delay(name).get(timeout=DEADLINE_S) == "nobody"
        assert coroutine.delay(name).get(timeout=DEADLINE_S) == "nobody"
    assert tenant.get() == "the caller"


def test_a_task_sees_no_event_loop_of_its_caller(file_app: Celery) -> None:
    @file_app.task
    def inner() -> int:
        return asyncio.run(_answer())

    async def main() -> int:
        return int(await (await inner.adelay()))

    assert asyncio.run(main()) == 42


async def _answer() -> int:
    return 42


def test_tasks_published_by_a_task_have_it_as_their_parent(file_app: Celery, journal: Journal) -> None:
    @file_app.task(bind=True)
    def child(self: Any) -> None:
        journal.note((self.request.parent_id, self.request.root_id))

    @file_app.task
    async def parent() -> str:
        return str((await child.aapply_async()).id)

    result = parent.delay()
    result.get(timeout=DEADLINE_S)
    journal.until((result.id, result.id))


# -- the end -----------------------------------------------------------------------------------------


def test_no_thread_is_left_when_the_app_is_closed(make_app: MakeApp) -> None:
    before = set(threading.enumerate())
    app = make_app()

    @app.task(soft_time_limit=60)
    def plain() -> None:
        return None

    @app.task(time_limit=60)
    async def coroutine() -> None:
        return None

    plain.delay().get(timeout=DEADLINE_S)
    coroutine.delay().get(timeout=DEADLINE_S)
    plain.apply_async(countdown=3600)
    app.close()
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


def test_an_app_that_was_closed_opens_again_with_the_next_call(file_app: Celery) -> None:
    @file_app.task
    def add(a: int, b: int) -> int:
        return a + b

    assert add.delay(1, 1).get(timeout=DEADLINE_S) == 2
    file_app.close()
    assert add.delay(2, 2).get(timeout=DEADLINE_S) == 4


def test_drain_says_what_is_left_when_its_time_is_over(file_app: Celery, gate: Gate) -> None:
    @file_app.task
    def held() -> None:
        gate.wait()

    held.delay()
    with pytest.raises(
        TimeoutError, match=r"expected all tasks to end within 0\.01 s, got 1 running and 0 waiting"
    ):
        file_app.drain(0.01)


def test_kinds_are_known_for_tasks_that_are_registered_late(file_app: Celery) -> None:
    runtime = file_app.start_runtime()
    assert runtime._kind("late") is Kind.THREAD

    @file_app.task(name="late")
    async def late() -> str:
        return threading.current_thread().name

    assert late.delay().get(timeout=DEADLINE_S) == "celerylite-loop"
