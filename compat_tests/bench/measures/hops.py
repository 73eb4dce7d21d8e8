"""The floor under a round trip in one process: from one thread to another, into the loop, a new coroutine."""

from __future__ import annotations

import asyncio
import queue
import statistics
import threading
import time
from collections.abc import Awaitable, Callable

from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="hops",
    title="Hops",
    figures=(Figure(key="us", title="p50 us", digits=1),),
    contenders=("floor-thread", "floor-executor", "floor-task"),
    rounds=(3, 5),
    reference="floor-thread",
)


def run(order: Order) -> dict[str, float]:
    """There and back, one at a time."""
    count = order.of(tiny=10, quick=2_000, full=5_000)
    return {"us": 1e6 * statistics.median(_LAPS[order.contender](count))}


def _thread(count: int) -> list[float]:
    there: queue.SimpleQueue[bool] = queue.SimpleQueue()
    back: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def answer() -> None:
        while there.get():
            back.put(True)

    other = threading.Thread(target=answer)
    other.start()
    laps = []
    for _ in range(count):
        began = time.perf_counter()
        there.put(True)
        back.get()
        laps.append(time.perf_counter() - began)
    there.put(False)
    other.join()
    return laps


async def _await_each(start: Callable[[], Awaitable[object]], count: int) -> list[float]:
    laps = []
    for _ in range(count):
        began = time.perf_counter()
        await start()
        laps.append(time.perf_counter() - began)
    return laps


def _executor(count: int) -> list[float]:
    async def laps() -> list[float]:
        loop = asyncio.get_running_loop()
        return await _await_each(lambda: loop.run_in_executor(None, _nothing), count)

    return asyncio.run(laps())


def _task(count: int) -> list[float]:
    async def nothing() -> None:
        pass

    return asyncio.run(_await_each(lambda: asyncio.create_task(nothing()), count))


def _nothing() -> None:
    pass


_LAPS = {"floor-thread": _thread, "floor-executor": _executor, "floor-task": _task}
