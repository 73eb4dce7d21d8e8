"""A chain of 100 tasks, from the call until its last result."""

from __future__ import annotations

from compat_tests.bench.measures._running import seconds_of, started
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="chain",
    title="Chain of 100",
    figures=(Figure(key="s", title="s", digits=3),),
    contenders=(
        "celerylite",
        "celerylite-postgresql",
        "celerylite-mysql",
        "celery",
        "celery-sql",
        "huey",
        "dramatiq",
    ),
    rounds=(2, 3),
)


def run(order: Order) -> dict[str, float]:
    """The second one; the first does not count."""
    length = order.of(tiny=5, quick=100, full=100)
    with started(order.contender) as contender:
        contender.chain(length)
        return {"s": seconds_of(lambda: contender.chain(length))}
