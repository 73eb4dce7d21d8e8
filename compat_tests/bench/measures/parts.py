"""Where the time of one call goes: its parts one by one, in one thread, with nothing that competes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celerylite import Celery
from celerylite._store import Delivery
from celerylite._store.messages import row_of
from celerylite.worker import Runtime
from celerylite.worker._slots import Kind
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="parts",
    title="Parts of a call, one thread",
    figures=(
        Figure(key="message_us", title="make the message, us", digits=0),
        Figure(key="publish_us", title="commit it, us", digits=0),
        Figure(key="row_us", title="of that sqlite3, us", digits=0),
        Figure(key="claim_us", title="claim and begin it, us", digits=0),
        Figure(key="steps_us", title="run the steps, us", digits=0),
        Figure(key="outcome_us", title="commit the outcome, us", digits=0),
    ),
    contenders=("celerylite",),
)

#: As many as a process may claim at once.
_AT_ONCE = 100


def run(order: Order) -> dict[str, float]:
    """No-ops on an SQLite file. What is claimed has waited in the database."""
    count = order.of(tiny=_AT_ONCE, quick=2_000, full=5_000)
    app = Celery("bench")
    app.conf.celerylite_runtime = "off"
    try:
        return {**_calling(app, count), **_running(app, count)}
    finally:
        app.close()


def _noop() -> int:
    return 1


def _calling(app: Celery, count: int) -> dict[str, float]:
    noop = app.task(_noop)
    noop.delay()
    store: Any = app.store
    made: list[Any] = []
    publish = store.publish

    def take(outgoing: Any) -> list[None]:
        made.append(outgoing)
        return [None]

    store.publish = take
    message_us = _us(noop.delay, count)
    store.publish = publish
    publish_us = _us(lambda: publish(made[0]), count)
    return {"message_us": message_us, "publish_us": publish_us, "row_us": _row_us(store, made[0][0], count)}


def _row_us(store: Any, outgoing: Any, count: int) -> float:
    """The same row in a transaction of its own, without a line of ours between."""
    insert, begin = store._messages._insert, store.database.dialect.begin
    values = insert.bind(row_of(outgoing, time.time())[0])
    connection = store.database.take()
    cursor = connection.cursor()

    def commit() -> None:
        cursor.execute(begin)
        cursor.execute(insert.sql, values)
        cursor.execute("COMMIT")

    try:
        return _us(commit, count)
    finally:
        cursor.close()
        store.database.put(connection)


def _running(app: Celery, count: int) -> dict[str, float]:
    app.store.purge()
    for _ in range(2 * count):
        app.tasks[f"{__name__}._noop"].delay()
    # It takes from a queue that nobody sends to: what runs is what is claimed here.
    runtime = Runtime(app, app.store, queues=["none"])
    runtime.start()
    try:
        began = time.perf_counter()
        claimed = _claimed(app, runtime)
        claim_us = 1e6 * (time.perf_counter() - began) / len(claimed)
        with_outcome = iter(claimed[:count])
        both_us = _us(lambda: runtime._run_delivery(Kind.THREAD, next(with_outcome)), count)
        runtime.settle_later = runtime.forget_execution  # type: ignore[method-assign]
        without = iter(claimed[count:])
        steps_us = _us(lambda: runtime._run_delivery(Kind.THREAD, next(without)), count)
    finally:
        runtime.stop(grace=0.0)
    return {"claim_us": claim_us, "steps_us": steps_us, "outcome_us": both_us - steps_us}


def _claimed(app: Celery, runtime: Runtime) -> list[Delivery]:
    claimed: list[Delivery] = []
    while found := app.store.claim(runtime.owner, ["celery"], _AT_ONCE).deliveries:
        claimed += found
        for delivery in found:
            app.store.begin([delivery])
    return claimed


def _us(action: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        action()
    return 1e6 * (time.perf_counter() - began) / count
