"""Publishing and waiting from coroutines: the loop of the caller never waits for the database."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from celerylite import Celery, signals
from celerylite.exceptions import TimeoutError as CeleryTimeoutError
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp, states_of


@pytest.fixture
def threads_at_the_database() -> Iterator[set[str]]:
    """The names of the threads that have sent a statement to any database."""
    seen: set[str] = set()

    def note(*args: Any) -> None:
        seen.add(threading.current_thread().name)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(sa.Engine, "before_cursor_execute", note)


# -- publishing ----------------------------------------------------------------------------------------


def test_a_hundred_coroutines_publish_while_the_database_is_locked(file_app: Celery, database: Path) -> None:
    @file_app.task
    def double(n: int) -> int:
        return n * 2

    async def main() -> list[int]:
        async with file_app.runtime():
            assert await (await double.adelay(1)) == 2
            locker = sqlite3.connect(database, isolation_level=None)
            locker.execute("begin immediate")
            calls = [asyncio.create_task(double.aapply_async((n,))) for n in range(100)]
            # The loop turns freely although nobody can commit.
            for _ in range(1000):
                await asyncio.to_thread(lambda: None) if _ % 100 == 0 else await _next_turn()
            assert not any(call.done() for call in calls)
            locker.execute("rollback")
            locker.close()
            results = await asyncio.gather(*calls)
            return list(await asyncio.gather(*results))

    assert asyncio.run(main()) == [n * 2 for n in range(100)]


def test_a_program_that_only_publishes_asks_no_thread_for_a_runtime(make_app: MakeApp) -> None:
    app = make_app(celerylite_runtime="off")

    @app.task
    def nothing() -> None:
        return None

    async def call() -> list[str]:
        await nothing.aapply_async()
        # Those that asyncio has for what blocks.
        return [each.name for each in threading.enumerate() if each.name.startswith("asyncio")]

    assert asyncio.run(call()), "expected the database to be opened in a thread"
    assert asyncio.run(call()) == []


def test_a_call_that_cannot_be_encoded_takes_no_place(file_app: Celery) -> None:
    @file_app.task
    def nothing() -> None:
        return None

    runtime = file_app.start_runtime()

    async def call() -> None:
        await nothing.aapply_async(headers={"x": object()})

    with pytest.raises(Exception, match="not JSON serializable"):
        asyncio.run(call())
    with pytest.raises(Exception, match="not JSON serializable"):
        nothing.apply_async(headers={"x": object()})
    assert runtime._slots.counts() == (0, 0)


async def _next_turn() -> None:
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn


def test_no_statement_is_sent_from_the_thread_of_the_loop(
    file_app: Celery, threads_at_the_database: set[str]
) -> None:
    @file_app.task
    async def child(n: int) -> int:
        return n + 1

    @file_app.task(bind=True)
    async def parent(self: Any, n: int) -> int:
        return int(await (await child.aapply_async((n,))))

    @file_app.task
    def plain(n: int) -> int:
        return n

    async def main() -> None:
        async with file_app.runtime():
            assert await (await parent.adelay(1)) == 2
            assert await (await plain.adelay(5)) == 5
            failed = await child.aapply_async(("text",))
            with pytest.raises(TypeError):
                await failed

    asyncio.run(main())
    assert threads_at_the_database
    assert threading.current_thread().name not in threads_at_the_database


def test_the_first_call_of_a_program_does_not_open_the_database_on_the_loop(
    file_app: Celery, threads_at_the_database: set[str]
) -> None:
    @file_app.task
    def add(a: int, b: int) -> int:
        return a + b

    async def main() -> int:
        return int(await (await add.aapply_async((1, 2))))

    assert asyncio.run(main()) == 3
    assert threading.current_thread().name not in threads_at_the_database


def test_a_process_that_only_publishes_does_so_from_coroutines_too(
    make_app: MakeApp, threads_at_the_database: set[str]
) -> None:
    app = make_app(celerylite_runtime="off")

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    async def main() -> list[Any]:
        return list(await asyncio.gather(*(add.adelay(n, n) for n in range(20))))

    results = asyncio.run(main())
    assert app.store.queue_lengths() == {"celery": 20}
    assert len({result.id for result in results}) == 20


def test_a_call_is_committed_when_its_coroutine_returns(make_app: MakeApp, database: Path) -> None:
    app = make_app(celerylite_runtime="off")

    @app.task
    def work() -> None:
        return None

    async def main() -> int:
        await work.adelay()
        return sum(app.store.unfinished().values())

    # Read here, in the loop: a test may.
    assert asyncio.run(main()) == 1


# -- waiting -------------------------------------------------------------------------------------------


def test_results_are_awaited_together(file_app: Celery) -> None:
    @file_app.task
    async def double(n: int) -> int:
        return n * 2

    async def main() -> list[int]:
        async with file_app.runtime():
            results = [await double.adelay(n) for n in range(10)]
            return list(await asyncio.gather(*results))

    assert asyncio.run(main()) == [n * 2 for n in range(10)]


def test_an_awaited_failure_is_raised(file_app: Celery) -> None:
    @file_app.task
    async def fail() -> None:
        raise ValueError("as asked")

    async def main() -> None:
        with pytest.raises(ValueError, match="as asked"):
            await (await fail.adelay())

    asyncio.run(main())


def test_waiting_has_an_end(file_app: Celery, gate: Gate) -> None:
    @file_app.task
    def held() -> None:
        gate.wait()

    async def main() -> None:
        result = await held.adelay()
        with pytest.raises(CeleryTimeoutError):
            await result.aget(timeout=0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await result
        gate.open()
        await result

    asyncio.run(main())


def test_results_of_another_process_are_awaited_by_their_id(file_app: Celery) -> None:
    @file_app.task
    def add(a: int, b: int) -> int:
        return a + b

    task_id = add.delay(1, 2).id

    async def main() -> Any:
        return await file_app.AsyncResult(task_id)

    assert asyncio.run(main()) == 3


# -- inside tasks --------------------------------------------------------------------------------------


def test_handlers_and_signals_of_a_coroutine_task_do_not_block_its_loop(
    file_app: Celery, receive: Any
) -> None:
    seen: dict[str, str] = {}

    def note(name: str) -> None:
        seen[name] = threading.current_thread().name

    class Noting(file_app.Task):  # type: ignore[misc, name-defined]
        abstract = True

        def on_success(self, *args: Any) -> None:
            note("on_success")

    receive(signals.task_prerun, lambda **kw: note("prerun"))
    receive(signals.task_postrun, lambda **kw: note("postrun"))

    @file_app.task(base=Noting)
    async def work() -> None:
        note("body")

    async def main() -> None:
        async with file_app.runtime():
            await (await work.adelay())

    asyncio.run(main())
    here = threading.current_thread().name
    assert seen.pop("body") == here
    assert set(seen) == {"on_success", "prerun", "postrun"}
    assert here not in seen.values()


def test_a_coroutine_may_be_retried_and_replaced(file_app: Celery) -> None:
    @file_app.task(bind=True, default_retry_delay=0, max_retries=2)
    async def again(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry()
        return int(self.request.retries)

    @file_app.task(bind=True)
    async def other(self: Any) -> None:
        raise self.replace(again.s())

    assert again.delay().get(timeout=DEADLINE_S) == 2
    assert other.delay().get(timeout=DEADLINE_S) == 2


def test_a_coroutine_that_is_cancelled_from_inside_fails(file_app: Celery, database: Path) -> None:
    @file_app.task
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    result = work.delay()
    with pytest.raises(Exception, match="CancelledError"):
        result.get(timeout=DEADLINE_S)
    assert states_of(database) == {result.id: "FAILURE"}


def test_a_progress_state_is_seen_while_a_coroutine_runs(file_app: Celery) -> None:
    go_on = threading.Event()

    @file_app.task(bind=True)
    async def work(self: Any) -> str:
        await asyncio.to_thread(self.update_state, state="PROGRESS", meta={"done": 1})
        reported.set()
        await asyncio.to_thread(go_on.wait, DEADLINE_S)
        return "done"

    reported = threading.Event()
    result: Any = work.delay()
    assert reported.wait(DEADLINE_S)
    assert (result.state, result.info) == ("PROGRESS", {"done": 1})
    go_on.set()
    assert result.get(timeout=DEADLINE_S) == "done"


def test_a_loop_that_ends_without_leaving_the_block_is_no_trap(file_app: Celery) -> None:
    """The loop of the program is gone: coroutines go to the runtime's own."""

    @file_app.task
    async def where() -> str:
        return threading.current_thread().name

    async def start_on_this_loop() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(lambda: file_app.start_runtime(loop=loop))

    asyncio.run(start_on_this_loop())
    assert where.delay().get(timeout=DEADLINE_S) == "celerylite-loop"
