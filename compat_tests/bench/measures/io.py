"""1,000 tasks that wait 50 ms, 100 at once: 0.50 s would be ideal."""

from __future__ import annotations

import time

from compat_tests.bench.measures._running import WARM, started
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="io",
    title="1,000 tasks of 50 ms, 100 at once (ideal 0.50 s)",
    figures=(
        Figure(key="threads_s", title="in threads, s", digits=2),
        Figure(key="coroutines_s", title="as coroutines, s", digits=2),
    ),
    contenders=(
        "celerylite",
        "celerylite-postgresql",
        "celerylite-mysql",
        "celery",
        "huey",
        "dramatiq",
        "procrastinate",
    ),
    rounds=(1, 3),
)

#: Who runs coroutines alone; all others, and celerylite too, run plain functions in threads.
_ONLY_COROUTINES = ("procrastinate",)


def run(order: Order) -> dict[str, float]:
    """From the first call until the last result is stored."""
    count, figures = order.of(tiny=20, quick=1000, full=1000), {}
    with started(order.contender, concurrency=100) as contender:
        stored = WARM
        for coroutines in _kinds(order.contender):
            stored += count
            began = time.perf_counter()
            contender.publish_pauses(count, coroutines=coroutines)
            contender.wait(stored)
            key = "coroutines_s" if coroutines else "threads_s"
            figures[key] = time.perf_counter() - began
    return figures


def _kinds(contender: str) -> tuple[bool, ...]:
    """Whether as coroutines: both for celerylite."""
    if contender.startswith("celerylite"):
        return (False, True)
    return (contender in _ONLY_COROUTINES,)
