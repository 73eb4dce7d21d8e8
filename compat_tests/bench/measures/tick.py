"""What a tick costs when none of 10,000 entries is due."""

from __future__ import annotations

from compat_tests.bench.measures._ticking import tick_us
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="tick",
    title="Tick of 10,000 entries, none due",
    figures=(Figure(key="us", title="us", digits=1),),
    contenders=("celerylite", "celery", "apscheduler"),
    rounds=(1, 3),
)


def run(order: Order) -> dict[str, float]:
    """The schedule is loaded before."""
    return {"us": tick_us(order, one_due=False, entries=order.of(tiny=20, quick=10_000, full=10_000))}
