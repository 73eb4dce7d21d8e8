"""How many calls a second one thread enqueues while nothing runs them."""

from __future__ import annotations

from compat_tests.bench.measures._running import made, rate_of, sized
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="enqueue",
    title="Enqueue, one thread, nothing runs",
    figures=(
        Figure(key="per_s", title="calls/s"),
        Figure(key="cpu_us", title="CPU us per call, caller's process"),
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
        "floor-commit",
        "floor-commit-postgresql",
        "floor-core",
    ),
)


def run(order: Order) -> dict[str, float]:
    """After some that do not count."""
    count = sized(order)
    with made(order.contender) as contender:
        contender.publish(50)
        return rate_of(lambda: contender.publish(count), count)
