"""Calls from many threads, from coroutines and from inside tasks at once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def test_many_threads_send_at_once(running_app: Any) -> None:
    @running_app.task
    def double(x: int) -> int:
        return x * 2

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(double.delay, range(80)))
    assert [result.get(timeout=10) for result in results] == [x * 2 for x in range(80)]
    assert len({result.id for result in results}) == 80


def test_many_threads_wait_at_once(running_app: Any) -> None:
    @running_app.task
    def double(x: int) -> int:
        return x * 2

    def call(x: int) -> Any:
        return double.delay(x).get(timeout=10)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(40))) == [x * 2 for x in range(40)]


def test_two_threads_wait_for_one_result(running_app: Any) -> None:
    gate = threading.Event()

    @running_app.task
    def job() -> str:
        gate.wait(10)
        return "both"

    result = job.delay()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(running_app.AsyncResult(result.id).get, timeout=10) for _ in range(2)]
        gate.set()
        assert [future.result(10) for future in waiting] == ["both", "both"]


def test_a_coroutine_can_send_and_wait_in_a_thread(running_app: Any) -> None:
    @running_app.task
    def double(x: int) -> int:
        return x * 2

    async def endpoint() -> Any:
        result = double.delay(4)
        return await asyncio.to_thread(result.get, timeout=10)

    assert asyncio.run(endpoint()) == 8


def test_a_task_in_a_thread_of_its_own_sees_the_default_app(lib: Any, running_app: Any) -> None:
    running_app.set_default()
    seen: list[Any] = []

    @running_app.task
    def job() -> str:
        thread = threading.Thread(target=lambda: seen.append(lib.current_app.main))
        thread.start()
        thread.join()
        return "done"

    assert job.delay().get(timeout=10) == "done"
    assert seen == ["tests"]


def test_requests_of_tasks_that_run_at_once_are_apart(running_app: Any) -> None:
    barrier = threading.Barrier(3)

    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        barrier.wait(10)
        own = self.request.id
        barrier.wait(10)
        return [own, self.request.id]

    results = [job.delay() for _ in range(3)]
    for result in results:
        assert result.get(timeout=10) == [result.id, result.id]


def test_the_current_task_of_threads_that_run_at_once_is_apart(lib: Any, running_app: Any) -> None:
    barrier = threading.Barrier(2)

    def name_of_current() -> str:
        barrier.wait(10)
        return str(lib.current_task.name)

    @running_app.task(name="apart.one")
    def one() -> str:
        return name_of_current()

    @running_app.task(name="apart.two")
    def two() -> str:
        return name_of_current()

    first, second = one.delay(), two.delay()
    assert (first.get(timeout=10), second.get(timeout=10)) == ("apart.one", "apart.two")


def test_a_task_can_send_many_others(running_app: Any, journal: Any) -> None:
    @running_app.task
    def leaf(x: int) -> None:
        journal.note("leaf")

    @running_app.task
    def fan_out(count: int) -> None:
        for x in range(count):
            leaf.delay(x)

    fan_out.delay(50)
    journal.until("leaf", times=50)


def test_a_signature_travels_as_an_argument_and_can_be_called(lib: Any, running_app: Any) -> None:
    @running_app.task
    def add(x: int, y: int) -> int:
        return x + y

    @running_app.task
    def call(sig: Any) -> str:
        return str(lib.signature(sig).delay().id)

    result = call.delay(add.s(1, 2))
    assert running_app.AsyncResult(result.get(timeout=10)).get(timeout=10) == 3


def test_the_same_id_sent_twice_runs_twice_and_keeps_the_first_success(
    running_app: Any, journal: Any
) -> None:
    @running_app.task
    def job(x: int) -> int:
        journal.note("ran")
        return x

    assert job.apply_async((1,), task_id="same").get(timeout=10) == 1
    job.apply_async((2,), task_id="same")
    journal.until("ran", times=2)
    assert running_app.AsyncResult("same").get(timeout=10) == 1


def test_replacing_with_a_chain_gives_its_last_value(lib: Any, running_app: Any) -> None:
    @running_app.task
    def add(x: int, y: int) -> int:
        return x + y

    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        raise self.replace(lib.chain(add.s(1, 2), add.s(10)))

    assert job.delay().get(timeout=10) == 13


def test_replacing_in_a_chain_goes_on_with_the_rest(lib: Any, running_app: Any) -> None:
    @running_app.task
    def add(x: int, y: int) -> int:
        return x + y

    @running_app.task(bind=True)
    def job(self: Any, x: int) -> Any:
        raise self.replace(add.s(x, 10))

    assert lib.chain(add.s(1, 1), job.s(), add.s(100))().get(timeout=10) == 112


def test_replacing_with_a_group_gives_the_list(lib: Any, running_app: Any) -> None:
    @running_app.task
    def add(x: int, y: int) -> int:
        return x + y

    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        raise self.replace(lib.group(add.s(1, 1), add.s(2, 2)))

    assert job.delay().get(timeout=10) == [2, 4]


def test_a_replacement_keeps_the_id(running_app: Any) -> None:
    @running_app.task(bind=True)
    def other(self: Any) -> Any:
        return self.request.id

    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        raise self.replace(other.s())

    result = job.delay()
    assert result.get(timeout=10) == result.id


def test_a_rate_limit_that_is_not_reached_changes_nothing(running_app: Any) -> None:
    @running_app.task(rate_limit="1000/s")
    def job(x: int) -> int:
        return x

    assert [job.delay(x).get(timeout=10) for x in range(3)] == [0, 1, 2]


def test_late_acknowledgement_changes_no_result(running_app: Any) -> None:
    @running_app.task(acks_late=True)
    def job(x: int) -> int:
        return x

    assert job.delay(3).get(timeout=10) == 3
