"""How many calls a second 100 coroutines on one loop enqueue, each waiting for its own; nothing runs them."""

from __future__ import annotations

from compat_tests.bench.measures._running import made, rate_of, sized
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

_CALLERS = 100

SPEC = Spec(
    name="enqueue-100",
    title="Enqueue, 100 callers on a loop, nothing runs",
    figures=(
        Figure(key="per_s", title="calls/s"),
        Figure(key="cpu_us", title="CPU us per call, caller's process"),
    ),
    contenders=(
        "celerylite",
        "celerylite-postgresql",
        "celerylite-mysql",
        "procrastinate",
        "floor-group",
    ),
    rounds=(2, 4),
)


def run(order: Order) -> dict[str, float]:
    """After one round of all callers that does not count."""
    count = sized(order)
    with made(order.contender) as contender:
        contender.publish_together(_CALLERS, _CALLERS)
        return rate_of(lambda: contender.publish_together(_CALLERS, count), count)
