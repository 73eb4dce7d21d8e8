"""What a tick costs when one entry is due, and is published, beside 10 and beside 10,000 that are not."""

from __future__ import annotations

from compat_tests.bench.measures._ticking import tick_us
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="tick-firing",
    title="Tick with one entry due beside others",
    figures=(
        Figure(key="few_us", title="of 10, us"),
        Figure(key="us", title="of 10,000, us"),
        Figure(key="ratio", title="ratio", digits=2),
    ),
    contenders=("celerylite", "celery", "apscheduler"),
    rounds=(1, 3),
)


def run(order: Order) -> dict[str, float]:
    """celerylite writes the tick and the message to SQLite; the others keep nothing."""
    few = tick_us(order, one_due=True, entries=10)
    many = tick_us(order, one_due=True, entries=order.of(tiny=20, quick=10_000, full=10_000))
    return {"few_us": few, "us": many, "ratio": many / few}
