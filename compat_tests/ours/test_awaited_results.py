"""Awaiting results: the loop goes on, outcomes arrive, and a cancelled wait leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celerylite import Celery, group
from celerylite.contrib.testing.worker import start_worker
from celerylite.exceptions import TimeoutError
from celerylite.result import EagerResult

WAIT_S = 5


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("awaited", broker_url="memory://", result_backend="cache+memory://")
    yield made
    made.close()


@pytest.fixture
def gate() -> threading.Event:
    """Tasks that wait for it end when it is set."""
    return threading.Event()


@pytest.fixture
def tasks(app: Celery, gate: threading.Event) -> Iterator[Any]:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fail")
    def fail() -> None:
        raise KeyError("lost")

    @app.task(name="wait")
    def wait() -> str:
        gate.wait(WAIT_S)
        return "open"

    with start_worker(app, perform_ping_check=False, concurrency=2, pool="threads"):
        yield app.tasks
        gate.set()


def test_a_result_can_be_awaited(tasks: Any) -> None:
    async def main() -> tuple[int, int]:
        return await tasks["add"].delay(1, 2), await tasks["add"].delay(3, 4).aget(timeout=WAIT_S)

    assert asyncio.run(main()) == (3, 7)


def test_an_awaited_failure_is_raised_or_returned(tasks: Any) -> None:
    async def main() -> Any:
        with pytest.raises(KeyError, match="lost"):
            await tasks["fail"].delay()
        return await tasks["fail"].delay().aget(propagate=False)

    assert isinstance(asyncio.run(main()), KeyError)


def test_the_loop_goes_on_while_a_result_is_awaited(tasks: Any, gate: threading.Event) -> None:
    async def main() -> str:
        async def opener() -> None:
            gate.set()

        waiting = asyncio.ensure_future(tasks["wait"].delay().aget(timeout=WAIT_S))
        await asyncio.gather(opener(), waiting)
        opened: str = waiting.result()
        return opened

    assert asyncio.run(main()) == "open"


def test_an_awaited_result_times_out(tasks: Any) -> None:
    async def main() -> None:
        await tasks["wait"].delay().aget(timeout=0.01)

    with pytest.raises(TimeoutError, match="The operation timed out"):
        asyncio.run(main())


def test_a_group_can_be_awaited(tasks: Any) -> None:
    async def main() -> Any:
        return await group(tasks["add"].s(n, n) for n in range(3))()

    assert asyncio.run(main()) == [0, 2, 4]


def test_an_eager_result_can_be_awaited() -> None:
    async def main() -> Any:
        return await EagerResult("id", 42, "SUCCESS")

    assert asyncio.run(main()) == 42


def test_a_cancelled_wait_ends_its_thread(tasks: Any) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(tasks["wait"].delay().aget(), timeout=0.01)

    asyncio.run(main())
    left = [thread for thread in threading.enumerate() if thread.name == "celerylite-await"]
    for thread in left:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in left)
