"""A chord of 100 members, from the call until its body's result."""

from __future__ import annotations

from compat_tests.bench.measures._running import seconds_of, started
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="chord-100",
    title="Chord of 100",
    figures=(
        Figure(key="s", title="s", digits=3),
        Figure(key="member_us", title="us per member"),
    ),
    contenders=("celerylite", "celerylite-postgresql", "celerylite-mysql", "celery", "celery-sql"),
    rounds=(2, 4),
)


def run(order: Order) -> dict[str, float]:
    """The second one; the first does not count."""
    members = order.of(tiny=5, quick=100, full=100)
    with started(order.contender) as contender:
        contender.chord(members)
        seconds = seconds_of(lambda: contender.chord(members))
    return {"s": seconds, "member_us": 1e6 * seconds / members}
