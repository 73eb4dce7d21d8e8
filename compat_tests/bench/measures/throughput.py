"""No-op tasks from the first call until the last result is stored, and what that costs all processes."""

from __future__ import annotations

import time

from compat_tests.bench.measures._running import cpu_of, made, sized
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="throughput",
    title="No-op tasks end to end, results stored",
    figures=(
        Figure(key="per_s", title="tasks/s"),
        Figure(key="enqueue_per_s", title="enqueue/s meanwhile"),
        Figure(key="cpu_s_per_1000", title="CPU s per 1,000", digits=3),
    ),
    contenders=(
        "celerylite",
        "celerylite-postgresql",
        "celerylite-mysql",
        "celerylite-memory",
        "celery",
        "celery-sql",
        "huey",
        "dramatiq",
        "procrastinate",
        "floor-queue",
        "floor-queue-core",
        "floor-queue-postgresql",
    ),
)

_WARM = 50


def run(order: Order) -> dict[str, float]:
    """One thread publishes; `wait` looks for the results 100 times a second at the most."""
    count = sized(order)
    with made(order.contender) as contender:
        contender.start()
        contender.publish(_WARM)
        contender.wait(_WARM)
        cpu, began = cpu_of(contender), time.perf_counter()
        contender.publish(count)
        published = time.perf_counter()
        contender.wait(_WARM + count)
        ended = time.perf_counter()
        cpu = cpu_of(contender) - cpu
    return {
        "per_s": count / (ended - began),
        "enqueue_per_s": count / (published - began),
        "cpu_s_per_1000": 1000 * cpu / count,
    }
