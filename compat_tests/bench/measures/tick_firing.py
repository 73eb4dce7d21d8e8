"""What a tick costs when one more entry than 10,000 is due, and is published."""

from __future__ import annotations

from compat_tests.bench.measures._ticking import tick_us
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="tick-firing",
    title="Tick of 10,000 entries, one due",
    figures=(Figure(key="us", title="us"),),
    contenders=("celerylite", "celery", "apscheduler"),
    rounds=(2, 3),
)


def run(order: Order) -> dict[str, float]:
    """celerylite writes the tick and the message to SQLite; the others keep nothing."""
    return {"us": tick_us(order, one_due=True)}
